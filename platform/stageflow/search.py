"""What is searched, and the search in this process: one trial after another, told to the study."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from stageflow.executor import Executor, Failed, Observer, Outcome, failure
from stageflow.stage import Node

if TYPE_CHECKING:
    from stageflow.study import Study

Params = TypeVar("Params")


@dataclass(frozen=True, slots=True)
class Objective(Generic[Params]):
    """What a trial is worth: `metric` of the node that `pipeline` builds.

    Stages on the way may report `rung` (for instance an epoch's quick score), on which ASHA
    compares trials.
    """

    pipeline: Callable[[Params], Node]
    metric: str
    rung: str = ""
    maximise: bool = True


def search(
    study: Study[Params],
    objective: Objective[Params],
    executor: Executor,
    *,
    trials: int,
    observe: Observer,
) -> None:
    """Run trials until `trials` are spent. One at a time has no rival, so that none is pruned."""
    from stageflow.study import Broken, Completed

    for _ in range(trials - study.spent()):
        proposal = study.ask()
        try:
            target = objective.pipeline(proposal.params)
        except Exception as error:  # these parameters make no pipeline; others may
            study.tell(proposal.number, Broken(failure(error).reason))
            continue
        outcome = executor.run([target], observe)[target.key]
        value, reason = worth(objective, target, outcome)
        made = f"{target.name}/{target.key}"
        study.tell(proposal.number, Broken(reason, made) if reason else Completed(value, made))


def worth(objective: Objective[Any], target: Node, outcome: Outcome) -> tuple[float, str]:
    """The value of a trial, and in one line why it has none."""
    if isinstance(outcome, Failed):
        return math.nan, outcome.reason
    metrics = outcome.manifest.metrics
    if objective.metric not in metrics:
        there = ", ".join(metrics) or "none"
        return math.nan, f"{target.name} has no metric {objective.metric!r}; there are: {there}"
    return metrics[objective.metric], ""
