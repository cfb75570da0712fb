"""The whole stack of infra/local, once for all tests here: real servers, and a cluster of nodes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml

from infra.local import ray_cluster
from infra.local.identity import in_sessions
from infra.local.layout import Layout, free_ports
from infra.local.stack import Stack, open_stack
from stageflow.store import Store, open_store

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
SWEEP = (
    *("sweeps/recam_threshold.py", "--data=scenes:images=32", "--trials=3", "--seeds=1"),
    *("--cam-steps=150", "--recam-steps=8", "--probe=8"),
)
PORTS = ("postgres_port", "s3_port", "mlflow_port", "ray_port", "dashboard_port")


@dataclass(slots=True)
class Job:
    """A submitted job, as the command that submitted it tells of it."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def told(self) -> str:
        """All that it has told so far."""
        return self.log.read_text()

    def wait_for(self, words: str) -> None:
        """Wait until it has told these words."""
        wait_until(lambda: words in self.told or self.process.poll() is not None)
        assert words in self.told, self.told

    def output(self) -> str:
        """What it told, once it has ended well."""
        code = self.process.wait(timeout=400)
        assert code == 0, self.told
        return self.told


@dataclass(frozen=True, slots=True)
class Cluster:
    """The stack, and somebody who has the passwords that it gave out."""

    stack: Stack
    environment: dict[str, str]
    submitted: list[Job] = field(default_factory=list)

    def submit(self, *command: str, name: str, store: str = "", folder: Path = ROOT) -> Job:
        """Submit a job with the stack's runtime environment, or with another store in it."""
        home = self.stack.layout.home
        variables = {**self.stack.addresses, **({"STAGEFLOW_STORE": store} if store else {})}
        given = home / f"{name}.yaml"
        given.write_text(yaml.safe_dump({"env_vars": variables}))
        submit = ["job", "submit", f"--submission-id={name}", f"--runtime-env={given}"]
        with (home / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [str(BIN / "ray"), *submit, f"--working-dir={folder}", "--", *command],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        job = Job(process, home / f"{name}.log")
        self.submitted.append(job)
        return job

    def run(self, *command: str) -> str:
        """Run a command of the environment as a user of the stack would, on this machine."""
        program, *arguments = command
        done = subprocess.run(
            [str(BIN / program), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def store(self, uri: str = "") -> Store:
        """A store on the stack's S3 server."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.stack.secrets.items():
                patch.setenv(name, value)
            return open_store(uri or self.stack.addresses["STAGEFLOW_STORE"])


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The stack with ports and a home of its own; at the end nothing of it is left running."""
    home = tmp_path_factory.mktemp("stack")
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    stack = open_stack(Layout(home=home, cpus=1, **ports))
    try:
        assert [line.split() for line in stack.start()] == [
            [service.name, "started"] for service in stack.services
        ]
        yield Cluster(stack, _user(stack, tmp_path_factory.mktemp("user")))
    finally:
        known = sessions(stack)
        stack.stop()
    _, left = psutil.wait_procs(in_sessions(known), timeout=10)  # those that watch over a job
    assert left == []
    assert not ray_cluster.room(stack.layout).exists()


def sessions(stack: Stack, *names: str) -> set[int]:
    """Those of all that services started, by default of all services; jobs lead their own."""
    found = set()
    for name in names or stack.processes.alive():
        process = stack.processes.find(name)
        for each in (process, *process.children(recursive=True)) if process else ():
            with suppress(ProcessLookupError):
                found.add(os.getsid(each.pid))
    return found


@pytest.fixture(scope="session")
def sweep(cluster: Cluster) -> tuple[Job, Job]:
    """One sweep on the built-in scenes, submitted twice at the same time."""
    jobs = cluster.submit(*SWEEP, name="one"), cluster.submit(*SWEEP, name="two")
    for job in jobs:
        job.output()
    return jobs


@pytest.fixture(autouse=True)
def keys(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack's passwords, for what a test does in its own process."""
    for name, value in cluster.stack.secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def _user(stack: Stack, home: Path) -> dict[str, str]:
    """The environment of a shell that has sourced the file which the stack writes."""
    sourced = subprocess.run(
        ["bash", "-c", f". {stack.layout.home}/environment.sh && env -0"],
        env={"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split("=", 1) for line in sourced.stdout.split("\0") if line)


def wait_until(true: Callable[[], bool], seconds: float = 240) -> None:
    """Wait; fails after so many seconds, lest a test hang."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.2)


def status(url: str, **headers: str) -> int:
    """How a server answers a request."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as a:
            return int(a.status)
    except urllib.error.HTTPError as error:
        return error.code
