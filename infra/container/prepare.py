"""Make what the servers need once: the bucket, Optuna's tables, the account of sweeps in MLflow."""

import os

import boto3
import optuna
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

BUCKET = "stageflow"


def make_bucket() -> None:
    """Make the bucket, unless it is there."""
    client = boto3.client("s3")
    if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)


def make_tables() -> None:
    """Make the tables of studies: the dashboard does not, and sweeps that start at once collide."""
    optuna.storages.RDBStorage(os.environ["STAGEFLOW_STUDIES"])


def make_account() -> None:
    """Give the account of sweeps its password, as the administrator of MLflow's environment."""
    accounts = get_app_client("basic-auth", os.environ["MLFLOW_TRACKING_URI"])
    password = os.environ["ACCOUNT_PASSWORD"]
    try:
        accounts.create_user("stageflow", password)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        accounts.update_user_password("stageflow", password)


if __name__ == "__main__":
    make_bucket()
    make_tables()
    make_account()
