"""The coordinator: the one actor of a sweep that knows what is in flight.

Trials and executors ask it for nodes; however many ask for one key at the same time, it is made
once. It follows every demand, so that work nobody wants any more is cancelled, and it replays the
reports of stages that were made earlier, so that a trial served from the store looks to the search
like one that ran.
"""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup

from stageflow.artifact import Artifacts, Manifest, Part, folder_of
from stageflow.claim import LOOK_SECONDS, Claims
from stageflow.context import UNWANTED, Report, Shard
from stageflow.execution import assemble, unfinished
from stageflow.executor import (
    MADE_MEANWHILE,
    Done,
    Event,
    Failed,
    Kind,
    OnStale,
    Outcome,
    blocked,
    failure,
    finished,
)
from stageflow.group_ray import Interrupted
from stageflow.pool_ray import Handle, Pool
from stageflow.stage import Node, ancestry

RETRIES = 3  # times that a shard is executed again because its worker died, without getting on
EVENTS = 10_000  # kept for those who watch


@dataclass(slots=True)
class _Flight:
    """A node that somebody asked for: its outcome to come, and what it has told so far."""

    node: Node
    outcome: "asyncio.Task[Outcome]"
    reports: list[Report] = field(default_factory=list)
    progress: dict[int, tuple[int, int]] = field(default_factory=dict)  # done and total by shard
    lost: dict[int, int] = field(default_factory=dict)  # done by shard, when a worker died on it
    repeated: int = 0  # units of progress that were done again


class Coordinator:
    """The actor (asynchronous: every method may wait without blocking the others)."""

    def __init__(
        self, artifacts: Artifacts, on_stale: OnStale, token: str, idle_seconds: float
    ) -> None:
        """`token` names an object in the store, by which workers know that they see the same, and
        other drivers that this one lives."""
        self.artifacts = artifacts
        self.claims = Claims(artifacts.store, token)
        self.living = ExitStack()
        self.living.enter_context(self.claims.living())  # until the process of this actor ends
        self.on_stale = on_stale
        me = ray.get_runtime_context().current_actor
        self.pool = Pool(artifacts, me, token, idle_seconds)
        self.watching: asyncio.Task[None] | None = None
        self.flights: dict[str, _Flight] = {}
        self.wanted: dict[str, set[str]] = defaultdict(set)
        self.past: dict[str, Sequence[Report]] = {}
        self.events: deque[Event] = deque(maxlen=EVENTS)
        self.told = 0
        self.news = asyncio.Event()

    async def run(self, demand: str, targets: list[Node]) -> dict[str, Outcome]:
        """Make the targets on behalf of `demand`; the outcome of every node that was looked at.

        Looks anew at what was settled before: what failed is tried again, what is there is a hit.
        """
        for node in ancestry(*targets):
            if self._settled(node):
                del self.flights[node.key]
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
            news, over = self.news, outcome.done()
            reports = await self._reports(target, metric) if metric else []
            if len(reports) > seen:
                return reports[seen].metrics, None
            if over:
                result = outcome.result()
                return (result.manifest.metrics if isinstance(result, Done) else {}), result
            await news.wait()

    async def release(self, demand: str) -> None:
        """Forget a demand: what only it wanted is cancelled at its next report."""
        for wanting in self.wanted.values():
            wanting.discard(demand)

    async def report(self, key: str, step: int, metrics: Mapping[str, float]) -> bool:
        """A running stage tells metrics; the answer is whether anyone still wants its result."""
        flight = self.flights[key]
        if all(earlier.step < step for earlier in flight.reports):  # else told again after a death
            flight.reports.append(Report(step, metrics))
            self._tell(Event(Kind.REPORT, flight.node.name, key, done=step, metrics=metrics))
            self._wake()
        return bool(self.wanted[key])

    async def progress(self, key: str, shard: int, done: int, total: int, note: str) -> None:
        """A running stage tells how far it is; shards are added up."""
        flight = self.flights[key]
        if shard in flight.lost:  # the first that is told since it was begun again
            flight.repeated += max(0, flight.lost.pop(shard) - done + 1)
        flight.progress[shard] = (done, total)
        done, total = (sum(numbers) for numbers in zip(*flight.progress.values(), strict=True))
        self._tell(Event(Kind.PROGRESS, flight.node.name, key, note, done, total))

    async def placed(self, worker: Handle, room: PlacementGroup) -> None:
        """The ranks of a worker's group have begun."""
        await self.pool.placed(worker, room)

    async def events_so_far(self) -> int:
        """How many events there were."""
        return self.told

    async def events_after(self, count: int) -> list[Event]:
        """All events but the first `count` (of very many, the last ones)."""
        fresh = max(0, self.told - count)
        return list(self.events)[-fresh:] if fresh else []

    def _want(self, demand: str, targets: list[Node]) -> None:
        for node in ancestry(*targets):
            self.wanted[node.key].add(demand)

    def _ensure(self, node: Node) -> "asyncio.Task[Outcome]":
        """Single flight: the one task that makes this node; a cancelled one is started anew."""
        if self.watching is None:
            self.watching = asyncio.create_task(self.pool.watch_cluster())
        flight, settled = self.flights.get(node.key), self._settled(node)
        if flight is None or (isinstance(settled, Failed) and settled.cancelled):
            flight = _Flight(node, asyncio.create_task(self._settle(node)))
            flight.outcome.add_done_callback(lambda _: self._wake())
            self.flights[node.key] = flight
        return flight.outcome

    async def _reports(self, target: Node, metric: str) -> list[Report]:
        """What was told of `metric` on the way to the target so far, in the order of its ancestry.

        Not in the order of time, and with what lies before a hit: so a trial that is served from
        the store hears the same as one for which the stages run.
        """
        nodes, looked_at = ancestry(target), {target.key}
        for node in reversed(nodes):
            if node.key in looked_at and not self._is_hit(node):
                looked_at |= {parent.key for parent in node.parents}
        found: list[Report] = []
        for node in nodes:
            flight = self.flights.get(node.key)
            reports: Sequence[Report] = flight.reports if flight else ()
            if node.key not in looked_at and not reports:
                reports = await self._past_reports(node)
            found += [report for report in reports if metric in report.metrics]
            if node.key in looked_at and not (flight and flight.outcome.done()):
                break
        return found

    def _settled(self, node: Node) -> Outcome | None:
        flight = self.flights.get(node.key)
        return flight.outcome.result() if flight and flight.outcome.done() else None

    def _is_hit(self, node: Node) -> bool:
        outcome = self._settled(node)
        return isinstance(outcome, Done) and not outcome.executed

    async def _past_reports(self, node: Node) -> Sequence[Report]:
        if node.key not in self.past:
            manifest = await asyncio.to_thread(self.artifacts.manifest, node)
            self.past[node.key] = manifest.reports if manifest else ()
        return self.past[node.key]

    async def _settle(self, node: Node) -> Outcome:
        outcome = await self._attempt(node)
        while isinstance(outcome, Failed) and outcome.cancelled and self.wanted[node.key]:
            outcome = await self._attempt(node)  # somebody wants it again since it was cancelled
        if isinstance(outcome, Failed):
            if not (outcome.cancelled and outcome.blocked_by):  # the head of a chain says it
                self._tell(Event(_kind(outcome), node.name, node.key, outcome.reason))
        else:
            self.flights[node.key].reports = list(outcome.manifest.reports)
        return outcome

    async def _attempt(self, node: Node) -> Outcome:
        try:
            return await self._make(node)
        except Exception as error:  # concerns this node and what depends on it, nothing else
            return failure(error)

    async def _make(self, node: Node) -> Outcome:
        manifest = await asyncio.to_thread(self.artifacts.manifest, node)
        stale = manifest is not None and manifest.fingerprint != node.stage.fingerprint
        if stale and self.on_stale is OnStale.ASK:
            return Failed(
                f"the code of {node.name} has changed under version {node.stage.version} since "
                "this was made: --on-stale=rerun makes it anew, --on-stale=keep uses it"
            )
        remake = self.on_stale is OnStale.RERUN
        if manifest is not None and not remake:
            return self._hit(node, manifest, stale)
        too_much = self.pool.machines.lacking(node.stage.needs)
        if too_much and manifest is None:
            return Failed(f"{node.name} {too_much}: declare less, or add a larger node")
        outcomes = await asyncio.gather(*(self._ensure(parent) for parent in node.parents))
        for parent, outcome in zip(node.parents, outcomes, strict=True):
            if waiting := blocked(parent, outcome):
                return waiting
        renewed = any(isinstance(o, Done) and o.executed for o in outcomes)
        if manifest is not None and not stale and not renewed:
            return self._hit(node, manifest, stale)
        return await self._claim(node, manifest)

    async def _claim(self, node: Node, outdated: Manifest | None) -> Outcome:
        """Make the node, or wait for another driver that shares the store and makes it now."""
        waiting = ""
        while holder := await asyncio.to_thread(self.claims.take, node.key):
            if holder != waiting:
                waiting = holder
                self._tell(Event(Kind.WAITING, node.name, node.key, f"{holder} makes it"))
            if not self.wanted[node.key]:
                return Failed(UNWANTED, cancelled=True)
            await asyncio.sleep(LOOK_SECONDS)
        try:
            found = await asyncio.to_thread(self.artifacts.manifest, node)
            if found is not None and found != outdated:
                return self._hit(node, found, stale=False, note=MADE_MEANWHILE)
            if found is not None:
                await asyncio.to_thread(self.artifacts.withdraw, found)
            return await self._execute(node)
        finally:
            await asyncio.to_thread(self.claims.give_back, node.key)

    def _hit(self, node: Node, manifest: Manifest, stale: bool, note: str = "") -> Done:
        note = f"code changed under version {node.stage.version}" if stale else note
        self._tell(Event(Kind.HIT, node.name, node.key, note, metrics=manifest.metrics))
        return Done(manifest, executed=False)

    async def _execute(self, node: Node) -> Outcome:
        count = self.pool.machines.slots(node.stage.needs) if node.stage.sharded else 1
        parts = await asyncio.gather(*(self._shard(node, Shard(i, count)) for i in range(count)))
        failed = next((part for part in parts if isinstance(part, Failed)), None)
        if failed is not None:
            return failed
        finished_parts = [part for part in parts if isinstance(part, Part)]
        whole = await asyncio.to_thread(assemble, node, finished_parts)
        manifest = await asyncio.to_thread(self.artifacts.publish, whole)
        flight = self.flights[node.key]
        total = sum(total for _, total in flight.progress.values())
        self._tell(finished(node, manifest, flight.repeated, total))
        return Done(manifest, executed=True)

    async def _shard(self, node: Node, shard: Shard) -> Part | Failed:
        """Execute one shard on some worker, again if the worker dies; the store keeps it."""
        record = f"{folder_of(node)}/shards/{unfinished(node, shard)}.json"
        if shard.count > 1:
            names = await asyncio.to_thread(lambda: list(self.artifacts.store.list(record)))
            if names:
                return Part.from_json(
                    json.loads(await asyncio.to_thread(self.artifacts.store.read, record))
                )
        flight = self.flights[node.key]
        deaths = reported = 0
        while True:
            part = await self._on_some_worker(node, shard)
            if not isinstance(part, Interrupted):
                break
            self._tell(Event(Kind.INTERRUPTED, node.name, node.key, part.reason))
            if shard.index in flight.progress:
                flight.lost[shard.index] = flight.progress[shard.index][0]
            # Neither a machine that was taken away nor a death further on speaks against the stage.
            went_on, reported = len(flight.reports) > reported, len(flight.reports)
            deaths = 0 if part.preempted else 1 if went_on else deaths + 1
            if deaths > RETRIES:
                return Failed(
                    f"the worker died {deaths} times in a row: out of memory, perhaps; at last: "
                    f"{part.reason}"
                )
        if shard.count > 1 and isinstance(part, Part):
            data = json.dumps(asdict(part)).encode()
            await asyncio.to_thread(self.artifacts.store.create, record, data)
        return part

    async def _on_some_worker(self, node: Node, shard: Shard) -> Part | Failed | Interrupted:
        """Execute one shard on a worker, once there is one."""
        if missing := self.pool.machines.missing(node.stage.needs):
            self._tell(Event(Kind.WAITING, node.name, node.key, missing))
        worker = await self.pool.acquire(node.stage.needs)
        if not self.wanted[node.key]:
            await self.pool.release(worker)
            return Failed(UNWANTED, cancelled=True)
        needs = self.pool.machines.fitted(node.stage.needs)
        device = "cuda" if needs.gpus else "cpu"
        self._tell(Event(Kind.STARTED, node.name, node.key, _started(node, shard, device)))
        alive = False
        try:
            part: Part | Failed | Interrupted = await worker.execute.remote(node, shard, device)
            alive = not isinstance(part, Interrupted)  # a group's worker, to leave nothing
        except RayTaskError as error:
            return failure(error.cause or error)
        except RayError as error:  # of the worker, its machine or its start, not of the stage
            preempted = isinstance(error, RayActorError) and error.preempted
            return Interrupted(str(error).splitlines()[0], preempted)
        finally:
            await self.pool.release(worker, alive=alive)
        return part

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        self.told += 1

    def _wake(self) -> None:
        """Let everybody who waits for news look again."""
        self.news.set()
        self.news = asyncio.Event()


def _started(node: Node, shard: Shard, device: str) -> str:
    """Which shard starts, and whether it has to do without the GPU that it asks for."""
    part = f"shard {shard.index + 1} of {shard.count}" if shard.count > 1 else ""
    without = (
        "on a CPU: the cluster has no GPU" if node.stage.needs.gpus and device == "cpu" else ""
    )
    return ", ".join(words for words in (part, without) if words)


def _kind(failed: Failed) -> Kind:
    if failed.cancelled:
        return Kind.CANCELLED
    return Kind.BLOCKED if failed.blocked_by else Kind.FAILED
