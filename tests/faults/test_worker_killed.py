"""`kill -9` of a worker process in the middle: the same answer, and nothing done twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from stageflow.artifact import Artifacts, Manifest, folder_of
from stageflow.coordinator_ray import RETRIES
from stageflow.executor import Event, Kind, RunError, run
from stageflow.executor_ray import RayExecutor
from stageflow.stage import Node
from stageflow.store import FolderStore
from stageflow.testing_stages import Counting, Squaring, count, noted, squares


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayExecutor]:
    folder = tmp_path_factory.mktemp("executor")
    with pytest.MonkeyPatch.context() as patch:
        # Ray writes a token there, which every cluster of this process must find again.
        patch.setenv("HOME", str(tmp_path_factory.getbasetemp()))
        executor = RayExecutor(Artifacts(FolderStore(folder / "store"), folder / "cache"), cpus=2)
    yield executor
    executor.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


class Job:
    """A node that is being made, and the processes that its log shows at work."""

    def __init__(self, executor: RayExecutor, node: Node, log: Path, pool: ThreadPoolExecutor):
        self.executor, self.node, self.log = executor, node, log
        self.events: list[Event] = []
        self.running: Future[tuple[Manifest, ...]] = pool.submit(
            run, node, executor=executor, observe=self.events.append
        )

    def process_of(self, what: str, attempt: int = 1) -> int:
        """The process that began `what` at this attempt, as soon as it does."""
        wait_until(lambda: self.log.exists() and self.attempts(what) >= attempt)
        lines = [line.split(maxsplit=1) for line in noted(self.log)]
        return [int(process) for process, done in lines if done == what][attempt - 1]

    def attempts(self, what: str) -> int:
        return [line.split(maxsplit=1)[1] for line in noted(self.log)].count(what)

    def result(self) -> Manifest:
        return self.running.result(240)[0]

    def repeated(self) -> tuple[int, int]:
        """How much of its progress was made again, and of how much, as its last event tells."""
        return self.events[-1].repeated, self.events[-1].total

    def interruptions(self) -> int:
        return sum(event.kind is Kind.INTERRUPTED for event in self.events)


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 240
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_between_two_checkpoints(
    executor: RayExecutor, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """Another worker goes on behind the newest checkpoint, and the manifest says from which."""
    gate, label, log = str(tmp_path / "step-"), uuid4().hex, tmp_path / "log"
    whole = count(Counting(label=f"{label}, undisturbed", to=5))
    job = Job(executor, count(Counting(label=label, to=5, log=str(log), gate=gate)), log, pool)
    for step in (1, 2):
        Path(f"{gate}{step}").touch()
    killed = job.process_of("3")
    os.kill(killed, signal.SIGKILL)
    for step in (3, 4, 5):
        Path(f"{gate}{step}").touch()
    manifest = job.result()
    assert manifest.resumed_from == (2,)
    assert [line.split()[1] for line in noted(log)] == ["1", "2", "3", "3", "4", "5"]
    assert job.process_of("3", attempt=2) == job.process_of("5") != killed
    assert job.interruptions() == 1
    undisturbed = run(whole, executor=executor)[0]
    assert manifest.metrics == undisturbed.metrics == {"value": 5}
    assert manifest.reports == undisturbed.reports
    assert [file.sha256 for file in manifest.files] == [file.sha256 for file in undisturbed.files]
    left = [*executor.artifacts.store.list(f"{folder_of(job.node)}/")]
    assert len(left) == 1 + len(manifest.files), f"{left} are not all in the manifest"


def test_between_a_report_and_its_checkpoint(
    executor: RayExecutor, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """What was reported and not kept is done again, reported once, and counted as repeated."""
    hold, log = str(tmp_path / "hold-"), tmp_path / "log"
    node = count(Counting(label=uuid4().hex, to=4, log=str(log), hold=hold))
    job = Job(executor, node, log, pool)
    for step in (1, 2):
        Path(f"{hold}{step}").touch()
    killed = job.process_of("3")
    wait_until(lambda: any(e.kind is Kind.REPORT and e.done == 3 for e in job.events))
    os.kill(killed, signal.SIGKILL)
    for step in (3, 4):
        Path(f"{hold}{step}").touch()
    assert job.result().resumed_from == (2,)
    assert [line.split()[1] for line in noted(log)] == ["1", "2", "3", "3", "4"]
    told = [event.done for event in job.events if event.kind is Kind.REPORT]
    assert told == [1, 2, 3, 4]
    assert job.repeated() == (1, 4)


def test_as_often_as_it_gets_on(
    executor: RayExecutor, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """Machines that are taken away for a price may cost many workers in one long training."""
    gate, log, steps = str(tmp_path / "step-"), tmp_path / "log", RETRIES + 2
    node = count(Counting(label=uuid4().hex, to=steps + 1, log=str(log), gate=gate))
    job = Job(executor, node, log, pool)
    for step in range(1, steps + 1):
        Path(f"{gate}{step}").touch()
        os.kill(job.process_of(str(step + 1)), signal.SIGKILL)
    Path(f"{gate}{steps + 1}").touch()
    assert job.result().metrics == {"value": steps + 1}
    assert job.interruptions() == steps > RETRIES


def test_one_of_two_shards(executor: RayExecutor, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Only its own shard is done again, even if the others were finished before."""
    gate, log = str(tmp_path / "shard-"), tmp_path / "log"
    node = squares(Squaring(label=uuid4().hex, numbers=6, log=str(log), gate=gate))
    job = Job(executor, node, log, pool)
    killed = job.process_of("1 of 2")
    Path(f"{gate}0").touch()
    records = f"{folder_of(node)}/shards/"
    wait_until(lambda: [*executor.artifacts.store.list(records)] != [])
    os.kill(killed, signal.SIGKILL)
    Path(f"{gate}1").touch()
    manifest = job.result()
    assert (job.attempts("0 of 2"), job.attempts("1 of 2")) == (1, 2)
    assert sorted(file.path for file in manifest.files) == [f"squares/{i:04d}" for i in range(6)]


def test_idle_worker(executor: RayExecutor, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Nobody is given a worker that died when it had nothing to do."""
    log = tmp_path / "log"
    for attempt, label in enumerate((uuid4().hex, uuid4().hex), 1):
        job = Job(executor, count(Counting(label=label, to=1, log=str(log))), log, pool)
        assert job.result().metrics == {"value": 1}
        assert job.interruptions() == 0
        os.kill(job.process_of("1", attempt), signal.SIGKILL)
        time.sleep(0.5)


def test_again_and_again(executor: RayExecutor, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Who kills every worker (the system, for memory) is not fed for ever; a later run may do."""
    gate, log = str(tmp_path / "step-"), tmp_path / "log"
    node = count(Counting(label=uuid4().hex, to=1, log=str(log), gate=gate))
    job = Job(executor, node, log, pool)
    for attempt in range(RETRIES + 1):
        os.kill(job.process_of("1", attempt + 1), signal.SIGKILL)
    with pytest.raises(RunError, match=f"the worker died {RETRIES + 1} times in a row"):
        job.result()
    Path(f"{gate}1").touch()
    assert run(node, executor=executor)[0].metrics == {"value": 1}
