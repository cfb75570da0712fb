"""A machine that joins the stack of another one, as a node of its Ray cluster.

    infra/local/join.sh HEAD [flags of `ray start`]     join, or join again
    infra/local/join.sh leave

HEAD is the machine, as ssh knows it without a password, on which `make stack ARGS="--workers 0
--host ADDRESS"` ran. The servers there listen on loopback: here they are reached at the same
addresses, through a tunnel of ssh that is opened again whenever it ends. Ray's own traffic does not
go through it: both machines must reach each other. A node ends when its head does; the same command
brings it back. Other Ray clusters of this machine are left alone.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.local import ray_cluster
from infra.local.environment import clean_environment, machine_environment
from infra.local.handout import minor_version
from infra.local.layout import HOST, free_ports, listens
from infra.local.lock import alone
from infra.local.service import Processes, Service, StackError

LEAVE = "leave"
NODE, TUNNEL = "ray-node", "tunnel"
PATIENCE = {NODE: ray_cluster.STOP_SECONDS, TUNNEL: 2.0}
NODE_FILE = ".stageflow/stack/node.sh"
SSH = ("ssh", "-o", "BatchMode=yes")
FORWARD = ("-N", "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15")
AGAIN_SECONDS = 5  # after a tunnel's end


def told(head: str) -> dict[str, str]:
    """What the head tells those who join. Raises StackError."""
    asked = subprocess.run([*SSH, head, f"cat {NODE_FILE}"], capture_output=True, text=True)
    if asked.returncode:
        raise StackError(f"{head} tells nothing of a stack: {asked.stderr.strip()}")
    return variables(asked.stdout)


def variables(exported: str) -> dict[str, str]:
    """Of a file with lines `export NAME=VALUE`."""
    words = [shlex.split(line)[1] for line in exported.splitlines()]
    return dict(word.split("=", 1) for word in words)


def check(node: Mapping[str, str]) -> None:
    """Raise StackError if this machine cannot be a node of that stack."""
    if node.get("STACK_PYTHON") != minor_version():
        raise StackError(
            f"the head runs Python {node.get('STACK_PYTHON')}, and this machine {minor_version()}: "
            "all nodes need the same"
        )
    taken = [port for port in _ports(node) if listens(port)]
    if taken:
        raise StackError(f"the tunnel needs ports that something listens on here: {taken}")


def tunnel(home: Path, head: str, node: Mapping[str, str]) -> Service:
    """The ports of the head's servers, here; opened again when the connection ends."""
    ports = (f"-L{HOST}:{port}:{HOST}:{port}" for port in _ports(node))
    connect = shlex.join([*SSH, *FORWARD, *ports, head])
    return Service(
        name=TUNNEL,
        command=["/bin/sh", "-c", f"while :; do {connect}; sleep {AGAIN_SECONDS}; done"],
        environment=dict(os.environ),  # ssh's agent, and whatever its configuration names
        healthy=lambda: all(listens(port) for port in _ports(node)),
        folder=home,
    )


def ray_node(home: Path, node: Mapping[str, str], flags: Sequence[str]) -> Service:
    """The node, with the passwords that its jobs need in its environment."""
    [agent] = free_ports(1)
    given = {name: value for name, value in node.items() if not name.startswith("STACK_")}
    return Service(
        name=NODE,
        command=[
            *(str(Path(sys.executable).parent / "ray"), "start", "--block"),
            *(f"--address={node['STACK_HEAD']}", f"--temp-dir={_room() / 'ray'}"),
            *(f"--dashboard-agent-listen-port={agent}", "--disable-usage-stats"),
            *("--log-style=record", "--log-color=false", *flags),
        ],
        environment=clean_environment(
            HOME=str(Path.home()),
            STAGEFLOW_HOME=str(home),
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **{**given, **machine_environment()},
        ),
        healthy=lambda: ray_cluster.healthy(agent),
        folder=home,
    )


def join(home: Path, head: str, flags: Sequence[str]) -> None:
    """Be a node of that head, and of no other. Raises StackError."""
    node = told(head)
    leave(home)
    check(node)
    ray_cluster.make_room(_room())
    run = Processes(home / "joined")
    for service in (tunnel(home, head, node), ray_node(home, node, flags)):
        run.start(service)
        run.wait(service)
        print(f"{service.name:14} started", flush=True)


def leave(home: Path) -> list[str]:
    """Be no node any more; the names of what ran."""
    run, ended = Processes(home / "joined"), []
    for name, patience in PATIENCE.items():
        known = Service(
            name=name, command=(), environment={}, healthy=bool, folder=home, patience=patience
        )
        ended += run.stop([known])
    shutil.rmtree(_room(), ignore_errors=True)
    return ended


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 0; 2 with one line that says what is wrong; 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="infra/local/join.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("head", help="the machine whose cluster is joined, or `leave`")
    given, flags = parser.parse_known_args(arguments)
    home = Path(os.environ.get("STAGEFLOW_HOME") or "~/.stageflow").expanduser().absolute()
    try:
        with alone(home / "joined"):
            if given.head == LEAVE:
                print("\n".join(f"{name:14} stopped" for name in leave(home)) or "nothing runs")
            else:
                join(home, given.head, flags)
    except (StackError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command joins anew", file=sys.stderr)
        return 130
    return 0


def _ports(node: Mapping[str, str]) -> list[int]:
    return [int(port) for port in node["STACK_PORTS"].split()]


def _room() -> Path:
    """Where Ray keeps its sockets and logs while this is a node: a short path."""
    return Path(tempfile.gettempdir()) / f"stageflow-ray-node-{os.geteuid()}"


if __name__ == "__main__":
    sys.exit(main())
