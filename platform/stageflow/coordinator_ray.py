"""The coordinator: the one actor of a sweep that knows what is in flight.

Trials and executors ask it for nodes; however many ask for one key at the same time, it is made
once. It follows every demand, so that work nobody wants any more is cancelled, and it replays the
reports of stages that were made earlier, so that a trial served from the store looks to the search
like one that ran.
"""

import asyncio
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from typing import TypeVar

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
    changed,
    failure,
    finished,
    made_meanwhile,
)
from stageflow.flight import Flight
from stageflow.group_ray import Interrupted
from stageflow.pool_ray import Handle, Pool
from stageflow.stage import Node, ancestry

Answer = TypeVar("Answer")

RETRIES = 3  # times that a shard is executed again because its worker died, without getting on
EVENTS = 10_000  # kept for those who watch
GLANCE_SECONDS = 30.0  # between two looks at the store while no worker is to be had
CLAIMING = 8  # threads that ask the store about claims


class Coordinator:
    """The actor (asynchronous: every method may wait without blocking the others)."""

    def __init__(
        self, artifacts: Artifacts, on_stale: OnStale, token: str, idle_seconds: float
    ) -> None:
        """`token` names an object in the store, by which workers know that they see the same, and
        other drivers that this one lives."""
        self.artifacts = artifacts
        self.claims = Claims(artifacts.store, token)
        self.claiming = ThreadPoolExecutor(CLAIMING, "claims")
        self.living = ExitStack()
        self.living.enter_context(self.claims.living())  # until the process of this actor ends
        self.on_stale = on_stale
        me = ray.get_runtime_context().current_actor
        self.pool = Pool(artifacts, me, token, idle_seconds)
        self.watching: asyncio.Task[None] | None = None
        self.flights: dict[str, Flight] = {}
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
        flights = (self.flights.get(node.key) for node in ancestry(*targets))
        return {f.node.key: f.outcome.result() for f in flights if f and f.outcome.done()}

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
        await self.pool.look_again()

    async def report(self, key: str, step: int, metrics: Mapping[str, float]) -> bool:
        """A running stage tells metrics; the answer is whether anyone still wants its result."""
        flight = self.flights[key]
        if flight.report(Report(step, metrics)):
            self._tell(Event(Kind.REPORT, flight.node.name, key, done=step, metrics=metrics))
            self._wake()
        return bool(self.wanted[key])

    async def progress(self, key: str, shard: int, done: int, total: int, note: str) -> None:
        """A running stage tells how far it is; shards are added up."""
        flight = self.flights[key]
        done, total = flight.advance(shard, done, total)
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
            flight = Flight(node, asyncio.create_task(self._settle(node)))
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
        remake = self.on_stale is OnStale.RERUN
        manifest = await self._look(node)
        if manifest is not None and not remake:
            stale = manifest.fingerprint != node.stage.fingerprint
            if stale and self.on_stale is OnStale.ASK:
                return changed(node)
            note = f"code changed under version {node.stage.version}" if stale else ""
            return self._hit(node, manifest, note)
        too_much = self.pool.machines.lacking(node.stage.needs)
        impossible = Failed(f"{node.name} {too_much}: declare less, or add a larger node")
        if too_much and manifest is None:
            return impossible
        outcomes = await asyncio.gather(*(self._ensure(parent) for parent in node.parents))
        for parent, outcome in zip(node.parents, outcomes, strict=True):
            if waiting := blocked(parent, outcome):
                return waiting
        if manifest is not None:  # another driver may have made anew what this was made from
            manifest = await self._look(node)
        renewed = any(isinstance(o, Done) and o.executed for o in outcomes)
        same = manifest is not None and manifest.fingerprint == node.stage.fingerprint
        if manifest is not None and same and not renewed:
            return self._hit(node, manifest)
        return impossible if too_much else await self._claim(node, manifest)

    async def _claim(self, node: Node, known: Manifest | None) -> Outcome:
        """Make the node once there is a worker for it, unless another driver makes it first."""
        told = ""
        while True:
            holder = await self._ask(self.claims.holder, node.key)
            if not holder:
                worker = await self._worker_unless_made(node, known)
                if worker is None:
                    made = await self._made_meanwhile(node, known)
                    return made or Failed(UNWANTED, cancelled=True)
                holder = await self._ask(self.claims.take, node.key)
                if not holder:
                    break
                await self.pool.release(worker)
            if holder != told:
                told = holder
                self._tell(Event(Kind.WAITING, node.name, node.key, f"{holder} makes it"))
            if made := await self._made_meanwhile(node, known):
                return made
            if not self.wanted[node.key]:
                return Failed(UNWANTED, cancelled=True)
            await asyncio.sleep(LOOK_SECONDS)
        first = [worker]
        try:
            if made := await self._made_meanwhile(node, known):
                return made
            if outdated := await self._look(node):
                await asyncio.to_thread(self.artifacts.withdraw, outdated)
            return await self._execute(node, first)
        finally:
            for unused in first:
                await self.pool.release(unused)
            await self._ask(self.claims.give_back, node.key)

    async def _worker_unless_made(self, node: Node, known: Manifest | None) -> Handle | None:
        """A worker for a node, unless it is made by others, or unwanted, before there is one."""
        made = False
        asked = asyncio.create_task(self._worker(node, lambda: not made))
        while not (await asyncio.wait([asked], timeout=GLANCE_SECONDS))[0]:
            found = await self._look(node)
            if made := found is not None and found != known:
                await self.pool.look_again()
        return await asked

    async def _made_meanwhile(self, node: Node, known: Manifest | None) -> Outcome | None:
        made = made_meanwhile(node, await self._look(node), known, self.on_stale)
        return self._hit(node, made.manifest, MADE_MEANWHILE) if isinstance(made, Done) else made

    async def _look(self, node: Node) -> Manifest | None:
        return await asyncio.to_thread(self.artifacts.manifest, node)

    async def _ask(self, claim: Callable[[str], Answer], key: str) -> Answer:
        """Of the claims, by threads of their own: they wait for the store, not for each other."""
        return await asyncio.get_running_loop().run_in_executor(self.claiming, claim, key)

    def _hit(self, node: Node, manifest: Manifest, note: str = "") -> Done:
        self._tell(Event(Kind.HIT, node.name, node.key, note, metrics=manifest.metrics))
        return Done(manifest, executed=False)

    async def _execute(self, node: Node, workers: list[Handle]) -> Outcome:
        """Execute all shards, of which those that come first take the `workers`."""
        count = await asyncio.to_thread(self._shards, node) if node.stage.sharded else 1
        shards = (self._shard(node, Shard(i, count), workers) for i in range(count))
        parts = await asyncio.gather(*shards)
        if failed := next((part for part in parts if isinstance(part, Failed)), None):
            return failed
        done = [part for part in parts if isinstance(part, Part)]
        whole = await asyncio.to_thread(assemble, node, done)
        manifest = await asyncio.to_thread(self.artifacts.publish, whole)
        flight = self.flights[node.key]
        self._tell(finished(node, manifest, flight.repeated, flight.total))
        return Done(manifest, executed=True)

    def _shards(self, node: Node) -> int:
        """As many as earlier drivers have finished some of, else as many as run at once."""
        records = self.artifacts.store.list(f"{folder_of(node)}/shards/{node.stage.fingerprint}-")
        counts = Counter(int(name.removesuffix(".json").rpartition("-")[2]) for name in records)
        return counts.most_common(1)[0][0] if counts else self.pool.machines.slots(node.stage.needs)

    async def _shard(self, node: Node, shard: Shard, workers: list[Handle]) -> Part | Failed:
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
            part = await self._on_some_worker(node, shard, workers)
            if not isinstance(part, Interrupted):
                break
            self._tell(Event(Kind.INTERRUPTED, node.name, node.key, part.reason))
            flight.interrupt(shard.index)
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

    async def _worker(self, node: Node, needed: Callable[[], bool] = lambda: True) -> Handle | None:
        """A worker for a node, as soon as there is one; None if it is of no use any more."""
        if missing := self.pool.machines.missing(node.stage.needs):
            self._tell(Event(Kind.WAITING, node.name, node.key, missing))
        return await self.pool.acquire(
            node.stage.needs, lambda: bool(self.wanted[node.key]) and needed()
        )

    async def _on_some_worker(
        self, node: Node, shard: Shard, workers: list[Handle]
    ) -> Part | Failed | Interrupted:
        """Execute one shard on a worker, once there is one."""
        worker = workers.pop() if workers else await self._worker(node)
        if worker is None:
            return Failed(UNWANTED, cancelled=True)
        device = self.pool.device(worker)
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
