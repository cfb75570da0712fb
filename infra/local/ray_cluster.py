"""A Ray cluster of several nodes on one machine: each has its own address, cores and caches.

Jobs are submitted to the dashboard, which listens on loopback. Ray's own ports are open on every
interface, as Ray has it for clusters of more than one address; nobody gets in without the token,
but metrics are there for everybody to read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from infra.local.environment import clean_environment, machine_environment
from infra.local.layout import HOST, Layout, Passwords, gpus, private
from infra.local.service import Service, StackError

HEAD, WORKER = "ray-head", "ray-worker"
OBJECT_STORE = 100 * 2**20  # bytes: artifacts go through the store, not through Ray
JOB_STOP_SECONDS = 60  # for a stopped sweep to unwind; Ray's own 3 are too few
DRAIN_SECONDS = 5  # that a node gives its work when it is told to stop
STOP_SECONDS = 30.0


def head(layout: Layout, keys: Passwords, secrets: Mapping[str, str]) -> Service:
    """The node that takes jobs, with the `secrets` that they need in its environment."""
    return _node(
        layout,
        *(keys, secrets, HEAD, 1),
        *("--head", f"--port={layout.ray_port}"),
        f"--ray-client-server-port={layout.inner_ports['ray.client']}",
        *("--include-dashboard=true", f"--dashboard-host={HOST}"),
        f"--dashboard-port={layout.dashboard_port}",
        f"--num-gpus={0 if layout.workers else gpus()}",
    )


def worker(
    layout: Layout, keys: Passwords, secrets: Mapping[str, str], number: int, *, gpu: bool = False
) -> Service:
    """Node `number`, from 1, that joins the head.

    With `gpu` it has this machine's GPUs; where there are none it pretends to have one, and what
    asks for it computes on cores.
    """
    pretended = {"STAGEFLOW_DEVICE": "cpu"} if gpu and not gpus() else {}
    count = max(1, gpus()) if gpu else 0
    return _node(
        layout,
        *(keys, {**secrets, **pretended}, f"{WORKER}-{number}", number + 1),
        *(f"--address={address(layout)}", f"--num-gpus={count}"),
    )


def address(layout: Layout) -> str:
    """Where nodes and drivers join."""
    return f"{_ip(layout, 1)}:{layout.ray_port}"


def environment(layout: Layout) -> dict[str, str]:
    """What Ray's clients need to be let in, and where they submit jobs."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(layout.home / "ray-token"),
        "RAY_API_SERVER_ADDRESS": layout.dashboard_url,
    }


def node_environment(keys: Passwords) -> dict[str, str]:
    """What each node needs to be let in, here and on other machines."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": keys.ray_token,
        "RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_SECONDS),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_SECONDS),
        "RAY_prestart_worker_first_driver": "0",
    }


def prepare(layout: Layout, keys: Passwords) -> None:
    """Write the token where clients look for it, and make the nodes' room. Raises StackError."""
    private(layout.home / "ray-token", keys.ray_token)
    make_room(room(layout))


def make_room(folder: Path) -> None:
    """Make a folder that is ours alone, since everybody may write to what Ray makes in it. Raises
    StackError."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
        raise StackError(f"{folder} is somebody else's: it has to go")
    folder.chmod(0o700)


def clean(layout: Layout, name: str) -> None:
    """Remove what a node that ended leaves behind; its own logs go to those of the others."""
    temporary = _temporary(layout, name)
    for session in temporary.glob("session_2*"):
        shutil.copytree(
            session / "logs",
            layout.home / "logs" / name / session.name,
            ignore=shutil.ignore_patterns("*.sock", "events", "export_events"),
            dirs_exist_ok=True,
        )
    shutil.rmtree(temporary, ignore_errors=True)
    with suppress(OSError):  # others are still there
        room(layout).rmdir()


def _node(
    layout: Layout,
    keys: Passwords,
    secrets: Mapping[str, str],
    name: str,
    place: int,
    *flags: str,
) -> Service:
    agent, metrics = (layout.inner_ports[f"node{place}.{what}"] for what in ("agent", "metrics"))
    folder = layout.home / "nodes" / name
    return Service(
        name=name,
        command=[
            *(str(Path(sys.executable).parent / "ray"), "start", "--block", *flags),
            *(f"--node-ip-address={_ip(layout, place)}", f"--num-cpus={layout.node_cpus}"),
            *(f"--object-store-memory={OBJECT_STORE}", f"--temp-dir={_temporary(layout, name)}"),
            *(f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"),
            *("--disable-usage-stats", "--log-style=record", "--log-color=false"),
        ],
        environment=clean_environment(
            HOME=str(folder),
            STAGEFLOW_HOME=str(folder / "stageflow"),
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            COLUMNS="150",  # of the tables in a job's output
            **machine_environment(layout.host),
            **node_environment(keys),
            **secrets,
        ),
        healthy=lambda: healthy(agent),
        folder=folder,
        patience=STOP_SECONDS,
    )


def healthy(agent: int) -> bool:
    """Whether a node's agent answers, through which jobs are started, and its raylet with it."""
    with urllib.request.urlopen(f"http://{HOST}:{agent}/api/local_raylet_healthz", timeout=10) as a:
        return int(a.status) == 200


def _ip(layout: Layout, place: int) -> str:
    """Address of a node: all of 127.0.0.0/8 is this machine, and 127.0.0.1 is not taken by Ray."""
    return layout.host or f"127.0.0.{place + 1}"


def _temporary(layout: Layout, name: str) -> Path:
    """A node's own; short, since sockets lie in it, whose paths have at most 107 characters."""
    return room(layout) / name


def room(layout: Layout) -> Path:
    """Where its nodes have their own. Named by the stack's home: a port may be another stack's."""
    home = hashlib.sha256(str(layout.home).encode()).hexdigest()
    return Path(tempfile.gettempdir()) / f"stageflow-ray-{home[:8]}"
