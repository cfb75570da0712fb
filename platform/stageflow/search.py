"""What is searched, and the search in this process: one trial after another, told to the study."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from stageflow.executor import Executor, Failed, Observer, Outcome, failure
from stageflow.stage import Node

if TYPE_CHECKING:
    from stageflow.study import Study

Params = TypeVar("Params")

WAIT_SECONDS = 1.0  # between two looks at what other drivers run


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
    say: Callable[[str], None] = print,
) -> None:
    """Run trials until `trials` are spent. One at a time has no rival, so that none is pruned."""
    from stageflow.study import Broken, Completed

    limit = study.limit(trials)
    for _ in openings(study, limit, say):
        proposal = study.ask_within(limit)
        if proposal is None:  # another driver was faster
            continue
        try:
            target = objective.pipeline(proposal.params)
        except Exception as error:  # these parameters make no pipeline; others may
            study.tell(proposal.number, Broken(failure(error).reason))
            continue
        outcome = executor.run([target], observe)[target.key]
        value, reason = worth(objective, target, outcome)
        made = f"{target.name}/{target.key}"
        study.tell(proposal.number, Broken(reason, made) if reason else Completed(value, made))


def openings(study: Study[Any], limit: int, say: Callable[[str], None]) -> Iterator[None]:
    """Yield as often as a trial may begin, until `limit` have ended, whoever runs them.

    While other drivers run the last ones it waits, because one of them may die.
    """
    waits = False
    while not study.is_spent(limit):
        if study.room(limit) > 0:
            waits = False
            yield
            continue
        if not waits and (text := _awaited(study.elsewhere(), study.others())):
            waits = True
            say(text)
        time.sleep(WAIT_SECONDS)


def _awaited(count: int, others: Sequence[str]) -> str:
    """What is waited for, in words; "" where it has come meanwhile."""
    trials = "1 trial" if count == 1 else f"{count} trials"
    if not count:
        return ""
    if not others:
        return f"waiting until {trials} of a driver that is gone can be tried again"
    return f"waiting for {trials} of {' and '.join(others)}"


def worth(objective: Objective[Any], target: Node, outcome: Outcome) -> tuple[float, str]:
    """The value of a trial, and in one line why it has none."""
    if isinstance(outcome, Failed):
        return math.nan, outcome.reason
    metrics = outcome.manifest.metrics
    if objective.metric not in metrics:
        there = ", ".join(metrics) or "none"
        return math.nan, f"{target.name} has no metric {objective.metric!r}; there are: {there}"
    return metrics[objective.metric], ""
