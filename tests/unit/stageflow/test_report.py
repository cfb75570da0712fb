"""The headline and the table of trials."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from stageflow.report import SHOWN, trial_headline, trial_table
from stageflow.study import LOST, Broken, Completed, Study, StudyError, Trial

TRIAL = Trial(
    number=0,
    state="COMPLETE",
    params={"x": 0.123456, "kind": "a"},
    value=0.5,
    target="seeds/1",
    reason="",
    started=100.0,
    finished=112.6,
)


def shown(trials: list[Trial], *, maximise: bool = True, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width, no_color=True)
    console.print(trial_table(trials, maximise=maximise))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_headline(tmp_path: Path) -> None:
    study: Study[float] = Study(
        "sweep-1a2b", str(tmp_path / "journal"), space=lambda trial: trial.suggest_float("x", 0, 1)
    )
    assert trial_headline(study, 12) == "sweep-1a2b: 0 of 12 trials"
    for result in (Broken("no luck"), Broken(LOST), Completed(0.51239, "t"), Completed(0.25, "t")):
        study.tell(study.ask().number, result)
    study.ask()
    assert trial_headline(study, 12) == "sweep-1a2b: 3 of 12 trials, best 0.5124 (trial 2)"


def test_headline_of_several_drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, other = (
        Study("sweep", str(tmp_path / "journal"), space=lambda trial: None) for _ in range(2)
    )
    study.ask()
    other.ask()
    other.ask()
    assert trial_headline(study, 12) == "sweep: 0 of 12 trials, 2 run by other drivers"

    def away() -> int:
        raise StudyError("the storage is away")

    monkeypatch.setattr(study, "spent", away)
    assert trial_headline(study, 12) == "the storage is away"


def test_row() -> None:
    title, heading, row = shown([TRIAL])
    assert title == "best of 1 trial"
    assert heading.split() == ["trial", "state", "value", "x", "kind", "seconds"]
    assert row.split() == ["0", "complete", "0.5000", "0.1235", "a", "13"]


@pytest.mark.parametrize(("maximise", "order"), [(True, "3102"), (False, "0132")])
def test_order(maximise: bool, order: str) -> None:
    """Best first, the earlier of equals, and behind them what has no value."""
    trials = [
        replace(TRIAL, number=0, value=-0.1 if not maximise else 0.1),
        replace(TRIAL, number=1, value=0.5),
        replace(TRIAL, number=2, value=None, state="FAIL", reason="no luck"),
        replace(TRIAL, number=3, value=0.9),
    ]
    assert "".join(line.split()[0] for line in shown(trials, maximise=maximise)[2:]) == order


def test_equals() -> None:
    trials = [replace(TRIAL, number=number) for number in range(3)]
    assert [line.split()[0] for line in shown(trials)[2:]] == ["0", "1", "2"]


def test_reason_is_no_markup() -> None:
    trial = replace(TRIAL, state="FAIL", value=None, reason="OSError: [b]/[/] is [a folder]")
    assert shown([trial])[2].endswith("OSError: [b]/[/] is [a folder]")
    odd = replace(TRIAL, params={"kind": "[red]"})
    assert "[red]" in shown([odd])[2]


def test_unfinished_and_conditional() -> None:
    """What a trial has not got is empty."""
    trials = [
        replace(TRIAL, params={"x": 1}),
        replace(TRIAL, number=1, state="RUNNING", value=None, params={"y": None}, finished=None),
        replace(TRIAL, number=2, state="FAIL", value=None, params={}, started=0.0, finished=0.2),
    ]
    lines = shown(trials)
    assert lines[1].split() == ["trial", "state", "value", "x", "y", "seconds"]
    assert [line.split() for line in lines[2:]] == [
        ["0", "complete", "0.5000", "1", "13"],
        ["1", "running"],
        ["2", "fail", "0"],
    ]


def test_many() -> None:
    trials = [replace(TRIAL, number=number, value=number / 100) for number in range(100)]
    lines = shown(trials)
    assert lines[0] == "best of 100 trials"
    assert len(lines) == 2 + SHOWN
    assert lines[2].split()[0] == "99"


def test_none() -> None:
    assert shown([])[0] == "best of 0 trials"
