"""Who has no password does not get in, and what is asked of the servers is theirs alone."""

from __future__ import annotations

import io
import ipaddress
import os
import secrets
import socket
import ssl
import subprocess
import sys
from base64 import b64encode
from contextlib import closing, suppress
from pathlib import Path

import boto3
import psutil
import psycopg2
import pytest
from botocore.exceptions import ClientError

from infra.local import ray_cluster, seaweedfs
from infra.local.identity import in_sessions
from infra.local.stack import Stack
from tests.integration.stack.conftest import ROOT, Cluster, sessions, status


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


def shell(cluster: Cluster, folder: Path) -> str:
    """What SeaweedFS's own shell tells; it tries for ever where it is not let in."""
    ports = cluster.stack.layout.inner_ports
    where = (
        f"-{part}=127.0.0.1:{ports[f'{part}.port']}.{ports[f'{part}.port.grpc']}"
        for part in ("master", "filer")
    )
    try:
        done = subprocess.run(
            [seaweedfs.program(), "shell", *where],
            input=b"s3.configure\nfs.ls /buckets\nexit\n",
            cwd=folder,
            env={"PATH": os.defpath, "HOME": str(folder)},
            capture_output=True,
            timeout=8,
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode()
    return done.stdout.decode()


def test_s3_s_keys_are_not_told(cluster: Cluster, tmp_path: Path) -> None:
    """To no shell without the certificate; with it, the same commands tell them."""
    secret = cluster.stack.keys.s3_secret
    told = shell(cluster, tmp_path)
    assert secret not in told
    assert "stageflow" not in told
    assert secret in shell(cluster, cluster.stack.layout.home / "seaweedfs")


def test_the_inner_ports_of_s3_want_a_certificate(cluster: Cluster) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    ports = cluster.stack.layout.inner_ports
    for name in ("s3.port.grpc", "master.port.grpc", "volume.port.grpc", "filer.port.grpc"):
        with (
            socket.create_connection(("127.0.0.1", ports[name]), timeout=20) as plain,
            context.wrap_socket(plain) as wrapped,
        ):
            wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
                wrapped.recv(100)


def test_large_objects_are_intact(cluster: Cluster) -> None:
    """What goes from part to part inside the server."""
    body = secrets.token_bytes(20 * 2**20)
    client = seaweedfs.client(cluster.stack.layout, cluster.stack.keys)
    client.upload_fileobj(io.BytesIO(body), "stageflow", "large/object")
    listed = client.list_objects_v2(Bucket="stageflow", Prefix="large/")["Contents"]
    assert [entry["Key"] for entry in listed] == ["large/object"]
    with closing(client.get_object(Bucket="stageflow", Key="large/object")["Body"]) as back:
        assert back.read() == body
    client.delete_object(Bucket="stageflow", Key="large/object")


def test_postgres(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD")
    where = {"host": "127.0.0.1", "port": cluster.stack.layout.postgres_port, "user": "stageflow"}
    for password in (None, "guessed"):
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(dbname="optuna", password=password, **where)


def test_secrets_are_their_owner_s(cluster: Cluster) -> None:
    """No file with a password is for others, and what travels with jobs holds none."""
    home = cluster.stack.layout.home
    inner = ("seaweedfs/s3.json", "seaweedfs/grpc.key", "mlflow/accounts.ini")
    for name in (*inner, "passwords.json", "environment.sh", "node.sh", "ray-token", "layout.json"):
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
    assert all(well for well, _ in cluster.stack.status())


def test_other_flags_are_refused_while_it_runs(cluster: Cluster) -> None:
    home = cluster.stack.layout.home
    before = (home / "layout.json").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "infra.local.stack", "start", f"--home={home}", "--cpus=7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "stop it first: make stack-stop" in done.stderr
    assert before == (home / "layout.json").read_text()


def test_only_ray_listens_beyond_loopback(cluster: Cluster) -> None:
    """And not with its dashboard, which takes jobs."""
    stack = cluster.stack
    everywhere = set()
    for name in stack.processes.alive():
        ports = {port for address, port in listeners(stack, name) if not loopback(address)}
        assert name.startswith("ray-") or not ports, name
        everywhere |= ports
    assert everywhere, "Ray listens on loopback only: say so in infra/local/stack.py"
    assert stack.layout.dashboard_port not in everywhere


def listeners(stack: Stack, name: str) -> list[tuple[str, int]]:
    found = []
    for process in in_sessions(sessions(stack, name)):
        with suppress(psutil.NoSuchProcess):
            known = process.net_connections("tcp")
            found += [(c.laddr.ip, c.laddr.port) for c in known if c.status == psutil.CONN_LISTEN]
    assert found, name
    return found


def loopback(address: str) -> bool:
    return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback


def test_the_room_of_ray_is_its_owner_s(cluster: Cluster) -> None:
    """Everybody may write to what Ray makes in it."""
    assert ray_cluster.room(cluster.stack.layout).stat().st_mode & 0o777 == 0o700
