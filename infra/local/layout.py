"""Where the stack lies and listens, and its passwords: chosen once, kept in one folder."""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
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
FREE = range(20000, 32000)  # above those of Ray's workers, below those of outgoing connections


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
        raise StackError(
            f"{file} cannot be read ({error}): remove that file, and no other; it holds flags only"
        ) from error


def with_inner_ports(layout: Layout) -> Layout:
    """The layout with inner ports chosen anew."""
    free = free_ports(len(INNER_PORTS))
    return replace(layout, inner_ports=dict(zip(INNER_PORTS, free, strict=True)))


def remember(layout: Layout) -> None:
    """Write the layout down."""
    layout.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    chosen = {**asdict(layout), "home": str(layout.home)}
    private(layout.home / "layout.json", json.dumps(chosen, indent=1))


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
    """How many NVIDIA GPUs may be used: by their device files, and CUDA_VISIBLE_DEVICES if set."""
    there = len([*Path("/dev").glob("nvidia[0-9]*")])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not there:
        return there
    names = [name.strip() for name in visible.split(",")]
    numbered = [name for name in names if name.isdigit() and int(name) < there]
    return len(numbered) or len([name for name in names if name.startswith(("GPU-", "MIG-"))])


def listens(port: int) -> bool:
    """Whether anybody listens on a port of loopback."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=5):
        return True
    return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on: all held at once, so that no two are the same."""
    held: list[int] = []
    with ExitStack() as stack:
        for port in random.SystemRandom().sample(FREE, len(FREE)):
            if len(held) == count:
                break
            with suppress(OSError):
                stack.enter_context(socket.socket()).bind(("", port))
                held.append(port)
    return held
