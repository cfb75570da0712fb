"""Real servers on loopback and free ports, one of each for the whole session: SeaweedFS as S3, and
PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import psycopg2
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.local import postgres as local_postgres
from infra.local import seaweedfs
from infra.local.layout import HOST, USER, WEED_PORTS, Layout, free_ports
from infra.local.service import Service, StackError, answers


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Server:
    """Where a running S3 server listens, and the only two keys it takes (with one secret)."""

    endpoint: str
    access_key: str
    reader_key: str
    secret_key: str

    def client(self) -> Any:
        """A boto3 client with all rights."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A SeaweedFS server that dies, with its files, at the end of the session."""
    try:
        weed = seaweedfs.program()
    except StackError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("seaweedfs")
    names = ("s3.port", *WEED_PORTS)
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    server = S3Server(
        endpoint=f"http://127.0.0.1:{ports['s3.port']}",
        access_key=uuid4().hex,
        reader_key=uuid4().hex,
        secret_key=uuid4().hex,
    )
    process = start(weed, folder, ports, server)
    try:
        wait_until_ready(server, process, folder / "log")
        yield server
    finally:
        process.send_signal(signal.SIGKILL)  # a polite stop waits up to 30 s for idle connections
        process.wait()
        for port in ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()
        shutil.rmtree(folder)


def start(
    weed: str, folder: Path, ports: dict[str, int], server: S3Server
) -> subprocess.Popen[bytes]:
    """Start the server with identities; without any it would take every key."""
    identities = [
        identity(server.access_key, server.secret_key, "Admin Read List Tagging Write"),
        identity(server.reader_key, server.secret_key, "Read List"),
    ]
    keys = folder / "s3.json"
    keys.touch(mode=0o600)
    keys.write_text(json.dumps({"identities": identities}))
    sockets = (f"-{part}.localSocket={folder / part}.sock" for part in ("s3", "filer"))
    numbers = (f"-{name}={port}" for name, port in ports.items())
    command = [
        weed,
        "mini",
        f"-dir={folder}",
        f"-s3.config={keys}",
        *seaweedfs.FIXED,
        *sockets,
        *numbers,
    ]
    environment = {"PATH": os.defpath, "HOME": str(folder), "GOMEMLIMIT": "512MiB"}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def identity(access_key: str, secret_key: str, rights: str) -> dict[str, object]:
    """Somebody whom SeaweedFS knows."""
    key = {"accessKey": access_key, "secretKey": secret_key}
    return {"name": access_key, "credentials": [key], "actions": rights.split()}


def wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return after the first put that works; the server calls itself healthy a little earlier."""
    client = server.client()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            bucket = f"ready-{uuid4().hex}"
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="ready", Body=b"")
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
    pytest.fail(f"the S3 server did not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def s3_client(s3_server: S3Server) -> Any:
    """A boto3 client with all rights, for what a store does not do."""
    return s3_server.client()


@pytest.fixture
def bucket(s3_server: S3Server, s3_client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of the test's own, with an environment in which boto3 finds its server."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = f"test-{uuid4().hex}"
    s3_client.create_bucket(Bucket=name)
    yield name
    for page in s3_client.get_paginator("list_objects_v2").paginate(Bucket=name):
        if keys := [{"Key": entry["Key"]} for entry in page.get("Contents", ())]:
            s3_client.delete_objects(Bucket=name, Delete={"Objects": keys, "Quiet": True})
    s3_client.delete_bucket(Bucket=name)


@dataclass(kw_only=True, slots=True)
class PostgresServer:
    """A PostgreSQL, which may be stopped and started again."""

    service: Service
    port: int
    password: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns once it answers."""
        with (self.service.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.service.command,
                cwd=self.service.folder,
                env=dict(self.service.environment),
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not answers(self.service.healthy):
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail((self.service.folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it, whoever is connected."""
        if self.process is not None:
            self.process.send_signal(self.service.stop_signal)
            self.process.wait(60)

    def make_database(self) -> str:
        """Make an empty database; its URL for SQLAlchemy."""
        name = f"test_{uuid4().hex}"
        connection = psycopg2.connect(
            host=HOST, port=self.port, user=USER, password=self.password, dbname="postgres"
        )
        connection.autocommit = True  # a database is not made inside a transaction
        connection.cursor().execute(f"CREATE DATABASE {name}")
        connection.close()
        return f"postgresql+psycopg2://{USER}:{self.password}@{HOST}:{self.port}/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that dies, with its files, at the end of the session."""
    try:
        local_postgres.programs()
    except StackError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        (port,) = free_ports(1)
        layout, password = Layout(home=Path(folder), postgres_port=port), uuid4().hex
        local_postgres.prepare(layout, password)
        service = local_postgres.service(layout, password)
        hasty = replace(service, command=[*service.command, "-c", "fsync=off"])
        server = PostgresServer(service=hasty, port=port, password=password)
        try:
            server.start()
            yield server
        finally:
            server.stop()
