"""Descriptions of runs: what they say, and that nothing in them is taken for Markdown."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from stageflow.board_row import Row
from stageflow.run_notes import of_row, of_study, of_trial, trials_page
from stageflow.runs import Tracked
from stageflow.study import Trial


def trial(number: int, value: float | None = None, **facts: Any) -> Trial:
    usual: dict[str, Any] = {
        "state": "FAIL" if value is None else "COMPLETE",
        "params": {"weight": "w_prime", "threshold": 0.21},
        "target": "score/abc",
        "reason": "",
    }
    return Trial(number=number, value=value, **{**usual, "started": 1.0, "finished": 2.0, **facts})


def tracked(*trials: Trial, **facts: Any) -> Tracked:
    usual: dict[str, Any] = {"experiment": "recam", "study": "recam-1", "metric": "miou"}
    return Tracked(trials=trials, options={}, **{**usual, **facts})


def test_a_study() -> None:
    found = tracked(
        trial(0, 0.25),
        trial(1, 0.5, params={"weight": "w|prime`"}),
        trial(2),
        command="recam.py -x",
    )
    lines = of_study(found, "7").splitlines()
    assert "Sweep `recam`: trials 2 complete, 1 fail." in lines
    assert "**Best: miou 0.5** (trial 1)" in lines
    table = [line for line in lines if line.startswith("|")]
    assert table == [
        "| `trial` | `miou` | `weight` | `threshold` |",
        "| --- | --- | --- | --- |",
        "| 1 | 0.5 | `w¦prime'` |  |",
        "| 0 | 0.25 | `w_prime` | `0.21` |",
    ]
    assert "Made by `recam.py -x`" in lines
    assert "#/experiments/7/runs?" in of_study(found, "7")


def test_a_study_says_how_it_ended() -> None:
    assert "the same command goes on" in of_study(tracked(state="KILLED"), "7")
    assert "at work" in of_study(tracked(state="RUNNING"), "7")
    assert "at work" not in of_study(tracked(), "7")


def test_the_address_of_the_trials() -> None:
    address = urlsplit(trials_page("7", "it's mine", "iou/cat", maximise=False))
    place, _, query = address.fragment.partition("?")
    assert place == "/experiments/7/runs"
    assert parse_qs(query) == {
        "workflowType": ["machine_learning"],
        "searchFilter": ["tags.`stageflow.trial` LIKE 'it_s mine/%'"],
        "orderByKey": ["metrics.`iou/cat`"],
        "orderByAsc": ["true"],
    }


def test_trials() -> None:
    found = tracked(trial(0, 0.25), pictures={0: "draw/p"})
    text = of_trial(found, found.trials[0])
    assert "Trial 0 of `recam-1`: **miou 0.25**" in text
    assert "`weight` `w_prime`, `threshold` `0.21`" in text
    assert "Pictures" in text
    assert "`stageflow show abc`" in text
    failed = of_trial(found, trial(1, target="", reason="no [memory](http://x)"))
    assert "**fail**: `no [memory](http://x)`" in failed
    assert "Pictures" not in failed
    assert "stageflow show" not in failed


def test_a_row() -> None:
    row = Row(
        task="CAM seed",
        split="scenes train (40)",
        method="ReCAM",
        variant="product",
        values=(50.0, 60.0),
        seeds=(1, 2),
        oracle=True,
        comparable="other data",
    )
    text = of_row(tracked(), row, 2)
    assert "**60.0 %** `miou` with seed 2; 55.0 over 2 seeds" in text
    assert "(oracle)" in text
    assert "Not comparable with published numbers: `other data`" in text
    assert f"`stageflow show {row.key}`" in text
