"""What is read of a study for MLflow: above all, how its command ended."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from stageflow import projection
from stageflow.runs import Tracked
from stageflow.store import FolderStore
from stageflow.study import LOST, Completed, Study


def space(trial: optuna.Trial) -> float:
    return trial.suggest_float("rate", 0, 1)


@pytest.fixture
def study(tmp_path: Path) -> Study[float]:
    return opened(tmp_path)


def opened(folder: Path) -> Study[float]:
    study = Study("toy-1", str(folder / "journal"), space=space)
    projection.describe(study, sweep="toy", options={}, metric="miou", command="toy.py")
    return study


def read(study: Study[float], folder: Path, *, driven: bool = False) -> Tracked:
    return projection.tracked(study, FolderStore(folder / "store"), driven=driven)


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "FINISHED"), (OSError("no space"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_how_the_command_ended(
    study: Study[float], tmp_path: Path, error: BaseException | None, state: str
) -> None:
    def drive() -> None:
        with study.joined(), projection.end_noted(study):
            assert read(study, tmp_path, driven=True).state == "RUNNING"
            if error is not None:
                raise error

    if error is None:
        drive()
    else:
        with pytest.raises(type(error)):
            drive()
    told = read(study, tmp_path)
    assert (told.state, told.command) == (state, "toy.py")
    assert 0 < told.began <= told.ended


def test_a_killed_command_does_not_run(study: Study[float], tmp_path: Path) -> None:
    """Neither does what it left running by the record, once nobody else drives the study."""
    study.note("state", {"status": "RUNNING", "began": 5.0, "ended": 0.0})
    study.tell(study.ask().number, Completed(0.5, "score/k"))
    study.ask()
    driven = read(study, tmp_path, driven=True)
    assert (driven.state, [trial.state for trial in driven.trials]) == (
        "RUNNING",
        ["COMPLETE", "RUNNING"],
    )
    told = read(opened(tmp_path), tmp_path)
    assert told.state == "KILLED"
    assert [(trial.state, trial.reason) for trial in told.trials] == [
        ("COMPLETE", ""),
        ("FAIL", LOST),
    ]
    with study.joined():
        assert read(opened(tmp_path), tmp_path).state == "RUNNING"


def test_it_began_when_it_began_first(study: Study[float], tmp_path: Path) -> None:
    began = study.notes()["state"]["began"]
    with projection.end_noted(study):
        pass
    again = opened(tmp_path)
    assert again.notes()["state"]["status"] == "RUNNING"
    assert read(again, tmp_path).began == began


def test_pictures_are_of_trials(study: Study[float], tmp_path: Path) -> None:
    projection.made(study, rows=[], products={}, pictures={1: "draw/p", 12: "draw/q"})
    assert read(study, tmp_path).pictures == {1: "draw/p", 12: "draw/q"}
    projection.made(study, rows=[], products={}, pictures={1: "draw/p"})
    assert len(read(study, tmp_path).pictures) == 2
