"""Groups on a real Ray of this machine, which pretends to have two GPUs: Gloo, but not NCCL."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import ray
from ray.util.placement_group import placement_group_table

from stageflow.artifact import Artifacts, Manifest, folder_of
from stageflow.context import UNWANTED, Context
from stageflow.executor import Event, Kind, LocalExecutor, RunError, run
from stageflow.executor_ray import RayExecutor
from stageflow.pool_ray import Pool
from stageflow.stage import Metrics, Needs, stage
from stageflow.store import FolderStore
from stageflow.testing_stages import note_down, noted, wait_for

LONGEST = 250  # seconds: Ray Train starts six processes, which takes a minute on a busy machine

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True, slots=True)
class Meeting:
    """Add up 3 in each of `steps` steps; rank 1 waits in step 2 for the file `<gate>1-2`.

    The result stays that of one process.
    """

    label: str
    steps: int = 3
    log: str = ""
    gate: str = ""


@stage(version="1", needs=Needs(cpus=1, gpus=2), neutral=("log", "gate"))
def meet(context: Context, config: Meeting) -> Metrics:
    """Each of two ranks brings its part of the 3, which only both together know."""
    if config.log:
        note_down(f"{config.log}-folders", str(context.scratch))
    found = context.restore()
    step, value = (found[0], float((found[1] / "value").read_text())) if found else (0, 0.0)
    while step < config.steps:
        step += 1
        note_down(config.log, f"{os.getpid()} {context.rank} of {context.ranks}, step {step}")
        wait_for(f"{config.gate}{context.rank}-{step}" if config.gate else "")
        value += summed(context.rank + 1.0 if context.ranks > 1 else 3.0, context.ranks)
        context.progress(step, config.steps)
        context.report(step, {"value": value})
        context.save(step, partial(keep, value))
    keep(value, context.out)
    return {"value": value}


def summed(mine: float, ranks: int) -> float:
    import torch
    import torch.distributed as dist

    total = torch.tensor([mine])
    assert dist.is_initialized() == (ranks > 1)
    if ranks > 1:
        assert {*os.environ["CUDA_VISIBLE_DEVICES"].split(",")} == {"-1"}
        dist.all_reduce(total)
    return total.item()


def keep(value: float, folder: Path) -> None:
    (folder / "value").write_text(str(value))


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayExecutor]:
    folder = tmp_path_factory.mktemp("executor")
    with pytest.MonkeyPatch.context() as patch:
        # Ray writes a token there, which every cluster of this process must find again.
        patch.setenv("HOME", str(tmp_path_factory.getbasetemp()))
        patch.setenv("CUDA_VISIBLE_DEVICES", "-1,-1")  # two for Ray, of which torch finds none
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    executor = RayExecutor(Artifacts(FolderStore(folder / "store"), folder / "cache"))
    yield executor
    executor.close()
    ray.shutdown()
    assert not (tmp_path_factory.getbasetemp() / "ray_results").exists()


@pytest.fixture
def label() -> str:
    return uuid4().hex


class Job:
    """A node that is being made, and the events and notes that show how far it is."""

    def __init__(self, executor: RayExecutor, pool: ThreadPoolExecutor, folder: Path, label: str):
        self.log, self.gate = folder / "log", f"{folder}/gate-"
        self.node = meet(Meeting(label=label, log=str(self.log), gate=self.gate))
        self.events: list[Event] = []
        self.running: Future[tuple[Manifest, ...]] = pool.submit(
            run, self.node, executor=executor, observe=self.events.append
        )

    def open(self, *steps: int, text: str = "", ranks: tuple[int, ...] = (0, 1)) -> None:
        for step in steps:
            for rank in ranks:
                Path(f"{self.gate}{rank}-{step}").write_text(text)

    def process_of(self, rank: int, step: int) -> int:
        what = f" {rank} of 2, step {step}"
        wait_until(lambda: any(line.endswith(what) for line in noted(self.log)))
        return int(next(line for line in noted(self.log) if line.endswith(what)).split()[0])

    def texts(self, kind: Kind) -> list[str]:
        return [event.text for event in self.events if event.kind is kind]

    def steps(self, rank: int) -> list[int]:
        return [int(x.split()[-1]) for x in noted(self.log) if x.split(" ", 1)[1][0] == str(rank)]


@pytest.fixture
def job(executor: RayExecutor, tmp_path: Path, label: str) -> Iterator[Job]:
    with ThreadPoolExecutor(1) as pool:
        yield Job(executor, pool, tmp_path, label)


def remaining(log: Path) -> list[str]:
    """Folders of executions that are still there; of all, there were some."""
    folders = noted(log.with_name(f"{log.name}-folders"))
    assert folders
    return [folder for folder in folders if Path(folder).exists()]


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + LONGEST
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def looked_up(executor: RayExecutor, what: Callable[[Pool], list[Any]]) -> list[Any]:
    """In the pool of the coordinator, which is another process."""
    found: list[Any]
    found = ray.get(executor.coordinator.__ray_call__.remote(lambda itself: what(itself.pool)))
    return found


def test_a_rank_that_is_killed(executor: RayExecutor, job: Job, tmp_path: Path) -> None:
    """A new group goes on behind the newest checkpoint, and makes what one process makes.

    Under the same key; of the files, reports and progress, only those of rank 0 are there.
    """
    job.open(1)
    job.open(2, ranks=(0,))
    killed = job.process_of(rank=1, step=2)
    assert looked_up(executor, lambda pool: [len(pool.waiting), len(pool.rooms)]) == [0, 1]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: job.texts(Kind.INTERRUPTED) != [])
    job.open(2, 3)
    [manifest] = job.running.result(LONGEST)
    assert job.texts(Kind.INTERRUPTED) == ["rank 1 of the group died"]
    assert job.steps(rank=0) == job.steps(rank=1) == [1, 2, 2, 3]
    assert manifest.resumed_from == (1,)
    assert manifest.gpu_seconds == 2 * manifest.wall_seconds > 0
    assert [event.done for event in job.events if event.kind is Kind.REPORT] == [1, 2, 3]
    assert len([*executor.artifacts.store.list(folder_of(job.node))]) == 2
    alone = LocalExecutor(Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache"))
    [single] = run(job.node, executor=alone)
    assert single.key == manifest.key
    assert single.metrics == manifest.metrics == {"value": 9.0}
    assert single.reports == manifest.reports
    assert [f.sha256 for f in single.files] == [f.sha256 for f in manifest.files]
    assert remaining(job.log) == []


def test_a_rank_that_fails(executor: RayExecutor, job: Job) -> None:
    """Its own words are the reason, on one line, and the one that waits for it does not hang."""
    job.open(1)
    job.open(2, ranks=(0,))
    job.open(2, ranks=(1,), text="no such\nluck")
    with pytest.raises(RunError) as caught:
        job.running.result(LONGEST)
    assert str(caught.value).endswith(f"{job.node.key}  RuntimeError: no such")
    assert job.texts(Kind.INTERRUPTED) == []
    assert remaining(job.log) == []


def test_cancelled(executor: RayExecutor, tmp_path: Path, label: str) -> None:
    """When nobody wants the result any more: behind its checkpoint, for a later demand."""
    log, gate = tmp_path / "log", f"{tmp_path}/gate-"
    node = meet(Meeting(label=label, log=str(log), gate=gate))
    events: list[Event] = []
    Path(f"{gate}0-1").touch()
    with executor.watching(events.append):
        ray.get(executor.coordinator.start.remote("a trial", node))
        wait_until(lambda: len(noted(log)) == 2)
        ray.get(executor.coordinator.release.remote("a trial"))
        Path(f"{gate}1-1").touch()
        wait_until(lambda: any(event.kind is Kind.CANCELLED for event in events))
    assert [event.text for event in events if event.kind is Kind.CANCELLED] == [UNWANTED]
    checkpoints = executor.artifacts.store.list(f"{folder_of(node)}/checkpoints/")
    assert any(name.endswith("-00000001.json") for name in checkpoints)
    assert executor.artifacts.manifest(node) is None
    assert remaining(log) == []


@pytest.fixture
def other(executor: RayExecutor) -> Any:
    """Somebody else, who has one of the GPUs."""
    actor: Any = ray.remote(num_gpus=1)(Other)
    other = actor.remote()
    ray.get(other.is_there.remote())
    return other


def test_a_group_without_room(executor: RayExecutor, other: Any, job: Job) -> None:
    """It waits, and one that is killed meanwhile leaves nothing that would take the room."""
    job.open(1, 2, 3)
    wait_until(lambda: pending() != [])
    [first] = pending()
    [waiting] = looked_up(executor, lambda pool: [*pool.waiting])
    ray.kill(waiting)
    wait_until(lambda: job.texts(Kind.INTERRUPTED) != [])
    wait_until(lambda: pending() not in ([], [first]))
    assert len(pending()) == 1, "the first one still waits"
    ray.kill(other)
    [manifest] = job.running.result(LONGEST)
    assert manifest.metrics == {"value": 9.0}
    assert len(job.texts(Kind.INTERRUPTED)) == 1
    free: Any = ray.available_resources
    wait_until(lambda: free().get("GPU") == 2)


class Other:
    """Somebody else on the cluster."""

    def is_there(self) -> bool:
        return True


def pending() -> list[str]:
    """Placement groups for which there is no room."""
    return [name for name, found in placement_group_table().items() if found["state"] == "PENDING"]


def test_more_gpus_than_there_are(executor: RayExecutor, label: str) -> None:
    with pytest.raises(RunError, match=r"1 GPU each, the cluster has room for 2: declare"):
        run(meet.on(gpus=3)(Meeting(label=label)), executor=executor)
