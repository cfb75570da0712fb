"""The platform's servers on one machine, without containers: PostgreSQL, SeaweedFS, MLflow and Ray.

    make stack             start what does not run; with everything running, this only says so
    make stack-stop        end what was started, and keep all data
    python -m infra.local.stack --help    also status, and remove

Everything wants a password or token, all lies in one folder, and all listens on loopback but Ray's
own ports: these are open on every interface, guarded by the token but not encrypted, and whoever
reaches them can read metrics without it.

Ray has a head and several workers as nodes of their own, the first of which has the GPUs or
pretends to have one, so that what happens on a cluster happens here: artifacts go through S3,
caches belong to nodes, nodes may die. With `--workers 0` the head is the one node, with all cores
and GPUs; with `--host` besides, other machines join it (infra/local/join.sh).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from infra.local import handout, mlflow_server, postgres, ray_cluster, seaweedfs
from infra.local.environment import no_proxy
from infra.local.layout import (
    Layout,
    Passwords,
    passwords,
    remember,
    remembered,
    with_inner_ports,
)
from infra.local.lock import alone
from infra.local.service import Processes, Service, StackError, answers

HOME = Path("~/.stageflow/stack")


@dataclass(frozen=True, slots=True)
class Stack:
    """The servers of one layout."""

    layout: Layout
    keys: Passwords

    @property
    def processes(self) -> Processes:
        """What was started of it."""
        return Processes(self.layout.home)

    @property
    def secrets(self) -> dict[str, str]:
        """By which processes of the cluster, and people, are let in by the servers."""
        return {
            "PGPASSWORD": self.keys.postgres,
            **mlflow_server.environment(self.layout, self.keys),
            **seaweedfs.environment(self.layout, self.keys),
        }

    @property
    def addresses(self) -> dict[str, str]:
        """Where a sweep keeps things, without any secret: a job's runtime environment."""
        return {
            "STAGEFLOW_STORE": f"s3://{seaweedfs.STORE}/wsss",
            "STAGEFLOW_STUDIES": f"{self.layout.postgres_url}/optuna",
            "MLFLOW_TRACKING_URI": self.layout.mlflow_url,
        }

    @property
    def services(self) -> list[Service]:
        """All, in the order in which they need each other."""
        layout, keys = self.layout, self.keys
        return [
            postgres.service(layout, keys.postgres),
            seaweedfs.service(layout, keys),
            ray_cluster.head(layout, keys, self.secrets),
            mlflow_server.service(layout, keys),
            *(self.worker(number) for number in range(1, layout.workers + 1)),
        ]

    def worker(self, number: int, *, gpu: bool | None = None) -> Service:
        """A node beside the head; the first one has a GPU unless something else is said."""
        gpu = number == 1 if gpu is None else gpu
        return ray_cluster.worker(self.layout, self.keys, self.secrets, number, gpu=gpu)

    def start(self) -> Iterator[str]:
        """Start what does not run, and tell of each server once it answers. Raises StackError."""
        layout, keys, run = self.layout, self.keys, self.processes
        self._prepare()
        database, s3, head, *others = self.services
        begun = {service.name: run.start(service) for service in (database, s3, head)}
        for service in (database, s3):
            yield self._told(service, begun)
        postgres.make_databases(layout, keys.postgres)
        run.wait(replace(s3, healthy=partial(seaweedfs.takes_objects, layout, keys)))
        yield self._told(head, begun)
        begun |= {service.name: run.start(service) for service in others}
        for service in others:
            yield self._told(service, begun)
        handout.write(layout, keys, self.secrets, self.addresses)

    def stop(self) -> list[str]:
        """End what was started, the nodes first; the names of what ran."""
        recorded = [file.stem for file in sorted((self.layout.home / "run").glob("ray-worker-*"))]
        workers = [self.worker(int(name.rpartition("-")[2])) for name in recorded]
        database, s3, head, mlflow, *_ = self.services
        run = self.processes
        ended = run.stop([*workers, head, mlflow]) + run.stop([s3, database])
        seaweedfs.remove_sockets(self.layout)
        for node in (head, *workers):
            ray_cluster.clean(self.layout, node.name)
        return ended

    def status(self) -> Iterator[tuple[bool, str]]:
        """Of each server whether it is well, and a line that says so."""
        for service in self.services:
            process = self.processes.find(service.name)
            if process is None:
                yield False, f"{service.name:14} does not run"
            else:
                well = answers(service.healthy)
                state = "healthy" if well else "DOES NOT ANSWER"
                yield well, f"{service.name:14} {state}, process {process.pid}"

    def _prepare(self) -> None:
        postgres.prepare(self.layout, self.keys.postgres)
        seaweedfs.prepare(self.layout, self.keys)
        ray_cluster.prepare(self.layout, self.keys)
        mlflow_server.prepare(self.layout)

    def _told(self, service: Service, begun: dict[str, bool]) -> str:
        """What to say of it, once it answers."""
        self.processes.wait(service)
        return f"{service.name:14} {'started' if begun[service.name] else 'runs already'}"


def open_stack(layout: Layout) -> Stack:
    """The stack of this layout, to be started. Raises StackError if it runs with another one."""
    known, runs = remembered(layout.home), Processes(layout.home).alive()
    if runs and (known is None or known != replace(layout, inner_ports=known.inner_ports)):
        raise StackError(
            f"it runs with other flags ({', '.join(runs)}): stop it first: {_stop_command(layout)}"
        )
    if not runs:
        seaweedfs.remove_sockets(known or layout)
        layout = with_inner_ports(layout)
        remember(layout)
    return Stack(layout, passwords(layout.home))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 0; 1 if `status` finds something that is not well; 2 with one line that
    says what is wrong; 130 if it is interrupted."""
    given = vars(_parser().parse_args(arguments))
    action, home = given.pop("action"), Path(given.pop("home")).expanduser().absolute()
    os.environ.update(no_proxy(given.get("host", "")))
    try:
        return _act(action, home, given)
    except (StackError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it was", file=sys.stderr)
        return 130


def _act(action: str, home: Path, given: dict[str, Any]) -> int:
    if action == "start":
        with alone(home):
            _start(home, given)
        return 0
    known = remembered(home)
    if known is None and not Processes(home).alive():
        print(f"there is no stack in {home}")
        return int(action == "status")
    stack = Stack(known or with_inner_ports(Layout(home=home)), passwords(home))
    if action == "status":
        return _tell(stack)
    with alone(home):
        _stop(stack)
        if action == "remove":
            shutil.rmtree(home)
    return 0


def _start(home: Path, given: dict[str, Any]) -> None:
    stack = open_stack(replace(remembered(home) or Layout(home=home), **given))
    for line in stack.start():
        print(line, flush=True)
    print(handout.advice(stack.layout, stack.keys))


def _tell(stack: Stack) -> int:
    found = [*stack.status()]
    print("\n".join(line for _, line in found))
    return int(not all(well for well, _ in found))


def _stop(stack: Stack) -> None:
    stopped = [f"{name:14} stopped" for name in stack.stop()]
    print("\n".join(stopped) or f"nothing runs of the stack in {stack.layout.home}")


def _stop_command(layout: Layout) -> str:
    usual = layout.home == HOME.expanduser()
    return "make stack-stop" + ("" if usual else f' ARGS="--home {layout.home}"')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.local.stack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "action", choices=("start", "stop", "status", "remove"), help="remove: stop, and delete all"
    )
    parser.add_argument("--home", default=str(HOME), help=f"where all of it lies (default: {HOME})")
    for field in fields(Layout):
        if "help" in field.metadata:
            name = f"--{field.name.replace('_', '-')}"
            usual = field.default if field.default != "" else "none"
            text = f"{field.metadata['help']} (default: {usual}, or as it was)"
            parser.add_argument(
                name, type=type(field.default), default=argparse.SUPPRESS, help=text
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
