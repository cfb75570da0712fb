"""The pool of workers on a cluster that is imagined: who gets a place, and who makes room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import PlacementGroupID
from ray.exceptions import RayActorError, RaySystemError
from ray.util.placement_group import PlacementGroup

from stageflow import machines_ray, pool_ray
from stageflow.artifact import Artifacts
from stageflow.pool_ray import Pool
from stageflow.stage import Needs
from stageflow.store import FolderStore

ONE = Needs(cpus=1)
TWO = Needs(cpus=2)


class Reference:
    """An answer to come, as Ray gives it."""

    def __init__(self) -> None:
        self.answer: Future[None] = Future()

    def future(self) -> Future[None]:
        return self.answer

    def __await__(self) -> Any:
        return asyncio.wrap_future(self.answer).__await__()


class FakeWorker:
    """A handle: it answers once it is placed, and with an error when it is dead."""

    def __init__(self, cluster: Cluster, needs: Needs) -> None:
        self.cluster, self.needs, self.dead = cluster, needs, False
        self.waiting: list[Reference] = []
        self.ready = SimpleNamespace(remote=self._ready)

    def _ready(self) -> Reference:
        asked = Reference()
        self.waiting.append(asked)
        self.answer()
        return asked

    def answer(self) -> None:
        for asked in self.waiting:
            if self.dead:
                asked.answer.set_exception(RayActorError())
            elif self in self.cluster.placed:
                asked.answer.set_result(None)
        self.waiting = [asked for asked in self.waiting if not asked.answer.done()]


class Cluster:
    """Stands for Ray: has machines, places workers whole on one of them, and kills them."""

    def __init__(self, *machines: Needs) -> None:
        self.machines = list(machines)
        self.started: list[FakeWorker] = []
        self.placed: dict[FakeWorker, int] = {}

    def remote(self, kind: type) -> Any:
        def options(
            *, num_cpus: float, num_gpus: float, memory: int = 0, scheduling_strategy: Any = None
        ) -> Any:
            assert (scheduling_strategy is None) == (num_cpus > 0), "beside the driver"
            return SimpleNamespace(
                remote=lambda *_: self.start(Needs(cpus=num_cpus, gpus=num_gpus, memory=memory))
            )

        return SimpleNamespace(options=options)

    def start(self, needs: Needs) -> FakeWorker:
        worker = FakeWorker(self, needs)
        self.started.append(worker)
        self.place()
        return worker

    def place(self) -> None:
        for worker in self.started:
            if worker not in self.placed and not worker.dead:
                for number, machine in enumerate(self.machines):
                    used = sum(w.needs.cpus for w, at in self.placed.items() if at == number)
                    if worker not in self.placed and used + worker.needs.cpus <= machine.cpus:
                        self.placed[worker] = number
            worker.answer()

    def kill(self, worker: FakeWorker) -> None:
        worker.dead = True
        self.placed.pop(worker, None)
        self.place()

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "ab" * 28)

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "Resources": {"CPU": m.cpus, "GPU": m.gpus, "memory": m.memory}}
            for m in self.machines
        ] + [{"Alive": False, "Resources": {"CPU": 1000.0}}]


Imagine = Callable[..., tuple[Cluster, Pool]]


@pytest.fixture
def imagine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Imagine:
    def imagined(*machines: Needs, idle_seconds: float = 60.0) -> tuple[Cluster, Pool]:
        cluster = Cluster(*machines)
        monkeypatch.setattr(pool_ray, "ray", cluster)
        monkeypatch.setattr(machines_ray, "ray", cluster)
        artifacts = Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache")
        return cluster, Pool(artifacts, None, token="", idle_seconds=idle_seconds)

    return imagined


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def test_a_group_holds_its_gpus_itself(imagine: Imagine) -> None:
    """Its worker holds nothing on the cluster, and yet the pool gives them to nobody else."""
    cluster, pool = imagine(Needs(cpus=4, gpus=2))

    async def work() -> None:
        group = await pool.acquire(Needs(gpus=2))
        assert cluster.started[0].needs == Needs(cpus=0)
        await pool.placed(group, room("aa"))
        single = asyncio.create_task(pool.acquire(Needs(gpus=1)))
        await asyncio.sleep(0.05)
        assert not single.done()
        await pool.release(group)
        assert (await single).needs == Needs(gpus=1)
        assert cluster.started[0].dead, "an idle group holds what it asks for"

    run(work())


def room(name: str) -> PlacementGroup:
    return PlacementGroup(PlacementGroupID(bytes.fromhex(name * 18)))


def test_an_idle_group_whose_room_is_gone(
    imagine: Imagine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used again and waits; idle workers make room for it until its ranks have begun."""
    monkeypatch.setattr(pool_ray, "PATIENCE_WITH_GROUP", 0.05)
    _, pool = imagine(Needs(cpus=4, gpus=3))

    async def work() -> None:
        group = await pool.acquire(Needs(gpus=2))
        await pool.placed(group, room("aa"))
        spares = [await pool.acquire(ONE) for _ in range(2)]
        for worker in (group, *spares):
            await pool.release(worker)
        assert await pool.acquire(Needs(gpus=2)) is group
        await asyncio.sleep(0.3)
        assert all(spare.dead for spare in spares)
        assert not group.dead
        spare = await pool.acquire(ONE)
        await pool.placed(group, room("ab"))
        await pool.release(spare)
        await asyncio.sleep(0.2)
        assert not spare.dead, "nobody waits any more"
        await pool.release(group)
        assert [pool.waiting, pool.rooms] == [{}, {}]

    run(work())


def test_what_a_dead_group_leaves(imagine: Imagine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its room where it is known; else all for such needs, of which no other group can wait."""
    _, pool = imagine(Needs(cpus=8, gpus=8))
    freed: list[Any] = []
    monkeypatch.setattr(pool_ray, "remove_placement_group", freed.append)
    monkeypatch.setattr(pool_ray, "free_rooms", lambda *given: freed.append(given))
    needs = Needs(gpus=2)

    async def work() -> None:
        first = await pool.acquire(needs)
        coming = asyncio.create_task(pool.acquire(needs))
        await asyncio.sleep(0.05)
        assert not coming.done(), "two wait"
        await pool.placed(first, room("aa"))
        second = await coming
        await pool.release(second, alive=False)
        assert [(n, [*known]) for n, known in freed] == [(needs, [room("aa")])]
        await pool.release(first, alive=False)
        assert freed[1:] == [room("aa")]
        await pool.release(await pool.acquire(needs))
        assert len(freed) == 2

    run(work())


def test_workers_are_used_again(imagine: Imagine) -> None:
    cluster, pool = imagine(Needs(cpus=2))

    async def work() -> None:
        first, second = await pool.acquire(ONE), await pool.acquire(ONE)
        assert first is not second
        third = asyncio.create_task(pool.acquire(ONE))
        await asyncio.sleep(0.05)
        assert not third.done(), "there is no third core"
        await pool.release(second)
        assert await third is second
        assert len(cluster.started) == 2

    run(work())


def test_idle_workers_make_room(imagine: Imagine) -> None:
    cluster, pool = imagine(Needs(cpus=2))

    async def work() -> None:
        for worker in [await pool.acquire(ONE), await pool.acquire(ONE)]:
            await pool.release(worker)
        wide = await pool.acquire(TWO)
        assert [worker.dead for worker in cluster.started] == [True, True, False]
        assert wide in cluster.placed

    run(work())


def test_dead_worker(imagine: Imagine) -> None:
    """Its place is free again."""
    cluster, pool = imagine(Needs(cpus=1))

    async def work() -> None:
        first = await pool.acquire(ONE)
        cluster.kill(first)
        await pool.release(first, alive=False)
        assert await pool.acquire(ONE) is not first

    run(work())


def test_worker_that_died_idle(imagine: Imagine) -> None:
    cluster, pool = imagine(Needs(cpus=2))

    async def work() -> None:
        one, two = await pool.acquire(ONE), await pool.acquire(ONE)
        await pool.release(one)
        await pool.release(two)
        cluster.kill(two)
        assert await pool.acquire(ONE) is one

    run(work())


def test_idle_for_long(imagine: Imagine) -> None:
    """Then its place is for others of the cluster; but one that was used since is not stopped."""
    _, pool = imagine(Needs(cpus=2), idle_seconds=0.2)

    async def work() -> None:
        one, two = await pool.acquire(ONE), await pool.acquire(ONE)
        await pool.release(one)
        await pool.release(two)
        await asyncio.sleep(0.1)
        assert await pool.acquire(ONE) is two
        await asyncio.sleep(0.2)
        assert one.dead
        assert not two.dead
        await pool.release(two)
        await asyncio.sleep(0.1)
        assert not two.dead
        await asyncio.sleep(0.2)
        assert two.dead
        assert pool.held == {}

    run(work())


def test_room_in_pieces(imagine: Imagine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two free cores on two machines do not hold a worker of two: an idle one has to go."""
    monkeypatch.setattr(pool_ray, "PATIENCE", 0.05)
    cluster, pool = imagine(Needs(cpus=2), Needs(cpus=2))

    async def work() -> None:
        workers = [await pool.acquire(ONE) for _ in range(4)]
        left = [worker for worker in workers if cluster.placed[worker] == 0]
        right = [worker for worker in workers if cluster.placed[worker] == 1]
        assert len(left) == len(right) == 2
        await pool.release(left[0], alive=False)
        await pool.release(right[0], alive=False)
        wide = await pool.acquire(TWO)
        await asyncio.sleep(0.2)
        assert wide not in cluster.placed
        await pool.release(left[1])
        await asyncio.sleep(0.2)
        assert wide in cluster.placed
        assert left[1].dead
        assert not right[1].dead

    run(work())


def test_who_is_not_wanted_any_more_does_not_wait(imagine: Imagine) -> None:
    _, pool = imagine(Needs(cpus=1))
    wanted = True

    async def work() -> None:
        nonlocal wanted
        held = await pool.acquire(ONE)
        waiting = asyncio.create_task(pool.acquire(ONE, lambda: wanted))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        wanted = False
        await pool.look_again()
        assert await waiting is None
        wanted = True
        await pool.release(held)
        assert await pool.acquire(ONE, lambda: wanted) is held

    run(work())


def test_device_is_the_worker_s(imagine: Imagine) -> None:
    """Not the cluster's, which may have got a GPU since the worker began to wait for its place."""
    cluster, pool = imagine(Needs(cpus=2))

    async def work() -> None:
        held = await pool.acquire(TWO)
        waiting = asyncio.create_task(pool.acquire(Needs(gpus=1)))
        await asyncio.sleep(0.05)
        assert pool.device(held) == "cpu"
        cluster.machines.append(Needs(cpus=1, gpus=1))
        await pool.look_again()
        worker = await waiting
        assert pool.device(worker) == "cuda"
        assert (worker.needs.gpus, pool.device(held)) == (1, "cpu")

    run(work())


class TestOthersWait:
    """Idle workers make room for other drivers: those that hold what these can use."""

    @pytest.mark.parametrize(
        ("waiting", "stopped"),
        [
            ([], False),
            ([Needs(cpus=1)], True),
            ([Needs(cpus=64)], False),
            ([Needs(cpus=0, gpus=1)], False),
            ([Needs(cpus=0, memory=100)], False),
            ([Needs(cpus=64), Needs(cpus=2)], True),
        ],
    )
    def test_idle_ones_go(
        self,
        imagine: Imagine,
        monkeypatch: pytest.MonkeyPatch,
        waiting: list[Needs],
        stopped: bool,
    ) -> None:
        monkeypatch.setattr(pool_ray, "LOOK_SECONDS", 0.01)
        monkeypatch.setattr(pool_ray, "waiting_work", lambda: waiting)
        _, pool = imagine(Needs(cpus=2, gpus=1, memory=1000))

        async def work() -> None:
            idle, busy = await pool.acquire(ONE), await pool.acquire(ONE)
            await pool.release(idle)
            watching = asyncio.create_task(pool.watch_cluster())
            await asyncio.sleep(0.2)
            watching.cancel()
            assert (idle.dead, busy.dead) == (stopped, False)

        run(work())

    def test_the_watch_outlasts_an_error(
        self, imagine: Imagine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_ray, "LOOK_SECONDS", 0.01)
        cluster, pool = imagine(Needs(cpus=1))
        answers = iter([RaySystemError("away")])

        def present() -> list[Needs]:
            if error := next(answers, None):
                raise error
            return machines_ray.present()

        monkeypatch.setattr(pool_ray, "present", present)

        async def work() -> None:
            watching = asyncio.create_task(pool.watch_cluster())
            held = await pool.acquire(ONE)
            waiting = asyncio.create_task(pool.acquire(ONE))
            await asyncio.sleep(0.1)
            cluster.machines.append(ONE)
            assert await waiting is not held
            watching.cancel()

        run(work())
