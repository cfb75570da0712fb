"""Executors: they make what is missing of a graph, each distinct node once, and tell what they do.

`LocalExecutor` runs in this process, one node after another, with nothing but the standard library;
the Ray executor (`executor_ray`) runs the same graph on a cluster. Both are held to one contract
(`stageflow.testing_executor.ExecutorContract`).
"""

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

from stageflow.artifact import Artifacts, Manifest
from stageflow.claim import LOOK_SECONDS, Claims, new_driver
from stageflow.execution import assemble, execute
from stageflow.plan import Plan, Status, Step, plan
from stageflow.stage import Node, ancestry

MADE_MEANWHILE = "another driver made it"


class Kind(StrEnum):
    """What an event tells."""

    HIT = "hit"
    WAITING = "waiting"  # for another driver, which makes it
    STARTED = "started"
    PROGRESS = "progress"
    REPORT = "report"
    INTERRUPTED = "interrupted"  # a worker died; the node goes on from its last checkpoint
    FINISHED = "finished"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a node: `done` of `total` units of progress, or metrics told."""

    kind: Kind
    stage: str
    key: str
    text: str = ""
    done: int = 0
    total: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    repeated: int = 0
    """Units of progress, of `total`, that were done again because a worker died."""


Observer: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An observer that looks away."""


@dataclass(frozen=True, slots=True)
class Done:
    """The node's artifact is there; `executed` tells whether it was made just now."""

    manifest: Manifest
    executed: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """The node failed, or waits for one that did: a line, and the traceback for who wants it."""

    reason: str
    traceback: str = ""
    blocked_by: str = ""
    cancelled: bool = False


Outcome: TypeAlias = Done | Failed


class OnStale(StrEnum):
    """What to do with an artifact whose code has changed under the same version."""

    ASK = "ask"
    RERUN = "rerun"
    KEEP = "keep"


class StaleError(RuntimeError):
    """Stale artifacts are in the way and nobody said what to do with them."""


class RunError(RuntimeError):
    """Some of the wanted nodes could not be made."""


class Executor(Protocol):
    """Makes the targets and all they need. Unrelated nodes finish even when one fails."""

    @property
    def artifacts(self) -> Artifacts:
        """Where it finds and keeps what it makes."""

    def run(self, targets: Sequence[Node], observe: Observer = ignore) -> dict[str, Outcome]:
        """The outcome of every target and of every node that was looked at for it, by key.

        Raises StaleError, before anything is made, if artifacts are stale and it is to ask.
        """

    def close(self) -> None:
        """Give back workers and connections."""


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """Runs nodes in this process, in order. `device` is given to the stages as it is."""

    artifacts: Artifacts
    device: str = "auto"
    on_stale: OnStale = OnStale.ASK

    def run(self, targets: Sequence[Node], observe: Observer = ignore) -> dict[str, Outcome]:
        """See `Executor.run`."""
        remake = self.on_stale is OnStale.RERUN
        steps = plan(*targets, artifacts=self.artifacts, remake=remake)
        if self.on_stale is OnStale.ASK:
            refuse_stale(steps)
        outcomes: dict[str, Outcome] = {}
        claims = Claims(self.artifacts.store, new_driver())
        wanted = needed(steps, targets)
        working = any(step.status is Status.RUN for step in wanted)
        with claims.living() if working else nullcontext():
            for step in wanted:
                outcomes[step.node.key] = self._make(step, outcomes, claims, observe)
        return outcomes

    def close(self) -> None:
        """Nothing to give back."""

    def _make(
        self, step: Step, outcomes: Mapping[str, Outcome], claims: Claims, observe: Observer
    ) -> Outcome:
        node = step.node
        if step.status in (Status.HIT, Status.STALE) and step.manifest is not None:
            observe(
                Event(Kind.HIT, node.name, node.key, step.reason, metrics=step.manifest.metrics)
            )
            return Done(step.manifest, executed=False)
        waiting = next((b for p in node.parents if (b := blocked(p, outcomes[p.key]))), None)
        if waiting is not None:
            observe(Event(Kind.BLOCKED, node.name, node.key, waiting.reason))
            return waiting
        try:
            return self._claim(step, claims, observe)
        except Exception as error:  # the one place where a failure must not stop unrelated work
            outcome = failure(error)
            observe(Event(Kind.FAILED, node.name, node.key, outcome.reason))
            return outcome

    def _claim(self, step: Step, claims: Claims, observe: Observer) -> Outcome:
        """Make the node, unless another driver that shares the store does."""
        node, waiting = step.node, ""
        while holder := claims.take(node.key):
            if holder != waiting:
                waiting = holder
                observe(Event(Kind.WAITING, node.name, node.key, f"{holder} makes it"))
            if made := self._made_meanwhile(step, observe):
                return made
            time.sleep(LOOK_SECONDS)
        try:
            return self._made_meanwhile(step, observe) or self._execute(step, observe)
        finally:
            claims.give_back(node.key)

    def _made_meanwhile(self, step: Step, observe: Observer) -> Outcome | None:
        node = step.node
        made = made_meanwhile(node, self.artifacts.manifest(node), step.manifest, self.on_stale)
        if isinstance(made, Done):
            metrics = made.manifest.metrics
            observe(Event(Kind.HIT, node.name, node.key, MADE_MEANWHILE, metrics=metrics))
        elif made is not None:
            observe(Event(Kind.FAILED, node.name, node.key, made.reason))
        return made

    def _execute(self, step: Step, observe: Observer) -> Done:
        node = step.node
        outdated = self.artifacts.manifest(node)
        if outdated is not None:
            self.artifacts.withdraw(outdated)
        observe(Event(Kind.STARTED, node.name, node.key))
        part = execute(
            node, artifacts=self.artifacts, hooks=_Observed(node, observe), device=self.device
        )
        manifest = self.artifacts.publish(assemble(node, [part]))
        observe(finished(node, manifest))
        return Done(manifest, executed=True)


@dataclass(frozen=True, slots=True)
class _Observed:
    """Hooks that pass everything to an observer and never cancel."""

    node: Node
    observe: Observer

    def progress(self, done: int, total: int, note: str) -> None:
        self.observe(Event(Kind.PROGRESS, self.node.name, self.node.key, note, done, total))

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        self.observe(Event(Kind.REPORT, self.node.name, self.node.key, done=step, metrics=metrics))
        return True


def run(*targets: Node, executor: Executor, observe: Observer = ignore) -> tuple[Manifest, ...]:
    """Make the targets and return their manifests. Raises RunError with a table of what failed."""
    outcomes = executor.run(targets, observe)
    failures = [node for node in targets if isinstance(outcomes[node.key], Failed)]
    if failures:
        raise RunError(failure_table(outcomes, targets))
    return tuple(done.manifest for node in targets if isinstance(done := outcomes[node.key], Done))


def needed(steps: Plan, targets: Iterable[Node]) -> list[Step]:
    """The targets and what they need: the parents of whatever has to run, in order."""
    wanted = {node.key for node in targets}
    kept: list[Step] = []
    for step in reversed(steps.steps):
        if step.node.key in wanted:
            kept.append(step)
            if step.status in (Status.RUN, Status.BLOCKED):
                wanted |= {parent.key for parent in step.node.parents}
    return kept[::-1]


def refuse_stale(steps: Plan) -> None:
    """Raise StaleError, with what to do, if the plan holds stale artifacts."""
    stale = steps.of(Status.STALE)
    if stale:
        names = ", ".join(
            sorted({f"{step.node.name} (version {step.node.stage.version})" for step in stale})
        )
        raise StaleError(
            f"the code of {names} has changed since {len(stale)} artifacts were made: "
            "--on-stale=rerun makes them anew, --on-stale=keep uses them as they are"
        )


def changed(node: Node) -> Failed:
    """The code of an artifact that is there has changed under the same version."""
    return Failed(
        f"the code of {node.name} has changed under version {node.stage.version} since this was "
        "made: --on-stale=rerun makes it anew, --on-stale=keep uses it"
    )


def made_meanwhile(
    node: Node, found: Manifest | None, known: Manifest | None, on_stale: OnStale
) -> Outcome | None:
    """What another driver has made since `known` was read; None if that is nothing of use."""
    if found is None or found == known:
        return None
    if found.fingerprint != node.stage.fingerprint and on_stale is not OnStale.KEEP:
        return changed(node) if on_stale is OnStale.ASK else None
    return Done(found, executed=False)


def failure(error: BaseException) -> Failed:
    """A failure as one line and a traceback."""
    first = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {first[0] if first else ''}".removesuffix(": ")
    return Failed(reason, "".join(traceback.format_exception(error)))


def blocked(parent: Node, outcome: Outcome) -> Failed | None:
    """What a parent's failure means for its children; names the stage that failed first."""
    if isinstance(outcome, Done):
        return None
    reason = outcome.reason if outcome.blocked_by else f"{parent.name}: {outcome.reason}"
    return Failed(reason, blocked_by=parent.key, cancelled=outcome.cancelled)


def finished(node: Node, manifest: Manifest, repeated: int = 0, total: int = 0) -> Event:
    """The event of an artifact that was just made, `repeated` of `total` units twice."""
    note = ", ".join(f"went on from step {step}" for step in manifest.resumed_from)
    return Event(
        Kind.FINISHED,
        node.name,
        node.key,
        note,
        total=total,
        metrics=manifest.metrics,
        seconds=manifest.wall_seconds,
        repeated=repeated,
    )


def failure_table(outcomes: Mapping[str, Outcome], targets: Sequence[Node]) -> str:
    """Succeeded, failed and not run, a line each, with the reason."""
    rows = []
    for node in ancestry(*targets):
        outcome = outcomes.get(node.key)
        if isinstance(outcome, Done):
            rows.append(f"  done     {node.name} {node.key}")
        elif isinstance(outcome, Failed):
            state = "not run" if outcome.blocked_by else "failed"
            rows.append(f"  {state:8} {node.name} {node.key}  {outcome.reason}")
    return "some stages could not be made\n" + "\n".join(rows)
