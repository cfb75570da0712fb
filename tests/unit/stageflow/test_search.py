"""The search in this process: every trial is told, whatever becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from stageflow import search as module
from stageflow.artifact import Artifacts
from stageflow.executor import Event, Kind, LocalExecutor, ignore
from stageflow.search import Objective, openings, search
from stageflow.stage import Node
from stageflow.store import FolderStore
from stageflow.study import LOST, Broken, Study, Trial
from stageflow.testing_stages import (
    Adding,
    Counting,
    Failing,
    Telling,
    add,
    count,
    fail,
    noted,
    tell,
)


@dataclass(frozen=True, kw_only=True)
class Params:
    kind: str = "count"
    to: int = 1


def space(trial: optuna.Trial) -> Params:
    kinds = ("count", "nan", "fail", "behind", "refuse", "unnamed")
    return Params(kind=trial.suggest_categorical("kind", kinds), to=trial.suggest_int("to", 1, 9))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def executor(tmp_path: Path) -> LocalExecutor:
    return LocalExecutor(Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache"))


@pytest.fixture
def study(tmp_path: Path) -> Study[Params]:
    return Study("sweep", str(tmp_path / "journal"), space=space)


def objective(log: Path) -> Objective[Params]:
    def pipeline(params: Params) -> Node:
        counted = count(Counting(label="x", to=params.to, log=str(log)))
        failing = fail(Failing(label="x", text="no luck\nat all"))
        if params.kind == "refuse":
            raise ValueError(f"to is {params.to}: give another")
        nodes = {
            "count": counted,
            "nan": tell(Telling(label="x", text="nan")),
            "fail": failing,
            "behind": add(add(counted, failing, Adding(label="x")), counted, Adding(label="x")),
            "unnamed": fail(Failing(label="mended", mended=str(log.parent))),
        }
        return nodes[params.kind]

    return Objective(pipeline, "value")


def searched(
    study: Study[Params], log: Path, executor: LocalExecutor, *tried: Params
) -> list[Trial]:
    for params in tried:
        study.enqueue(params)
    search(study, objective(log), executor, trials=len(tried), observe=ignore)
    return study.trials()


def test_completed(study: Study[Params], log: Path, executor: LocalExecutor) -> None:
    tried = [Params(to=2), Params(to=5), Params(to=3)]
    trials = searched(study, log, executor, *tried)
    assert [(trial.state, trial.value) for trial in trials] == [
        ("COMPLETE", 2.0),
        ("COMPLETE", 5.0),
        ("COMPLETE", 3.0),
    ]
    key = count(Counting(label="x", to=5)).key
    assert trials[1].target == f"count/{key}"
    best = study.best()
    assert best is not None
    assert best.number == 1


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("nan", "the objective is nan"),
        ("fail", "LookupError: no luck"),
        ("behind", "fail: LookupError: no luck"),
        ("refuse", "ValueError: to is 1: give another"),
        ("unnamed", "fail has no metric 'value'; there are: mended"),
    ],
)
def test_failed(
    study: Study[Params], log: Path, executor: LocalExecutor, kind: str, reason: str
) -> None:
    """One line says why; the search goes on."""
    failed, after = searched(study, log, executor, Params(kind=kind), Params(to=4))
    assert (failed.state, failed.value, failed.reason) == ("FAIL", None, reason)
    assert (after.state, after.value) == ("COMPLETE", 4.0)


def test_goes_on_and_repeats_nothing(
    study: Study[Params], log: Path, executor: LocalExecutor, tmp_path: Path
) -> None:
    """Again, with more trials: only the new ones run; then none at all."""
    searched(study, log, executor, Params(to=2), Params(to=3))
    later: Study[Params] = Study("sweep", str(tmp_path / "journal"), space=space)
    later.enqueue(Params(to=2))
    later.enqueue(Params(to=4))
    events: list[Event] = []
    for _ in range(2):
        search(later, objective(log), executor, trials=3, observe=events.append)
    assert [trial.value for trial in later.trials()] == [2.0, 3.0, 4.0]
    assert len(noted(log)) == 2 + 3 + 4
    assert sum(event.kind is Kind.FINISHED for event in events) == 1


def test_lost_trials_do_not_count(study: Study[Params], log: Path, executor: LocalExecutor) -> None:
    study.tell(study.ask().number, Broken(LOST))
    trials = searched(study, log, executor, Params(to=2))
    assert [trial.state for trial in trials] == ["FAIL", "COMPLETE"]


def test_trials_share_their_stages(
    study: Study[Params], log: Path, executor: LocalExecutor
) -> None:
    """A trial whose pipeline is there already is a look-up."""
    study.enqueue(Params(to=3))
    search(study, objective(log), executor, trials=1, observe=ignore)
    study._study.enqueue_trial({"kind": "count", "to": 3})
    search(study, objective(log), executor, trials=2, observe=ignore)
    assert [trial.value for trial in study.trials()] == [3.0, 3.0]
    assert len(noted(log)) == 3


@pytest.mark.parametrize(
    ("elsewhere", "others", "said"),
    [
        (1, ["process 7 on a"], "waiting for 1 trial of process 7 on a"),
        (2, ["A", "B"], "waiting for 2 trials of A and B"),
        (1, [], "waiting until 1 trial of a driver that is gone can be tried again"),
        (3, [], "waiting until 3 trials of a driver that is gone can be tried again"),
    ],
)
def test_what_is_waited_for(
    elsewhere: int, others: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once, in whole words; at first nothing, as all have ended since one looked."""
    counts = iter([0, elsewhere, elsewhere])
    study = SimpleNamespace(
        is_spent=lambda limit: next(looks), room=lambda limit: 0, others=lambda: others
    )
    study.elsewhere = lambda: next(counts)
    looks = iter([False, False, False, True])
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.0)
    told: list[str] = []
    assert list(openings(study, 4, told.append)) == []  # type: ignore[arg-type]
    assert told == [said]
