"""A pool of long-lived Ray workers: torch is imported and data opened once, not for every trial."""

import asyncio
import os
import socket
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stageflow.artifact import Artifacts, Part
from stageflow.context import Cancelled, Shard
from stageflow.execution import execute
from stageflow.executor import Failed, failure
from stageflow.group_ray import Interrupted, free_rooms, in_group, ranks
from stageflow.machines_ray import KINDS, Machines, present, waiting_work
from stageflow.settings import home
from stageflow.stage import Needs, Node
from stageflow.store import NotFound, StoreError

Handle: TypeAlias = Any
"""A handle of an actor; its methods are made at run time, so that no checker can know them."""

PATIENCE = 20.0  # seconds for a new worker to be placed, before idle ones make room for it
PATIENCE_WITH_GROUP = 60.0  # the same for a group, of which several processes have to start
ANSWER_SECONDS = 5.0  # for an idle worker to answer, before it counts as dead
PROGRESS_SECONDS = 0.5  # progress is told no more often
LOOK_SECONDS = 2.0  # between two looks at which machines the cluster has

DEVICE_VARIABLE = "STAGEFLOW_DEVICE"
"""What stages compute on, on a machine whose GPUs are only pretended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One shard of a node to execute, by the process that calls it."""

    node: Node
    shard: Shard
    artifacts: Artifacts
    coordinator: Handle
    token: str
    group: Handle | None = None
    """The worker that does it in a group."""

    def __call__(self, device: str, rank: int = 0, ranks: int = 1) -> Part | Failed:
        """Execute it; a failure is returned, because an exception may not travel."""
        try:
            if self.group is not None and rank == 0:
                room = get_current_placement_group()
                ray.get(self.coordinator.placed.remote(self.group, room))
            self._check_store()
            return execute(
                self.node,
                artifacts=self.artifacts,
                hooks=_Hooks(self.coordinator, self.node.key, self.shard),
                device=os.environ.get(DEVICE_VARIABLE) or device,
                shard=self.shard,
                rank=rank,
                ranks=ranks,
            )
        except Cancelled as error:
            return Failed(str(error), cancelled=True)
        except Exception as error:  # travels as text to the coordinator, which tells it
            traceback.print_exc()  # into the worker's log, for those who have to mend the stage
            return failure(error)

    def _check_store(self) -> None:
        """Raise StoreError unless this machine sees the object that the driver has made."""
        try:
            self.artifacts.store.read(self.token)
        except NotFound as error:
            raise StoreError(
                f"machine {socket.gethostname()} does not see what the driver wrote to "
                f"{self.artifacts.store.uri}: give a store that all machines reach"
            ) from error


class Worker:
    """The actor: executes nodes one after another, in its one process or in a group of others."""

    def __init__(self, artifacts: Artifacts, coordinator: Handle, token: str, needs: Needs) -> None:
        # Not the driver's cache, but that of this machine.
        self.artifacts = replace(artifacts, cache=home() / "cache")
        self.coordinator = coordinator
        self.token = token
        self.needs = needs

    def ready(self) -> None:
        """Answer, which shows that this worker is alive and has its place; its group may not."""

    def execute(self, node: Node, shard: Shard, device: str) -> Part | Failed | Interrupted:
        """Execute one shard; a failure is returned, because an exception may not travel."""
        many = ranks(self.needs) > 1
        work = Work(
            node=node,
            shard=shard,
            artifacts=self.artifacts,
            coordinator=self.coordinator,
            token=self.token,
            group=ray.get_runtime_context().current_actor if many else None,
        )
        return in_group(work, self.needs) if many else work(device)


@dataclass(slots=True)
class _Hooks:
    """Passes what a stage tells to the coordinator, and waits for the answer to a report."""

    coordinator: Handle
    key: str
    shard: Shard
    told: float = 0.0
    untold: tuple[int, int, str] | None = None

    def progress(self, done: int, total: int, note: str) -> None:
        self.untold = (done, total, note)
        if done >= total or time.monotonic() - self.told > PROGRESS_SECONDS:
            self._tell()

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        self._tell()  # so that it is known how far this was, should the worker die before it saves
        wanted: ray.ObjectRef[bool] = self.coordinator.report.remote(self.key, step, metrics)
        return ray.get(wanted)

    def _tell(self) -> None:
        if self.untold is not None:
            self.coordinator.progress.remote(self.key, self.shard.index, *self.untold)
            self.told, self.untold = time.monotonic(), None


@dataclass(slots=True)
class Pool:
    """Workers by the resources they hold.

    Idle ones make room when the cluster is full or work of other drivers waits, and end after
    `idle_seconds`.

    The worker of a group holds nothing; its ranks do, once it executes. Until they have begun it is
    `waiting`, one at a time for equal needs, so that what a dead one leaves behind is known by
    them; then Ray's placement group is among the `rooms`.
    """

    artifacts: Artifacts
    coordinator: Handle
    token: str
    idle_seconds: float
    machines: Machines = field(default_factory=Machines)
    idle: dict[Needs, list[Handle]] = field(default_factory=lambda: defaultdict(list))
    idle_since: dict[Handle, float] = field(default_factory=dict)
    held: dict[Handle, Needs] = field(default_factory=dict)
    waiting: dict[Handle, asyncio.Future[None]] = field(default_factory=dict)
    rooms: dict[Handle, PlacementGroup] = field(default_factory=dict)
    placing: set[asyncio.Task[None]] = field(default_factory=set)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def acquire(
        self, asked: Needs, wanted: Callable[[], bool] = lambda: True
    ) -> Handle | None:
        """A worker for these needs, as soon as there is room; give it back with `release`.

        None once it is not `wanted` any more; see `look_again`.
        """
        async with self.changed:
            while wanted():
                needs = self.machines.fitted(asked)
                if any(self.held[group] == needs for group in self.waiting):
                    await self.changed.wait()
                elif self.idle[needs]:
                    worker = self.idle[needs].pop()
                    del self.idle_since[worker]
                    if await _answers(worker):
                        return self._begun(worker)
                    self._stop(worker)
                elif self._fits(needs):
                    return self._begun(self._start(needs))
                elif not self._stop_spare():
                    await self.changed.wait()
        return None

    async def look_again(self) -> None:
        """Have those who wait see whether they are still wanted, and what has changed."""
        async with self.changed:
            self.changed.notify_all()

    def device(self, worker: Handle) -> str:
        """What a worker computes on."""
        return "cuda" if self.held[worker].gpus else "cpu"

    async def watch_cluster(self) -> None:
        """Use machines that join, and let go of idle workers that others wait for; for ever."""
        before: list[Needs] = []
        while True:
            try:
                if (now := await asyncio.to_thread(present)) != before:
                    before = now
                    await self.look_again()
                if self.idle_since:
                    waiting = await asyncio.to_thread(waiting_work)
                    async with self.changed:
                        self._stop_spare_for(waiting, before)
            except RayError:  # it may answer next time
                traceback.print_exc()
            await asyncio.sleep(LOOK_SECONDS)

    async def placed(self, worker: Handle, room: PlacementGroup) -> None:
        """The ranks of a group have begun, in this room."""
        async with self.changed:
            if worker in self.waiting:
                self.waiting.pop(worker).set_result(None)
                self.rooms[worker] = room
                self.changed.notify_all()

    async def release(self, worker: Handle, *, alive: bool = True) -> None:
        """Take a worker back, or forget it because it died."""
        async with self.changed:
            waiting, room = self.waiting.pop(worker, None), self.rooms.pop(worker, None)
            if waiting is not None:
                waiting.set_result(None)
            if alive:
                loop = asyncio.get_running_loop()
                self.idle[self.held[worker]].append(worker)
                since = self.idle_since[worker] = loop.time()
                loop.call_later(self.idle_seconds, self._retire, worker, since)
            else:
                needs = self.held[worker]
                self._stop(worker)
                if waiting is not None:
                    free_rooms(needs, self.rooms.values())
                elif room is not None:
                    remove_placement_group(room)
            self.changed.notify_all()

    def _fits(self, needs: Needs) -> bool:
        total, held = self.machines.capacity(), list(self.held.values())
        if not held or held.count(needs) >= self.machines.slots(needs):
            return not held
        return all(
            sum(getattr(n, name) for n in held) + getattr(needs, name)
            <= getattr(total, name) + 1e-6
            for name in KINDS
            if getattr(needs, name)
        )

    def _start(self, needs: Needs) -> Handle:
        actor: Any = ray.remote(Worker)
        if ranks(needs) == 1:
            memory = {"memory": needs.memory} if needs.memory else {}
            options = actor.options(num_cpus=needs.cpus, num_gpus=needs.gpus, **memory)
        else:  # beside the driver: if that machine goes, so does the job, with all that it holds
            here = NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            )
            options = actor.options(num_cpus=0, num_gpus=0, scheduling_strategy=here)
        worker: Handle = options.remote(self.artifacts, self.coordinator, self.token, needs)
        self.held[worker] = needs
        if ranks(needs) == 1:
            self._make_room(asyncio.wrap_future(worker.ready.remote().future()), PATIENCE)
        return worker

    def _begun(self, worker: Handle) -> Handle:
        """Note that it is about to execute something."""
        if ranks(self.held[worker]) > 1:
            waiting = self.waiting[worker] = asyncio.get_running_loop().create_future()
            self._make_room(waiting, PATIENCE_WITH_GROUP)
        return worker

    def _make_room(self, placed: asyncio.Future[None], patience: float) -> None:
        task = asyncio.create_task(self._see_placed(placed, patience))
        self.placing.add(task)
        task.add_done_callback(self.placing.discard)

    async def _see_placed(self, placed: asyncio.Future[None], patience: float) -> None:
        """Stop idle workers until the new one is placed: what fits in sum may not fit in pieces."""
        while not (await asyncio.wait([placed], timeout=patience))[0]:
            async with self.changed:
                self._stop_spare()
        placed.exception()  # of a worker that died; whoever uses it hears of it

    def _retire(self, worker: Handle, since: float) -> None:
        if self.idle_since.get(worker) == since:
            self._stop(worker)

    def _stop_spare(self) -> bool:
        """Stop some idle worker; False if there is none."""
        spare = next((worker for workers in self.idle.values() for worker in workers), None)
        if spare is None:
            return False
        self._stop(spare)
        return True

    def _stop_spare_for(self, waiting: Sequence[Needs], machines: Sequence[Needs]) -> None:
        """Stop an idle worker that holds what work of others waits for, and could have."""
        for needs in waiting:
            kinds = [kind for kind in KINDS if getattr(needs, kind)]
            fits = any(all(getattr(m, k) >= getattr(needs, k) for k in kinds) for m in machines)
            for worker in self.idle_since:
                if fits and any(getattr(self.held[worker], kind) for kind in kinds):
                    self._stop(worker)
                    return

    def _stop(self, worker: Handle) -> None:
        needs = self.held.pop(worker)
        if self.idle_since.pop(worker, None) is not None:
            self.idle[needs].remove(worker)
        ray.kill(worker)


async def _answers(worker: Handle) -> bool:
    """Whether an idle worker is still there; its machine may have gone."""
    try:
        await asyncio.wait_for(worker.ready.remote(), ANSWER_SECONDS)
    except (RayError, TimeoutError):
        return False
    return True
