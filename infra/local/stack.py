"""The platform's servers on one machine, without containers: PostgreSQL, SeaweedFS, MLflow and Ray.

    make stack             start what does not run; with everything running, this only says so
    make stack-stop        end what was started, and keep all data
    python -m infra.local.stack --help

Everything listens on loopback and wants a password or token; all lies in one folder. Ray has a head
and several workers as nodes of their own, the first of which has the GPUs or pretends to have one,
so that what happens on a cluster happens here: artifacts go through S3, caches belong to nodes,
nodes may die. With `--workers 0` the head is the one node, with all cores and GPUs; with `--host`
besides, other machines join it (infra/local/join.sh).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from infra.local import mlflow_server, postgres, ray_cluster, seaweedfs
from infra.local.layout import (
    USER,
    Layout,
    Passwords,
    passwords,
    private,
    remember,
    remembered,
)
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
        postgres.prepare(layout, keys.postgres)
        ray_cluster.prepare(layout, keys)
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
        self._write_environment()

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

    def status(self) -> Iterator[str]:
        """A line for each server."""
        for service in self.services:
            process = self.processes.find(service.name)
            if process is None:
                yield f"{service.name:14} does not run"
            else:
                state = "healthy" if answers(service.healthy) else "DOES NOT ANSWER"
                yield f"{service.name:14} {state}, process {process.pid}"

    def _told(self, service: Service, begun: dict[str, bool]) -> str:
        if begun[service.name]:
            self.processes.wait(service)
            return f"{service.name:14} started"
        return f"{service.name:14} runs already"

    def _write_environment(self) -> None:
        """For people's shells, for machines that join, and for jobs."""
        home, layout = self.layout.home, self.layout
        user = {**ray_cluster.environment(layout), **self.secrets, **self.addresses}
        node = {**ray_cluster.node_environment(self.keys), **self.secrets}
        ports = " ".join(
            str(port) for port in (layout.postgres_port, layout.s3_port, layout.mlflow_port)
        )
        joining = {**node, "STACK_HEAD": ray_cluster.address(layout), "STACK_PORTS": ports}
        for name, variables in (("environment.sh", user), ("node.sh", joining)):
            lines = [f"export {variable}='{value}'\n" for variable, value in variables.items()]
            private(home / name, "".join(lines))
        (home / "runtime_env.yaml").write_text(yaml.safe_dump({"env_vars": self.addresses}))

    def advice(self) -> str:
        """What to do with it."""
        home = self.layout.home
        return (
            f"\nMLflow         {self.layout.mlflow_url}  (user {USER}, "
            f"password {self.keys.mlflow})\n"
            f"Ray dashboard  {self.layout.dashboard_url}  (token in {home}/ray-token)\n"
            f"logs           {home}/logs\n\n"
            f"  . {home}/environment.sh\n"
            f"  ray job submit --runtime-env {home}/runtime_env.yaml --working-dir . -- "
            "sweeps/recam_threshold.py\n"
        )


def open_stack(layout: Layout) -> Stack:
    """The stack of a layout, whose ports and passwords are chosen if they are not yet."""
    chosen = remember(layout)
    return Stack(chosen, passwords(chosen.home))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 with one line that says what is wrong."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    action, home = given.pop("action"), Path(given.pop("home")).expanduser().absolute()
    try:
        _act(action, home, given)
    except (StackError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _act(action: str, home: Path, given: dict[str, Any]) -> None:
    known = remembered(home)
    if action == "start":
        stack = open_stack(replace(known or Layout(home=home), **given))
        for line in stack.start():
            print(line, flush=True)
        print(stack.advice())
        return
    if known is None:
        print(f"there is no stack in {home}")
        return
    stack = open_stack(known)
    for line in stack.status() if action == "status" else stack.stop():
        print(line if action == "status" else f"{line:14} stopped")
    if action == "remove":
        shutil.rmtree(home)


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
