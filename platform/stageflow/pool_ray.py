"""A pool of long-lived Ray worker actors, so that torch is imported and data opened once, not per trial."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle

from stageflow.artifact import Artifacts, Part
from stageflow.context import Cancelled, Shard
from stageflow.execution import execute
from stageflow.executor import Failed, failure
from stageflow.stage import Needs, Node


class Worker:
    """The actor: executes nodes one after another in one process."""

    def __init__(self, artifacts: Artifacts, coordinator: ActorHandle) -> None:
        self.artifacts = artifacts
        self.coordinator = coordinator

    def execute(self, node: Node, shard: Shard, device: str) -> Part | Failed:
        """Execute one shard; a failure is returned, because an exception of a stage may not travel."""
        try:
            hooks = _Hooks(self.coordinator, node.key, shard)
            return execute(node, artifacts=self.artifacts, hooks=hooks, device=device, shard=shard)
        except Cancelled as error:
            return Failed(str(error), cancelled=True)
        except Exception as error:  # travels as text to the coordinator, which tells it
            return failure(error)


@dataclass(frozen=True, slots=True)
class _Hooks:
    """Passes what a stage tells to the coordinator; a report waits for the answer, progress does not."""

    coordinator: ActorHandle
    key: str
    shard: Shard

    def progress(self, done: int, total: int, note: str) -> None:
        self.coordinator.progress.remote(self.key, self.shard.index, done, total, note)

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        answer: bool = ray.get(self.coordinator.report.remote(self.key, step, metrics))
        return answer


@dataclass(slots=True)
class Pool:
    """Workers by the resources they hold. Idle ones of another shape make room when the cluster is full."""

    artifacts: Artifacts
    coordinator: ActorHandle
    idle: dict[Needs, list[ActorHandle]] = field(default_factory=lambda: defaultdict(list))
    held: dict[ActorHandle, Needs] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def acquire(self, needs: Needs) -> ActorHandle:
        """A worker for these needs; waits while the cluster is full. Give it back with `release`."""
        needs = fitted(needs)
        async with self.changed:
            while True:
                if self.idle[needs]:
                    return self.idle[needs].pop()
                if self._fits(needs):
                    return self._start(needs)
                spare = next((w for workers in self.idle.values() for w in workers), None)
                if spare is not None:
                    self._stop(spare)
                else:
                    await self.changed.wait()

    async def release(self, worker: ActorHandle, *, alive: bool = True) -> None:
        """Take a worker back, or forget it because it died."""
        async with self.changed:
            if alive:
                self.idle[self.held[worker]].append(worker)
            else:
                self._stop(worker)
            self.changed.notify_all()

    def slots(self, needs: Needs) -> int:
        """How many executions with these needs the whole cluster can hold at once; at least one."""
        total, needs = capacity(), fitted(needs)
        per_kind = [
            getattr(total, name) / getattr(needs, name) for name in _KINDS if getattr(needs, name)
        ]
        return max(1, int(min(per_kind, default=1)))

    def _fits(self, needs: Needs) -> bool:
        total = capacity()
        return not self.held or all(
            sum(getattr(n, name) for n in self.held.values()) + getattr(needs, name)
            <= getattr(total, name) + 1e-6
            for name in _KINDS
            if getattr(needs, name)
        )

    def _start(self, needs: Needs) -> ActorHandle:
        options: dict[str, Any] = {"num_cpus": needs.cpus, "num_gpus": needs.gpus}
        if needs.memory:
            options["memory"] = needs.memory
        worker = ray.remote(Worker).options(**options).remote(self.artifacts, self.coordinator)
        self.held[worker] = needs
        return worker

    def _stop(self, worker: ActorHandle) -> None:
        needs = self.held.pop(worker)
        if worker in self.idle[needs]:
            self.idle[needs].remove(worker)
        ray.kill(worker)


_KINDS = ("cpus", "gpus", "memory")


def capacity() -> Needs:
    """All that the cluster has."""
    total = ray.cluster_resources()
    return Needs(
        cpus=total.get("CPU", 0), gpus=total.get("GPU", 0), memory=int(total.get("memory", 0))
    )


def fitted(needs: Needs) -> Needs:
    """The needs as this cluster can meet them: without GPUs where there are none at all."""
    if needs.gpus and not capacity().gpus:
        return Needs(cpus=max(needs.cpus, 1.0), memory=needs.memory)
    return needs
