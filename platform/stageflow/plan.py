"""The plan: what is there, what has to be made, and what it will cost, before anything runs."""

import itertools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from stageflow.artifact import Artifacts, Manifest
from stageflow.stage import Needs, Node, ancestry

EXAMPLES = 9  # manifests read to estimate a stage's cost: each costs a request, and few are enough


class Status(StrEnum):
    """What will happen to a node."""

    HIT = "hit"  # its artifact is there
    STALE = "stale"  # it is there, but the code has changed since under the same version
    RUN = "run"
    BLOCKED = "blocked"  # it cannot run here, or something it depends on cannot


@dataclass(frozen=True, slots=True)
class Step:
    """One node of a plan, with the expected seconds (None where no earlier run tells)."""

    node: Node
    status: Status
    reason: str = ""
    seconds: float | None = None
    manifest: Manifest | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a plan, every node after its parents."""

    steps: tuple[Step, ...]

    def of(self, status: Status) -> list[Step]:
        """The steps with one status."""
        return [step for step in self.steps if step.status is status]

    @property
    def seconds(self) -> float | None:
        """Expected seconds of all that has to run; None if any of it is unknown."""
        costs = [step.seconds for step in self.of(Status.RUN)]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def __str__(self) -> str:
        lines, width = [], max((len(step.node.name) for step in self.steps), default=0) + 2
        for step in self.steps:
            cost = "" if step.status is not Status.RUN else _cost(step.seconds)
            what = f"{step.status:8}{step.node.name:{width}}{step.node.key}"
            lines.append(f"{what}  {cost:>9}  {step.reason}".rstrip())
        total = f"{len(self.of(Status.RUN))} to run" + (
            f", {_cost(self.seconds)}" if self.of(Status.RUN) else ""
        )
        return "\n".join([*lines, total])


def plan(
    *targets: Node, artifacts: Artifacts, capacity: Needs | None = None, remake: bool = False
) -> Plan:
    """Look every node up.

    Args:
        targets: the nodes that are wanted.
        artifacts: where to look.
        capacity: the most that one execution may occupy; a node that needs more is blocked.
        remake: treat stale artifacts, and all that depends on them, as not there.
    """
    decided: dict[str, Step] = {}
    costs: dict[str, float | None] = {}
    for node in ancestry(*targets):
        decided[node.key] = _decide(node, decided, artifacts, capacity, remake, costs)
    return Plan(tuple(decided.values()))


def _decide(
    node: Node,
    decided: Mapping[str, Step],
    artifacts: Artifacts,
    capacity: Needs | None,
    remake: bool,
    costs: dict[str, float | None],
) -> Step:
    parents = [decided[parent.key] for parent in node.parents]
    manifest = artifacts.manifest(node)
    stale = manifest is not None and manifest.fingerprint != node.stage.fingerprint
    renewed = remake and any(parent.status is Status.RUN for parent in parents)
    if manifest is not None and not renewed and not (stale and remake):
        reason = f"code changed under version {node.stage.version}" if stale else ""
        return Step(node, Status.STALE if stale else Status.HIT, reason, manifest=manifest)
    blocking = next((parent for parent in parents if parent.status is Status.BLOCKED), None)
    if blocking is not None:
        return Step(node, Status.BLOCKED, f"waits for {blocking.node.name}, which is blocked")
    too_much = capacity and excess(node.stage.needs, capacity)
    if too_much:
        return Step(node, Status.BLOCKED, too_much)
    if node.name not in costs:
        costs[node.name] = _usual_seconds(node.name, artifacts)
    return Step(node, Status.RUN, "", costs[node.name], manifest)


def excess(needs: Needs, capacity: Needs) -> str:
    """What of the needs no node of this capacity can give, in words; "" where all fits."""
    checks: list[tuple[str, Callable[[Needs], float]]] = [
        ("CPU cores", lambda n: n.cpus),
        ("GPUs", lambda n: n.gpus),
        ("bytes of memory", lambda n: n.memory),
    ]
    for unit, of in checks:
        if of(needs) > of(capacity):
            return f"needs {of(needs):g} {unit}, the largest node has {of(capacity):g}"
    return ""


def _usual_seconds(stage: str, artifacts: Artifacts) -> float | None:
    examples = [found.wall_seconds for found in itertools.islice(artifacts.all(stage), EXAMPLES)]
    return statistics.median(examples) if examples else None


def _cost(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} min"
