"""What is searched, and the search in this process: one trial after another, told to the study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from stageflow.executor import Done, Executor, Observer
from stageflow.stage import Node

if TYPE_CHECKING:
    from stageflow.study import Study

Params = TypeVar("Params")


@dataclass(frozen=True, slots=True)
class Objective(Generic[Params]):
    """What a trial is worth: `metric` of the node that `pipeline` builds.

    Stages on the way may report `rung` (for instance an epoch's quick score); ASHA compares trials on it.
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
    """Run trials until `trials` are spent. Nothing is pruned: with one trial at a time there is no rival."""
    from stageflow.study import Broken, Completed

    while study.spent() < trials:
        proposal = study.ask()
        target = objective.pipeline(proposal.params)
        outcome = executor.run([target], observe)[target.key]
        if isinstance(outcome, Done):
            value = outcome.manifest.metrics.get(objective.metric, float("nan"))
            study.tell(proposal.number, Completed(value, f"{target.name}/{target.key}"))
        else:
            study.tell(proposal.number, Broken(outcome.reason))
