"""What the runs of a study say of themselves in MLflow: descriptions, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from stageflow.board_row import Row
    from stageflow.runs import Tracked
    from stageflow.study import Trial

MOST_TRIALS = 10  # in a table; all of them are one click away
IN_THE_UI = "workflowType=machine_learning"  # else it shows pages for language models around runs
ENDS = {
    "RUNNING": "It is at work.",
    "FAILED": "Something of it failed; the command told what.",
    "KILLED": "It was stopped; the same command goes on from there.",
}


def trials_page(experiment: str, study: str, metric: str, *, maximise: bool = True) -> str:
    """Address, within MLflow's UI, of the trials of a study, the best first."""
    name = study.replace("'", "_")  # which matches any character
    found = quote(f"tags.`stageflow.trial` LIKE '{name}/%'", safe="")
    order = quote(f"metrics.`{metric}`", safe="")
    ascending = "false" if maximise else "true"
    query = f"{IN_THE_UI}&searchFilter={found}&orderByKey={order}&orderByAsc={ascending}"
    return f"#/experiments/{experiment}/runs?{query}"


def of_study(tracked: Tracked, experiment: str) -> str:
    """Of the parent run: what came of it, and where to look further."""
    best = tracked.completed
    counts = Counter(trial.state.lower() for trial in tracked.trials)
    ends = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    paragraphs = [
        f"Sweep {_code(tracked.experiment)}" + (f": trials {ends}." if ends else "."),
        ENDS.get(tracked.state, ""),
        f"**Best: {_value(tracked, best[0])}** (trial {best[0].number})" if best else "",
        _table(tracked, best[:MOST_TRIALS]),
        _where(tracked, experiment),
        f"Made by {_code(tracked.command)}" if tracked.command else "",
    ]
    return _joined(paragraphs)


def of_trial(tracked: Tracked, trial: Trial) -> str:
    """Of a trial: what was tried, and what came of it."""
    ended = _value(tracked, trial) if trial.value is not None else trial.state.lower()
    told = f": {_code(trial.reason)}" if trial.reason else ""
    key = trial.target.partition("/")[2]
    paragraphs = [
        f"Trial {trial.number} of {_code(tracked.study)}: **{ended}**{told}",
        _settings(trial.params),
        "Pictures are under Artifacts, and in the charts of runs that are compared."
        if trial.number in tracked.pictures
        else "",
        f"Config, data, cost and lineage: {_code(f'stageflow show {key}')}" if key else "",
    ]
    return _joined(paragraphs)


def of_row(tracked: Tracked, row: Row, seed: int) -> str:
    """Of a row of the board: what it says, and of which images."""
    value = dict(zip(row.seeds, row.values, strict=False))[seed]
    several = f"; {row.mean:.1f} over {len(row.seeds)} seeds" if len(row.seeds) > 1 else ""
    chosen = "Pixel masks chose something of it (oracle)." if row.oracle else ""
    paragraphs = [
        f"{_code(row.name)} on the leaderboard of {_code(tracked.study)}: "
        f"**{value:.1f} %** {_code(row.metric)} with seed {seed}{several}",
        f"{_code(row.task)} of {_code(row.split)}. {chosen}",
        f"Not comparable with published numbers: {_code(row.comparable)}" if row.comparable else "",
        f"Config, data, cost and lineage: {_code(f'stageflow show {row.key}')}",
    ]
    return _joined(paragraphs)


def _where(tracked: Tracked, experiment: str) -> str:
    page = trials_page(experiment, tracked.study, tracked.metric, maximise=tracked.maximise)
    board = any(name.startswith("leaderboard") for name in tracked.files)
    lines = [
        "`leaderboard.html` under Artifacts: the board, beside published numbers" if board else "",
        "`products.md` under Artifacts: the files to take away" if tracked.products else "",
        f"[All trials, best first]({page}): select some and compare them, or switch to charts for "
        "their curves and pictures side by side"
        if tracked.trials and experiment
        else "",
    ]
    return "\n".join(f"- {line}" for line in lines if line)


def _table(tracked: Tracked, trials: Sequence[Trial]) -> str:
    if len(trials) < 2:
        return _settings(trials[0].params) if trials else ""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    head = ["trial", tracked.metric, *names]
    rows = [
        [
            str(trial.number),
            f"{trial.value:.4g}",
            *(_code(trial.params[name]) if name in trial.params else "" for name in names),
        ]
        for trial in trials
    ]
    return "\n".join(_line(cells) for cells in (map(_code, head), ["---"] * len(head), *rows))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _value(tracked: Tracked, trial: Trial) -> str:
    return f"{tracked.metric} {trial.value:.4g}"


def _settings(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{_code(name)} {_code(value)}" for name, value in params.items())


def _code(value: object) -> str:
    """A text as it is, whatever it holds of Markdown."""
    text = str(value).replace("`", "'").replace("|", "¦").replace("\n", " ")
    return f"`{text}`" if text.strip() else ""


def _joined(paragraphs: Iterable[str]) -> str:
    return "\n\n".join(paragraph.strip() for paragraph in paragraphs if paragraph.strip())
