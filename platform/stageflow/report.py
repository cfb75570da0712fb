"""What the search found, for people: a headline while it runs and a table at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from stageflow.study import Study, Trial

SHOWN = 15  # trials in the table


def trial_headline(study: Study[Any], trials: int) -> str:
    """One line: how many trials are done, the best value so far, and what others are at."""
    from stageflow.study import StudyError

    try:
        best, spent, elsewhere = study.best(), study.spent(), study.elsewhere()
    except StudyError as error:  # said in a terminal's table, which must not break for it
        return str(error)
    so_far = "" if best is None else f", best {best.value:.4f} (trial {best.number})"
    others = f", {elsewhere} run by other drivers" if elsewhere else ""
    return f"{study.name}: {spent} of {trials} trials{so_far}{others}"


def ranked(trials: Iterable[Trial], *, maximise: bool) -> list[Trial]:
    """The trials with a value, the best first, the earliest of equals."""
    sign = -1 if maximise else 1
    known = [trial for trial in trials if trial.value is not None]
    return sorted(known, key=lambda trial: sign * (trial.value or 0.0))


def trial_table(trials: Sequence[Trial], *, maximise: bool) -> Table:
    """The trials, best first: number, state, value, parameters, and why if one failed."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    counted = f"{len(trials)} trial{'' if len(trials) == 1 else 's'}"
    table = Table(title=f"best of {counted}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("trial", "state", "value", *names, "seconds", ""):
        table.add_column(heading, justify="left" if heading in ("state", "") else "right")
    rest = [trial for trial in trials if trial.value is None]
    for trial in [*ranked(trials, maximise=maximise), *rest][:SHOWN]:
        table.add_row(
            str(trial.number),
            trial.state.lower(),
            "" if trial.value is None else f"{trial.value:.4f}",
            *(Text(_shown(trial.params.get(name))) for name in names),
            _seconds(trial),
            Text(trial.reason),
        )
    return table


def _seconds(trial: Trial) -> str:
    if trial.started is None or trial.finished is None:
        return ""
    return f"{trial.finished - trial.started:.0f}"


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
