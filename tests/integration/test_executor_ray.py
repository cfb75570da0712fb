"""The executor on a real Ray of this machine: the contract, and what only a cluster does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import ray

from stageflow import provenance
from stageflow.artifact import Artifacts
from stageflow.executor import Done, Event, Executor, Kind, OnStale, RunError, run
from stageflow.executor_ray import RayExecutor
from stageflow.stage import Needs, Node
from stageflow.store import FolderStore
from stageflow.testing_executor import ExecutorContract, OpenExecutor
from stageflow.testing_stages import (
    Adding,
    Counting,
    Squaring,
    Telling,
    add,
    count,
    noted,
    squares,
    tell,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayExecutor]:
    """One executor for the module, which starts Ray with two cores; that takes some ten seconds."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        # Ray writes a token there, which every cluster of this process must find again.
        patch.setenv("HOME", str(tmp_path_factory.getbasetemp()))
        artifacts = Artifacts(FolderStore(folder / "store"), folder / "cache")
        executor = RayExecutor(artifacts, cpus=2, idle_seconds=3)
    yield executor
    executor.close()
    assert not ray.is_initialized()


class TestRayExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, shared: RayExecutor) -> Executor:
        return shared

    @pytest.fixture
    def open_executor(self, shared: RayExecutor) -> OpenExecutor:
        def opened(artifacts: Artifacts, on_stale: OnStale) -> RayExecutor:
            return RayExecutor(artifacts, on_stale=on_stale)

        return opened


class Told(list[Event]):
    """The events of an executor, to be waited for."""

    def wait(self, kind: Kind, node: Node, count: int = 1) -> None:
        until = time.monotonic() + 240
        while sum(event.kind is kind and event.key == node.key for event in self) < count:
            assert time.monotonic() < until, f"no {kind} of {node.name} in {self}"
            time.sleep(0.02)


@pytest.fixture
def label() -> str:
    return uuid4().hex


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def steps(log: Path) -> list[str]:
    return [line.split()[1] for line in noted(log)]


def hear(executor: RayExecutor, demand: str, target: Node, metric: str) -> tuple[Any, Any]:
    """All that a trial hears on the way to the target, and the outcome."""
    coordinator = executor.coordinator
    ray.get(coordinator.start.remote(demand, target))
    heard: list[float] = []
    while True:
        metrics, outcome = ray.get(coordinator.next.remote(target, len(heard), metric))
        if outcome is not None:
            return heard, outcome
        heard.append(metrics[metric])


def test_single_flight(shared: RayExecutor, label: str, log: Path) -> None:
    """Six who want a node at the same time, for six targets, get it from one execution."""
    node = count(Counting(label=label, to=4, log=str(log)))
    targets = [add(node, node, Adding(label=f"{label}{i // 2}")) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda target: run(target, node, executor=shared), targets))
    assert {made[1].key for made in results} == {node.key}
    assert len({made[1].started for made in results}) == 1
    assert [made[0].metrics["value"] for made in results] == [8] * 6
    assert steps(log) == ["1", "2", "3", "4"]


def test_shards_run_side_by_side(shared: RayExecutor, label: str, tmp_path: Path) -> None:
    """As many as the cluster has places for, each in a process of its own."""
    node = squares(Squaring(label=label, log=str(tmp_path / "log"), gate=str(tmp_path / "gate-")))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, node, executor=shared)
        wait_until(lambda: len(noted(tmp_path / "log")) == 2)
        for shard in (0, 1):
            (tmp_path / f"gate-{shard}").touch()
        manifest = running.result()[0]
    lines = [line.split(maxsplit=1) for line in noted(tmp_path / "log")]
    assert len({process for process, _ in lines}) == 2
    assert {shard for _, shard in lines} == {"0 of 2", "1 of 2"}
    assert manifest.shards == 2
    assert len({file.attempt for file in manifest.files}) == 2


def test_a_worker_is_kept(shared: RayExecutor, label: str, log: Path) -> None:
    """The next node of the same needs runs in the process that is there."""
    for text in ("a", "b", "c"):
        run(count(Counting(label=label + text, to=1, log=str(log))), executor=shared)
    assert len({line.split()[0] for line in noted(log)}) == 1


def test_idle_workers_make_room(shared: RayExecutor, label: str) -> None:
    """A node that needs the whole machine gets it from idle workers that hold a part of it."""
    run(squares(Squaring(label=label)), executor=shared)
    started = time.monotonic()
    wide = count.on(cpus=2)(Counting(label=label))
    assert run(wide, executor=shared)[0].metrics == {"value": 3}
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Needs(cpus=64), "needs 64 CPU cores, the largest node has 2"),
        (Needs(memory=2**60), "bytes of memory, the largest node has"),
    ],
)
def test_needs_that_nothing_meets(
    shared: RayExecutor, label: str, log: Path, needs: Needs, reason: str
) -> None:
    """It fails at once, before its parents run, and waits for no machine that is not there."""
    parent = count(Counting(label=label, log=str(log)))
    large = replace(add, needs=needs)(parent, parent, Adding(label=label))
    with pytest.raises(RunError, match=reason):
        run(large, executor=shared)
    assert not noted(log)


def test_shares_of_gpus_where_there_are_none(shared: RayExecutor, label: str) -> None:
    """Such a stage runs on a core, is told so, and has cost no GPU."""
    manifest = run(count.on(gpus=0.5)(Counting(label=label)), executor=shared)[0]
    assert (manifest.device, manifest.gpu_seconds) == ("cpu", 0.0)


def test_commit_of_the_driver(shared: RayExecutor, label: str) -> None:
    """Workers run a copy of the code without its repository, and yet name the commit."""
    manifest = run(tell(Telling(label=label)), executor=shared)[0]
    assert manifest.commit == provenance.commit()
    assert not manifest.commit.startswith("source:")


def test_cancelled_when_nobody_wants_it(shared: RayExecutor, label: str, tmp_path: Path) -> None:
    """At its next report, behind its checkpoint, from which a later demand goes on."""
    log = tmp_path / "log"
    node = count(Counting(label=label, to=4, log=str(log), gate=str(tmp_path / "step-")))
    told = Told()
    (tmp_path / "step-1").touch()
    with shared.watching(told.append):
        ray.get(shared.coordinator.start.remote("a trial", node))
        told.wait(Kind.REPORT, node)
        ray.get(shared.coordinator.release.remote("a trial"))
        (tmp_path / "step-2").touch()
        told.wait(Kind.CANCELLED, node)
    assert steps(log) == ["1", "2"]
    assert shared.artifacts.manifest(node) is None
    for step in (3, 4):
        (tmp_path / f"step-{step}").touch()
    manifest = run(node, executor=shared)[0]
    assert steps(log) == ["1", "2", "3", "4"]
    assert manifest.resumed_from == (2,)
    assert manifest.metrics == {"value": 4}


def test_wanted_by_another(shared: RayExecutor, label: str, tmp_path: Path) -> None:
    """One of two trials is stopped; the other gets the result, of one execution."""
    log = tmp_path / "log"
    node = count(Counting(label=label, log=str(log), gate=str(tmp_path / "step-")))
    for demand in ("stopped", "going on"):
        ray.get(shared.coordinator.start.remote(demand, node))
    ray.get(shared.coordinator.release.remote("stopped"))
    for step in (1, 2, 3):
        (tmp_path / f"step-{step}").touch()
    heard, outcome = hear(shared, "going on", node, "value")
    assert heard == [1, 2, 3]
    assert isinstance(outcome, Done)
    assert steps(log) == ["1", "2", "3"]


def test_wanted_again_too_late(shared: RayExecutor, label: str, tmp_path: Path) -> None:
    """Whoever asks while a stage is being cancelled does not get told that nobody wants it."""
    log = tmp_path / "log"
    node = count(
        Counting(
            label=label, log=str(log), gate=str(tmp_path / "step-"), hold=str(tmp_path / "hold-")
        )
    )
    told = Told()
    for name in ("step-1", "hold-1"):
        (tmp_path / name).touch()
    with shared.watching(told.append):
        ray.get(shared.coordinator.start.remote("first", node))
        told.wait(Kind.REPORT, node)
        ray.get(shared.coordinator.release.remote("first"))
        (tmp_path / "step-2").touch()
        told.wait(Kind.REPORT, node, count=2)  # it has the answer, and will be cancelled
        ray.get(shared.coordinator.start.remote("second", node))
        for name in ("hold-2", "step-3", "hold-3"):
            (tmp_path / name).touch()
        heard, outcome = hear(shared, "second", node, "value")
    assert isinstance(outcome, Done)
    assert outcome.manifest.resumed_from == (2,)
    assert heard == [1, 2, 3]
    assert steps(log) == ["1", "2", "3"]


def test_cancelled_before_it_starts(shared: RayExecutor, label: str, tmp_path: Path) -> None:
    """What waits for a place when its trial is stopped does not start at all."""
    log, gate = tmp_path / "log", str(tmp_path / "step-")
    busy = count.on(cpus=2)(Counting(label=label, to=1, gate=gate))
    node = count(Counting(label=label, to=2, log=str(log)))
    target = add(node, node, Adding(label=label, log=str(log)))
    told = Told()
    with shared.watching(told.append):
        ray.get(shared.coordinator.start.remote("one", busy))
        told.wait(Kind.STARTED, busy)
        ray.get(shared.coordinator.start.remote("two", target))
        time.sleep(0.3)
        ray.get(shared.coordinator.release.remote("two"))
        (tmp_path / "step-1").touch()
        told.wait(Kind.CANCELLED, node)
    assert not noted(log)
    assert run(target, executor=shared)[0].metrics == {"value": 4}


def test_reports_are_replayed(shared: RayExecutor, label: str, tmp_path: Path) -> None:
    """A trial served from the store hears what the one heard for which the stages ran."""
    first = count(Counting(label=label, to=2, gate=str(tmp_path / "step-")))
    second = count(Counting(label=label, to=2, first=10))
    target = add(first, second, Adding(label=label))
    with ThreadPoolExecutor(1) as pool:
        live = pool.submit(hear, shared, "live", target, "value")
        wait_until(lambda: shared.artifacts.manifest(second) is not None)
        for step in (1, 2):
            (tmp_path / f"step-{step}").touch()
        heard, outcome = live.result()
    assert heard == [1, 2, 11, 12], "not in the order of the graph"
    assert outcome.manifest.metrics == {"value": 14}
    fresh = RayExecutor(shared.artifacts)
    try:
        replayed, served = hear(fresh, "later", target, "value")
    finally:
        fresh.close()
    assert replayed == heard
    assert served == Done(outcome.manifest, executed=False)


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 240
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)
