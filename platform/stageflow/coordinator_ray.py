"""The coordinator: the one actor of a sweep that knows what is in flight.

Trials and executors ask it for nodes; however many ask for one key at the same time, it is made once. It
follows every demand, so that work nobody wants any more is cancelled, and it replays the reports of stages
that were made earlier, so that a trial served from the store looks to the search like one that ran.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError

from stageflow.artifact import Artifacts, Manifest, Part, folder_of
from stageflow.context import UNWANTED, Report, Shard
from stageflow.execution import assemble
from stageflow.executor import Done, Event, Failed, Kind, OnStale, Outcome, failure, finished
from stageflow.fingerprint import fingerprint
from stageflow.pool_ray import Pool, fitted
from stageflow.stage import Node, ancestry

RETRIES = (
    3  # executions of one shard that may die with their worker before the node counts as failed
)


@dataclass(slots=True)
class _Flight:
    """A node that somebody asked for: its outcome to come, and what it has told so far."""

    node: Node
    outcome: "asyncio.Task[Outcome]"
    reports: list[Report] = field(default_factory=list)


class Coordinator:
    """The actor (asynchronous: every method may wait without blocking the others)."""

    def __init__(self, artifacts: Artifacts, on_stale: OnStale) -> None:
        self.artifacts = artifacts
        self.on_stale = on_stale
        self.pool = Pool(artifacts, ray.get_runtime_context().current_actor)
        self.flights: dict[str, _Flight] = {}
        self.wanted: dict[str, set[str]] = defaultdict(set)
        self.events: list[Event] = []
        self.told = asyncio.Condition()

    async def run(self, demand: str, targets: list[Node]) -> dict[str, Outcome]:
        """Make the targets on behalf of `demand`; the outcome of every node that was looked at."""
        self._want(demand, targets)
        await asyncio.gather(*(self._ensure(node) for node in targets))
        flights = [
            self.flights[node.key] for node in ancestry(*targets) if node.key in self.flights
        ]
        return {
            flight.node.key: flight.outcome.result() for flight in flights if flight.outcome.done()
        }

    async def start(self, demand: str, target: Node) -> None:
        """Begin to make the target on behalf of `demand`; `next` tells how it goes."""
        self._want(demand, [target])
        self._ensure(target)

    async def next(
        self, target: Node, seen: int, metric: str
    ) -> tuple[Mapping[str, float], Outcome | None]:
        """Wait for what comes after the first `seen` reports of `metric` on the way to the target.

        Returns (metrics, None) for a report and (metrics, outcome) at the end.
        """
        outcome = self._ensure(target)
        while True:
            reports = [
                report
                for node in ancestry(target)
                if node.key in self.flights
                for report in self.flights[node.key].reports
                if metric in report.metrics
            ]
            if len(reports) > seen:
                return reports[seen].metrics, None
            if outcome.done():
                result = outcome.result()
                return (result.manifest.metrics if isinstance(result, Done) else {}), result
            async with self.told:
                await self.told.wait()

    async def release(self, demand: str) -> None:
        """Forget a demand: what only it wanted is cancelled at its next report."""
        for wanting in self.wanted.values():
            wanting.discard(demand)

    async def report(self, key: str, step: int, metrics: Mapping[str, float]) -> bool:
        """A running stage tells metrics; the answer is whether anyone still wants its result."""
        flight = self.flights[key]
        if all(
            report.step < step for report in flight.reports
        ):  # else told again after a worker died
            flight.reports.append(Report(step, metrics))
            await self._tell(Event(Kind.REPORT, flight.node.name, key, done=step, metrics=metrics))
        return bool(self.wanted[key])

    async def progress(self, key: str, shard: int, done: int, total: int, note: str) -> None:
        """A running stage tells how far it is."""
        await self._tell(Event(Kind.PROGRESS, self.flights[key].node.name, key, note, done, total))

    async def events_after(self, count: int) -> list[Event]:
        """All events but the first `count`."""
        return self.events[count:]

    def _want(self, demand: str, targets: list[Node]) -> None:
        for node in ancestry(*targets):
            self.wanted[node.key].add(demand)

    def _ensure(self, node: Node) -> "asyncio.Task[Outcome]":
        """Single flight: the one task that makes this node; a cancelled one is started anew."""
        flight = self.flights.get(node.key)
        if flight is None or _was_cancelled(flight):
            flight = _Flight(node, asyncio.create_task(self._settle(node)))
            self.flights[node.key] = flight
        return flight.outcome

    async def _settle(self, node: Node) -> Outcome:
        outcome = await self._attempt(node)
        while isinstance(outcome, Failed) and outcome.cancelled and self.wanted[node.key]:
            outcome = await self._attempt(node)  # somebody wants it again since it was cancelled
        if isinstance(outcome, Failed):
            if not (outcome.cancelled and outcome.blocked_by):  # the head of a chain says it
                await self._tell(Event(_kind(outcome), node.name, node.key, outcome.reason))
        else:
            self.flights[node.key].reports = list(outcome.manifest.reports)
        async with self.told:
            self.told.notify_all()
        return outcome

    async def _attempt(self, node: Node) -> Outcome:
        try:
            return await self._make(node)
        except Exception as error:  # concerns this node and what depends on it, nothing else
            return failure(error)

    async def _make(self, node: Node) -> Outcome:
        manifest = await asyncio.to_thread(self.artifacts.manifest, node)
        stale = manifest is not None and manifest.fingerprint != fingerprint(node.stage.function)
        if stale and self.on_stale is OnStale.ASK:
            return Failed(
                f"the code of {node.name} has changed under version {node.stage.version} since this artifact "
                "was made: --on-stale=rerun makes it anew, --on-stale=keep uses it"
            )
        remake = self.on_stale is OnStale.RERUN
        if manifest is not None and not remake:
            return await self._hit(node, manifest, stale)
        outcomes = await asyncio.gather(*(self._ensure(parent) for parent in node.parents))
        for parent, outcome in zip(node.parents, outcomes, strict=True):
            if isinstance(outcome, Failed):
                reason = outcome.reason
                return Failed(
                    reason if outcome.blocked_by else f"{parent.name}: {reason}",
                    blocked_by=parent.key,
                    cancelled=outcome.cancelled,
                )
        if manifest is not None:
            if not stale and not any(isinstance(o, Done) and o.executed for o in outcomes):
                return await self._hit(node, manifest, stale)
            await asyncio.to_thread(self.artifacts.withdraw, manifest)
        return await self._execute(node)

    async def _hit(self, node: Node, manifest: Manifest, stale: bool) -> Done:
        note = f"code changed under version {node.stage.version}" if stale else ""
        await self._tell(Event(Kind.HIT, node.name, node.key, note, metrics=manifest.metrics))
        return Done(manifest, executed=False)

    async def _execute(self, node: Node) -> Outcome:
        count = self.pool.slots(node.stage.needs) if node.stage.sharded else 1
        parts = await asyncio.gather(*(self._shard(node, Shard(i, count)) for i in range(count)))
        failed = next((part for part in parts if isinstance(part, Failed)), None)
        if failed is not None:
            return failed
        whole = assemble(node, [part for part in parts if isinstance(part, Part)])
        manifest = await asyncio.to_thread(self.artifacts.publish, whole)
        await self._tell(finished(node, manifest))
        return Done(manifest, executed=True)

    async def _shard(self, node: Node, shard: Shard) -> Part | Failed:
        """Execute one shard on some worker, again if the worker dies; a finished shard is kept in the store."""
        record = f"{folder_of(node)}/shards/{shard.index}-of-{shard.count}.json"
        if shard.count > 1:
            names = await asyncio.to_thread(lambda: list(self.artifacts.store.list(record)))
            if names:
                return Part.from_json(
                    json.loads(await asyncio.to_thread(self.artifacts.store.read, record))
                )
        for _ in range(RETRIES + 1):
            worker = await self.pool.acquire(node.stage.needs)
            if not self.wanted[node.key]:
                await self.pool.release(worker)
                return Failed(UNWANTED, cancelled=True)
            note = f"shard {shard.index + 1} of {shard.count}" if shard.count > 1 else ""
            await self._tell(Event(Kind.STARTED, node.name, node.key, note))
            device = "cuda" if fitted(node.stage.needs).gpus else "cpu"
            try:
                part: Part | Failed = await worker.execute.remote(node, shard, device)
            except RayActorError as error:
                await self.pool.release(worker, alive=False)
                await self._tell(
                    Event(Kind.INTERRUPTED, node.name, node.key, str(error).splitlines()[0])
                )
                continue
            await self.pool.release(worker)
            if shard.count > 1 and isinstance(part, Part):
                data = json.dumps(asdict(part)).encode()
                await asyncio.to_thread(self.artifacts.store.create, record, data)
            return part
        return Failed(f"the worker died {RETRIES + 1} times in a row: out of memory, perhaps")

    async def _tell(self, event: Event) -> None:
        self.events.append(event)
        async with self.told:
            self.told.notify_all()


def _kind(failed: Failed) -> Kind:
    if failed.cancelled:
        return Kind.CANCELLED
    return Kind.BLOCKED if failed.blocked_by else Kind.FAILED


def _was_cancelled(flight: _Flight) -> bool:
    if not flight.outcome.done():
        return False
    outcome: Any = flight.outcome.result()
    return isinstance(outcome, Failed) and outcome.cancelled
