"""A pool of long-lived Ray workers: torch is imported and data opened once, not for every trial."""

import asyncio
import socket
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayActorError

from stageflow.artifact import Artifacts, Part
from stageflow.context import Cancelled, Shard
from stageflow.execution import execute
from stageflow.executor import Failed, failure
from stageflow.group_ray import Interrupted, in_group, ranks, share, wait_for_room
from stageflow.plan import excess
from stageflow.stage import Needs, Node
from stageflow.store import NotFound, StoreError

Handle: TypeAlias = Any
"""A handle of an actor; its methods are made at run time, so that no checker can know them."""

PATIENCE = 20.0  # seconds for a new worker to be placed, before idle ones make room for it
ANSWER_SECONDS = 5.0  # for an idle worker to answer, before it counts as dead
PROGRESS_SECONDS = 0.5  # progress is told no more often


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One shard of a node to execute, by the process that calls it."""

    node: Node
    shard: Shard
    artifacts: Artifacts
    coordinator: Handle
    token: str

    def __call__(self, device: str, rank: int = 0, ranks: int = 1) -> Part | Failed:
        """Execute it; a failure is returned, because an exception may not travel."""
        try:
            self._check_store()
            return execute(
                self.node,
                artifacts=self.artifacts,
                hooks=_Hooks(self.coordinator, self.node.key, self.shard),
                device=device,
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
        self.artifacts = artifacts
        self.coordinator = coordinator
        self.token = token
        self.needs = needs

    def ready(self) -> None:
        """Answer, which shows that the cluster has a place for this worker, and for its group."""
        if ranks(self.needs) > 1:
            wait_for_room(self.needs)

    def execute(self, node: Node, shard: Shard, device: str) -> Part | Failed | Interrupted:
        """Execute one shard; a failure is returned, because an exception may not travel."""
        work = Work(
            node=node,
            shard=shard,
            artifacts=self.artifacts,
            coordinator=self.coordinator,
            token=self.token,
        )
        return in_group(work, self.needs) if ranks(self.needs) > 1 else work(device)


@dataclass(slots=True)
class _Hooks:
    """Passes what a stage tells to the coordinator, and waits for the answer to a report."""

    coordinator: Handle
    key: str
    shard: Shard
    told: float = 0.0

    def progress(self, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if done >= total or now - self.told > PROGRESS_SECONDS:
            self.told = now
            self.coordinator.progress.remote(self.key, self.shard.index, done, total, note)

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        wanted: ray.ObjectRef[bool] = self.coordinator.report.remote(self.key, step, metrics)
        return ray.get(wanted)


@dataclass(slots=True)
class Pool:
    """Workers by the resources they hold.

    Idle ones make room when the cluster is full, and end after `idle_seconds`: others may want it.
    """

    artifacts: Artifacts
    coordinator: Handle
    token: str
    idle_seconds: float
    idle: dict[Needs, list[Handle]] = field(default_factory=lambda: defaultdict(list))
    idle_since: dict[Handle, float] = field(default_factory=dict)
    held: dict[Handle, Needs] = field(default_factory=dict)
    placing: set[asyncio.Task[None]] = field(default_factory=set)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def acquire(self, needs: Needs) -> Handle:
        """A worker for these needs, as soon as there is room; give it back with `release`."""
        needs = fitted(needs)
        async with self.changed:
            while True:
                if self.idle[needs]:
                    worker = self.idle[needs].pop()
                    del self.idle_since[worker]
                    if await _answers(worker):
                        return worker
                    self._stop(worker)
                elif self._fits(needs):
                    return self._start(needs)
                elif not self._stop_spare():
                    await self.changed.wait()

    async def release(self, worker: Handle, *, alive: bool = True) -> None:
        """Take a worker back, or forget it because it died."""
        async with self.changed:
            if alive:
                loop = asyncio.get_running_loop()
                self.idle[self.held[worker]].append(worker)
                since = self.idle_since[worker] = loop.time()
                loop.call_later(self.idle_seconds, self._retire, worker, since)
            else:
                self._stop(worker)
            self.changed.notify_all()

    def _fits(self, needs: Needs) -> bool:
        total, held = capacity(), list(self.held.values())
        if not held or held.count(needs) >= slots(needs):
            return not held
        return all(
            sum(getattr(n, name) for n in held) + getattr(needs, name)
            <= getattr(total, name) + 1e-6
            for name in _KINDS
            if getattr(needs, name)
        )

    def _start(self, needs: Needs) -> Handle:
        actor: Any = ray.remote(Worker)
        own = needs if ranks(needs) == 1 else Needs(cpus=0)  # a group's ranks hold what it needs
        memory = {"memory": own.memory} if own.memory else {}
        options = actor.options(num_cpus=own.cpus, num_gpus=own.gpus, **memory)
        worker: Handle = options.remote(self.artifacts, self.coordinator, self.token, needs)
        self.held[worker] = needs
        task = asyncio.create_task(self._see_placed(worker))
        self.placing.add(task)
        task.add_done_callback(self.placing.discard)
        return worker

    async def _see_placed(self, worker: Handle) -> None:
        """Stop idle workers until the new one is placed: what fits in sum may not fit in pieces."""
        placed = asyncio.wrap_future(worker.ready.remote().future())
        while not (await asyncio.wait([placed], timeout=PATIENCE))[0]:
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

    def _stop(self, worker: Handle) -> None:
        needs = self.held.pop(worker)
        if self.idle_since.pop(worker, None) is not None:
            self.idle[needs].remove(worker)
        ray.kill(worker)


async def _answers(worker: Handle) -> bool:
    """Whether an idle worker is still there; its machine may have gone."""
    try:
        await asyncio.wait_for(worker.ready.remote(), ANSWER_SECONDS)
    except (RayActorError, TimeoutError):
        return False
    return True


_KINDS = ("cpus", "gpus", "memory")


def nodes() -> list[Needs]:
    """What each living machine of the cluster has."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    resources = [node["Resources"] for node in found if node["Alive"]]
    return [
        Needs(cpus=r.get("CPU", 0), gpus=r.get("GPU", 0), memory=int(r.get("memory", 0)))
        for r in resources
    ]


def capacity() -> Needs:
    """All that the cluster has."""
    each = nodes()
    return Needs(
        cpus=sum(node.cpus for node in each),
        gpus=sum(node.gpus for node in each),
        memory=sum(node.memory for node in each),
    )


def largest() -> Needs:
    """The most that one execution can have of each kind."""
    each = nodes()
    return Needs(
        cpus=max(node.cpus for node in each),
        gpus=max(node.gpus for node in each),
        memory=max(node.memory for node in each),
    )


def slots(needs: Needs) -> int:
    """How many executions with these needs the whole cluster can hold at once; at least one."""
    needs = fitted(needs)
    return max(1, _rooms(needs) // ranks(needs))


def lacking(needs: Needs) -> str:
    """What this cluster can never give of the needs, in words; "" where there is room for them."""
    needs = fitted(needs)
    count, rooms = ranks(needs), _rooms(needs)
    if beyond := excess(share(needs), largest()):
        return beyond
    return f"needs {count} GPUs, the cluster has room for {rooms}" if 1 < count > rooms else ""


def _rooms(needs: Needs) -> int:
    """How many processes with a share of these needs the whole cluster can hold."""
    return sum(_places(node, share(needs)) for node in nodes())


def _places(node: Needs, needs: Needs) -> int:
    if 0 < needs.gpus < 1:  # shares of one GPU, not of two halves
        share = int(1 / needs.gpus + 1e-6)
        needs = replace(needs, gpus=1 / share)
    kinds = [name for name in _KINDS if getattr(needs, name)]
    rooms = [int(getattr(node, name) / getattr(needs, name) + 1e-6) for name in kinds]
    return min(rooms, default=1)


def fitted(needs: Needs) -> Needs:
    """The needs as this cluster can meet them: without GPUs where there are none at all."""
    if needs.gpus and not capacity().gpus:
        return Needs(cpus=max(needs.cpus, 1.0), memory=needs.memory)
    return needs
