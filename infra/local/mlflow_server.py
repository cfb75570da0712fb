"""MLflow's tracking server: runs in PostgreSQL, artifacts proxied to S3, accounts on."""

from __future__ import annotations

import base64
import sys
import urllib.error
import urllib.request
from pathlib import Path

from infra.local import seaweedfs
from infra.local.environment import clean_environment
from infra.local.layout import HOST, USER, Layout, Passwords, private
from infra.local.service import Service

PROCESSES = 2  # each some 500 MB


def prepare(layout: Layout) -> None:
    """Write down where the accounts are."""
    folder = layout.home / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    private(
        folder / "accounts.ini",
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {_database(layout)}\n"
        f"admin_username = {USER}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 60\n",
    )


def service(layout: Layout, keys: Passwords) -> Service:
    """The server, which takes requests for its own address only."""
    folder = layout.home / "mlflow"
    hosts = [
        f"{host}{port}" for host in (HOST, "localhost") for port in ("", f":{layout.mlflow_port}")
    ]
    return Service(
        name="mlflow",
        command=[
            *(str(Path(sys.executable).parent / "mlflow"), "server", "--app-name=basic-auth"),
            *(f"--host={HOST}", f"--port={layout.mlflow_port}", f"--workers={PROCESSES}"),
            *("--serve-artifacts", f"--artifacts-destination=s3://{seaweedfs.MLFLOW}"),
            f"--allowed-hosts={','.join(hosts)}",
        ],
        environment=clean_environment(
            HOME=str(folder),
            MLFLOW_BACKEND_STORE_URI=_database(layout),
            PGPASSWORD=keys.postgres,
            MLFLOW_AUTH_CONFIG_PATH=str(folder / "accounts.ini"),
            MLFLOW_AUTH_ADMIN_PASSWORD=keys.mlflow,
            MLFLOW_FLASK_SERVER_SECRET_KEY=keys.mlflow_cookies,
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",  # four times the memory, for nothing
            **seaweedfs.environment(layout, keys),
        ),
        healthy=lambda: _status(layout, keys.mlflow) == 200 and _status(layout) == 401,
        folder=folder,
    )


def environment(layout: Layout, keys: Passwords) -> dict[str, str]:
    """What MLflow's client needs to be let in."""
    return {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": keys.mlflow}


def _database(layout: Layout) -> str:
    return f"{layout.postgres_url}/mlflow"


def _status(layout: Layout, password: str = "") -> int:
    """How the server answers a request for experiments, with an account or without."""
    request = urllib.request.Request(
        f"{layout.mlflow_url}/api/2.0/mlflow/experiments/get?experiment_id=0"
    )
    if password:
        account = base64.b64encode(f"{USER}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {account}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
