"""Two coordinators that share a store, with workers that are imagined and stages that are not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stageflow import coordinator_ray
from stageflow.artifact import Artifacts, Part, folder_of
from stageflow.claim import Claims, new_driver
from stageflow.context import Shard
from stageflow.coordinator_ray import Coordinator
from stageflow.execution import execute
from stageflow.executor import MADE_MEANWHILE, Done, Event, Failed, Kind, OnStale
from stageflow.stage import Needs, Node
from stageflow.store import FolderStore
from stageflow.testing_executor import make_stale
from stageflow.testing_stages import Adding, Counting, Squaring, add, count, noted, squares

Open = Callable[..., Coordinator]


class Silent:
    """Hooks that nobody hears."""

    def progress(self, done: int, total: int, note: str) -> None: ...

    def report(self, step: int, metrics: Any) -> bool:
        return True


class FakePool:
    """So many workers; each executes in a thread, with the store of its coordinator."""

    def __init__(self, artifacts: Artifacts, workers: int) -> None:
        self.artifacts, self.free, self.out = artifacts, workers, 0
        self.changed = asyncio.Condition()
        self.machines = SimpleNamespace(
            lacking=lambda needs: "", missing=lambda needs: "", slots=lambda needs: 1
        )

    async def acquire(self, needs: Needs, wanted: Callable[[], bool]) -> Any:
        async with self.changed:
            while wanted():
                if self.free > self.out:
                    self.out += 1
                    return SimpleNamespace(execute=SimpleNamespace(remote=self.execute))
                await self.changed.wait()
        return None

    async def execute(self, node: Node, shard: Shard, device: str) -> Part:
        return await asyncio.to_thread(
            execute, node, artifacts=self.artifacts, hooks=Silent(), device=device, shard=shard
        )

    async def release(self, worker: Any, *, alive: bool = True) -> None:
        async with self.changed:
            self.out -= 1
            self.changed.notify_all()

    async def look_again(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def watch_cluster(self) -> None: ...

    def device(self, worker: Any) -> str:
        return "cpu"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def opened(store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    context = SimpleNamespace(current_actor=None)
    monkeypatch.setattr(
        coordinator_ray, "ray", SimpleNamespace(get_runtime_context=lambda: context)
    )
    monkeypatch.setattr(coordinator_ray, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(coordinator_ray, "GLANCE_SECONDS", 0.02)
    with ExitStack() as stack:

        def open_one(on_stale: OnStale = OnStale.ASK, workers: int = 2) -> Coordinator:
            driver = new_driver()
            artifacts = Artifacts(store, tmp_path / driver)
            made = Coordinator(artifacts, on_stale, driver, 60.0)
            made.pool = FakePool(artifacts, workers)  # type: ignore[assignment]
            stack.callback(made.living.close)
            return made

        yield open_one


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def told(coordinator: Coordinator, kind: Kind) -> list[Event]:
    return [event for event in coordinator.events if event.kind is kind]


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def test_two_that_make_anew_agree(opened: Open, store: FolderStore, tmp_path: Path) -> None:
    """Neither takes what the other withdraws for what is there."""
    log = tmp_path / "log"
    parent = count(Counting(label="", to=1, log=str(log)))
    child = add(parent, parent, Adding(label="", log=str(log)))

    async def work() -> None:
        first = opened()
        await first.run("before", [child])
        old = make_stale(first.artifacts, parent)
        before = first.artifacts.manifest(child)
        two = [opened(OnStale.RERUN), opened(OnStale.RERUN)]
        outcomes = await asyncio.gather(*(each.run("again", [child]) for each in two))
        now = first.artifacts.manifest(child)
        assert now not in (None, before)
        assert [found[child.key].manifest for found in outcomes] == [now, now]  # type: ignore[union-attr]
        assert first.artifacts.manifest(parent) != old
        executed = [found[key].executed for found in outcomes for key in (parent.key, child.key)]  # type: ignore[union-attr]
        assert sum(executed) == 2

    run(work())
    assert len([line for line in noted(log) if line.endswith(" 1")]) == 2
    assert list(store.list("claims/")) == []


@pytest.mark.parametrize(
    ("on_stale", "kept"), [(OnStale.ASK, None), (OnStale.RERUN, False), (OnStale.KEEP, True)]
)
def test_what_others_make_with_other_code(
    opened: Open, store: FolderStore, on_stale: OnStale, kept: bool | None
) -> None:
    """While one waits for it: it is no more than what was there before."""
    node = count(Counting(label="", to=1))

    async def work() -> None:
        coordinator, other = opened(on_stale), Claims(store, new_driver())
        [before] = (await opened().run("before", [node])).values()
        assert isinstance(before, Done)
        coordinator.artifacts.withdraw(before.manifest)
        with other.living():
            other.take(node.key)
            waiting = asyncio.create_task(coordinator.run("demand", [node]))
            await until(lambda: bool(told(coordinator, Kind.WAITING)))
            theirs = replace(before.manifest, fingerprint="other code")
            store.create(f"{folder_of(node)}/manifest.json", theirs.to_json())
            other.give_back(node.key)
            outcome = (await waiting)[node.key]
        if kept is None:
            assert isinstance(outcome, Failed)
            assert "has changed under version 1" in outcome.reason
        else:
            assert isinstance(outcome, Done)
            assert (outcome.manifest == theirs) == kept == (not outcome.executed)

    run(work())


def test_no_claim_without_a_worker(opened: Open, store: FolderStore) -> None:
    """Who cannot make it now leaves it to those who can, and takes it from them."""
    node = count(Counting(label="", to=1))

    async def work() -> None:
        without, other = opened(workers=0), opened()
        waiting = asyncio.create_task(without.run("without", [node]))
        await until(lambda: node.key in without.flights)
        await asyncio.sleep(0.05)
        assert list(store.list("claims/")) == []
        made = (await other.run("other", [node]))[node.key]
        assert isinstance(made, Done)
        assert made.executed
        outcome = (await waiting)[node.key]
        assert isinstance(outcome, Done)
        assert not outcome.executed
        assert told(without, Kind.HIT)[0].text == MADE_MEANWHILE

    run(work())


def test_what_nobody_wants_does_not_wait_for_a_worker(opened: Open, store: FolderStore) -> None:
    node = count(Counting(label="", to=1))

    async def work() -> None:
        coordinator = opened(workers=0)
        running = asyncio.create_task(coordinator.run("demand", [node]))
        await until(lambda: node.key in coordinator.flights)
        await coordinator.release("demand")
        outcome = (await running)[node.key]
        assert isinstance(outcome, Failed)
        assert outcome.cancelled

    run(work())
    assert list(store.list("claims/")) == []


def test_what_nobody_wants_does_not_wait_for_others(opened: Open, store: FolderStore) -> None:
    node = count(Counting(label="", to=1))

    async def work() -> None:
        coordinator, other = opened(), Claims(store, new_driver())
        with other.living():
            other.take(node.key)
            running = asyncio.create_task(coordinator.run("demand", [node]))
            await until(lambda: bool(told(coordinator, Kind.WAITING)))
            await coordinator.release("demand")
            outcome = (await running)[node.key]
            assert isinstance(outcome, Failed)
            assert outcome.cancelled
            assert other.holder(node.key) == ""

    run(work())


def test_workers_are_given_back(opened: Open, store: FolderStore) -> None:
    """Also those that came too late, or were not used for a shard that is done."""
    node = squares(Squaring(label="", numbers=4))

    async def work() -> None:
        coordinator = opened()
        await coordinator.run("demand", [node, count(Counting(label="", to=1))])
        await coordinator.run("again", [node])
        assert coordinator.pool.out == 0  # type: ignore[attr-defined]

    run(work())


def test_shards_of_another_cluster_are_used(opened: Open, store: FolderStore) -> None:
    """Who goes on where another driver was killed cuts the work as that one did."""
    node = squares(Squaring(label="", numbers=6))

    async def work() -> None:
        coordinator = opened()
        record = f"{folder_of(node)}/shards/{node.stage.fingerprint}-2-of-3.json"
        part = await coordinator.pool.execute(node, Shard(2, 3), "cpu")  # type: ignore[attr-defined]
        store.create(record, json.dumps(asdict(part)).encode())
        outcome = (await coordinator.run("demand", [node]))[node.key]
        assert isinstance(outcome, Done)
        assert outcome.manifest.shards == 3
        assert len(told(coordinator, Kind.STARTED)) == 2
        assert coordinator.pool.out == 0  # type: ignore[attr-defined]

    run(work())
