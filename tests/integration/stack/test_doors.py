"""Who has no password does not get in, and what is asked of the servers is theirs alone."""

from __future__ import annotations

import subprocess
import sys
from base64 import b64encode

import boto3
import psycopg2
import pytest
from botocore.exceptions import ClientError

from tests.integration.stack.conftest import ROOT, Cluster, status


def test_ray(cluster: Cluster) -> None:
    """Neither jobs nor anything else, without the token or with another one."""
    url = cluster.stack.layout.dashboard_url
    token = cluster.stack.keys.ray_token
    for path in ("/api/version", "/api/jobs/", "/nodes?view=summary", "/api/cluster_status"):
        assert status(url + path) == 401
        assert status(url + path, Authorization="Bearer " + "0" * 32) == 403
        assert status(url + path, Authorization=f"Bearer {token}") == 200


def test_mlflow(cluster: Cluster) -> None:
    """Neither UI nor API without an account; and by no other name than its own."""
    layout, keys = cluster.stack.layout, cluster.stack.keys

    def account(password: str) -> str:
        return "Basic " + b64encode(f"stageflow:{password}".encode()).decode()

    for path in (
        "/",
        "/api/2.0/mlflow/experiments/get?experiment_id=0",
        "/ajax-api/2.0/mlflow/users/list",
    ):
        assert status(layout.mlflow_url + path) == 401
        assert status(layout.mlflow_url + path, Authorization=account("guessed" * 2)) == 401
    mine = account(keys.mlflow)
    assert status(f"{layout.mlflow_url}/", Authorization=mine) == 200
    api = f"{layout.mlflow_url}/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert status(api, Authorization=mine) == 200
    assert status(api, Authorization=mine, Host="evil.example") == 403


def test_s3(cluster: Cluster) -> None:
    layout, keys = cluster.stack.layout, cluster.stack.keys
    assert status(f"{layout.s3_url}/stageflow/ready") == 403
    for access, secret in ((keys.s3_access, "guessed"), ("guessed", keys.s3_secret)):
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=layout.s3_url,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            region_name="us-east-1",
        )
        with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|InvalidAccessKeyId"):
            client.list_objects_v2(Bucket="stageflow")


def test_postgres(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD")
    where = {"host": "127.0.0.1", "port": cluster.stack.layout.postgres_port, "user": "stageflow"}
    for password in (None, "guessed"):
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(dbname="optuna", password=password, **where)


def test_secrets_are_their_owner_s(cluster: Cluster) -> None:
    """No file with a password is for others, and what travels with jobs holds none."""
    home = cluster.stack.layout.home
    for name in ("passwords.json", "environment.sh", "ray-token", "layout.json"):
        assert (home / name).stat().st_mode & 0o077 == 0, name
    told = (home / "runtime_env.yaml").read_text()
    assert not [s for s in cluster.stack.secrets.values() if len(s) > 20 and s in told]


def test_a_second_start_does_nothing(cluster: Cluster) -> None:
    """And so does its command, which finds the ports where it left them."""
    home = cluster.stack.layout.home
    before = sorted((file.name, file.read_text()) for file in (home / "run").iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "infra.local.stack", "start", f"--home={home}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[: len(cluster.stack.services)]
    assert [line.split(maxsplit=1)[1] for line in lines] == ["runs already"] * len(lines)
    assert before == sorted((file.name, file.read_text()) for file in (home / "run").iterdir())
    assert all("healthy" in line for line in cluster.stack.status())
