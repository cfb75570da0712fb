"""Where the stack lies and listens, and its passwords: chosen once, kept in one folder."""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.local.service import StackError

HOST = "127.0.0.1"
USER = "stageflow"  # of every server
MOST_WORKERS = 8
WEED_PORTS = (
    *("s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc"),
)

NODE_PORTS = tuple(
    f"node{place}.{what}" for place in range(1, MOST_WORKERS + 2) for what in ("agent", "metrics")
)
INNER_PORTS = (*WEED_PORTS, *NODE_PORTS, "ray.client")


def option(text: str, default: Any) -> Any:
    """A field that is a flag of the command, with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What may be chosen."""

    home: Path
    postgres_port: int = option("of PostgreSQL", 15432)
    s3_port: int = option("of SeaweedFS", 8333)
    mlflow_port: int = option("of MLflow", 5000)
    ray_port: int = option("of Ray's head", 6379)
    dashboard_port: int = option("of Ray's dashboard, which takes jobs", 8265)
    workers: int = option("nodes beside the head; the first has the GPUs, or pretends to", 3)
    cpus: int = option("cores that each node offers; 0: its share of this machine's", 0)
    host: str = option("this machine's address, for others to join Ray; needs --workers 0", "")
    inner_ports: dict[str, int] = field(default_factory=dict)
    """Those that nobody needs to know: chosen among the free ones."""

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= MOST_WORKERS:
            raise StackError(f"--workers is {self.workers}: give 0 to {MOST_WORKERS}")
        if self.host and self.workers:
            raise StackError(
                f"--host is {self.host}: others join the one node of this machine: give --workers 0"
            )

    @property
    def node_cpus(self) -> int:
        """Cores that each node offers."""
        return self.cpus or max(1, (os.cpu_count() or 1) // (self.workers + 1))

    @property
    def postgres_url(self) -> str:
        """Of the server, without a database; the password is taken from PGPASSWORD."""
        return f"postgresql+psycopg2://{USER}@{HOST}:{self.postgres_port}"

    @property
    def s3_url(self) -> str:
        """Endpoint of SeaweedFS."""
        return f"http://{HOST}:{self.s3_port}"

    @property
    def mlflow_url(self) -> str:
        """Address of MLflow's server and UI."""
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def dashboard_url(self) -> str:
        """Address of Ray's dashboard."""
        return f"http://{HOST}:{self.dashboard_port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Passwords:
    """One for each server, made at random."""

    postgres: str
    s3_access: str
    s3_secret: str
    mlflow: str
    mlflow_cookies: str
    ray_token: str


def remembered(home: Path) -> Layout | None:
    """The layout of a stack that lies in `home`, if there is one. Raises StackError."""
    file = home / "layout.json"
    try:
        return Layout(**{**json.loads(file.read_text()), "home": home})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StackError(f"{file} cannot be read ({error}): remove it, and {home}") from error


def remember(layout: Layout) -> Layout:
    """Write the layout down, with free ports where none was chosen."""
    free = free_ports(len(INNER_PORTS))
    inner = layout.inner_ports or dict(zip(INNER_PORTS, free, strict=True))
    chosen = {**asdict(layout), "inner_ports": inner}
    layout.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    private(layout.home / "layout.json", json.dumps({**chosen, "home": str(layout.home)}, indent=1))
    return Layout(**chosen)


def passwords(home: Path) -> Passwords:
    """The passwords of the stack in `home`, made at the first call."""
    file = home / "passwords.json"
    if not file.exists():
        made = {name: secrets.token_hex(16) for name in Passwords.__dataclass_fields__}
        private(file, json.dumps(made, indent=1))
    return Passwords(**json.loads(file.read_text()))


def private(file: Path, text: str) -> Path:
    """Write a file that only its owner can read."""
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    return file


def gpus() -> int:
    """How many NVIDIA GPUs this machine has, by their device files."""
    return len([*Path("/dev").glob("nvidia[0-9]*")])


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on: all held at once, so that no two are the same."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in held]
