"""The search on a real Ray: what the study is told of completed, stopped and failed trials."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import optuna
import pytest
import ray
from ray import cloudpickle

from stageflow import search_ray
from stageflow.artifact import Artifacts
from stageflow.executor import ignore
from stageflow.executor_ray import RayExecutor
from stageflow.machines_ray import Machines
from stageflow.search import Objective
from stageflow.search_ray import CoordinatorError
from stageflow.stage import Node
from stageflow.store import FolderStore
from stageflow.study import LOST, Study, StudyError, Trial
from stageflow.testing_stages import (
    Adding,
    Counting,
    Failing,
    Telling,
    add,
    count,
    fail,
    note_down,
    noted,
    tell,
)

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no other process can import a test

KINDS = ("count", "gated", "nan", "fail", "refuse", "unnamed")


@dataclass(frozen=True, kw_only=True)
class Params:
    kind: str = "count"
    first: int = 0
    to: int = 2
    twin: int = 0


def space(trial: optuna.Trial) -> Params:
    return Params(
        kind=trial.suggest_categorical("kind", KINDS),
        first=trial.suggest_int("first", 0, 1000),
        to=trial.suggest_int("to", 1, 9),
        twin=trial.suggest_int("twin", 0, 9),
    )


def pipeline(params: Params, *, label: str, folder: Path) -> Node:
    """A sum over a stage that counts and reports, or one of the ways in which a trial fails."""
    note_down(str(folder / "trials"), f"{os.getpid()} {'torch' in sys.modules}")
    if params.kind == "nan":
        return tell(Telling(label=label, text="nan"))
    if params.kind == "fail":
        return fail(Failing(label=label, text="out of luck\nindeed"))
    if params.kind == "refuse":
        raise ValueError(f"first is {params.first}: give another")
    if params.kind == "unnamed":
        return fail(Failing(label=label + "mended", mended=str(folder)))
    counted = count(
        Counting(
            label=label,
            first=params.first,
            to=params.to,
            log=str(folder / f"log-{params.first}"),
            gate=str(folder / "gate") if params.kind == "gated" else "",
        )
    )
    return add(counted, counted, Adding(label=label))


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayExecutor]:
    folder = tmp_path_factory.mktemp("executor")
    with pytest.MonkeyPatch.context() as patch:
        # Ray writes a token there, which every cluster of this process must find again.
        patch.setenv("HOME", str(tmp_path_factory.getbasetemp()))
        artifacts = Artifacts(FolderStore(folder / "store"), folder / "cache")
        executor = RayExecutor(artifacts, cpus=2, idle_seconds=3)
    yield executor
    executor.close()


class Sweep:
    """Searches over fixed lists of parameters, with one label and one store."""

    def __init__(self, executor: RayExecutor, folder: Path) -> None:
        self.executor, self.folder, self.label = executor, folder, uuid4().hex

    def begun(self) -> int:
        """How many trials began so far."""
        log = self.folder / "trials"
        return len(noted(log)) if log.exists() else 0

    def objective(self, rung: str = "", maximise: bool = True) -> Objective[Params]:
        build = partial(pipeline, label=self.label, folder=self.folder)
        return Objective(build, "value", rung, maximise)

    def search(
        self, *tried: Params, rung: str = "", maximise: bool = True, concurrent: int = 1
    ) -> list[Trial]:
        url = f"sqlite:///{self.folder}/{uuid4().hex}.db"
        study = Study("study", url, space=space, maximise=maximise)
        for params in tried:
            study.enqueue(params)
        objective = self.objective(rung, maximise)
        search_ray.search(study, objective, self.executor, trials=len(tried), concurrent=concurrent)
        assert study.spent() == len(tried)
        return study.trials()


@pytest.fixture
def sweep(executor: RayExecutor, tmp_path: Path) -> Sweep:
    return Sweep(executor, tmp_path)


def test_states_are_told_truthfully(sweep: Sweep) -> None:
    """COMPLETE with its value, or FAIL with the reason in one line; none hurts another."""
    good, nan, failed, refused, unnamed, last = sweep.search(
        Params(first=5),
        Params(kind="nan"),
        Params(kind="fail"),
        Params(kind="refuse", first=3),
        Params(kind="unnamed"),
        Params(first=7),
        concurrent=2,
    )
    assert (good.state, good.value, good.reason) == ("COMPLETE", 14.0, "")
    assert good.target.startswith("add/")
    assert (last.state, last.value) == ("COMPLETE", 18.0)
    assert (nan.state, nan.value, nan.reason) == ("FAIL", None, "the objective is nan")
    assert (failed.state, failed.reason) == ("FAIL", "LookupError: out of luck")
    assert (refused.state, refused.reason) == ("FAIL", "ValueError: first is 3: give another")
    assert unnamed.state == "FAIL"
    assert unnamed.reason == "fail has no metric 'value'; there are: mended"


def test_light_trials(sweep: Sweep) -> None:
    """One process for many trials, without torch in it."""
    sweep.search(*(Params(first=first) for first in range(4)))
    lines = [line.split() for line in noted(sweep.folder / "trials")]
    assert len(lines) == 4
    assert len({process for process, _ in lines}) == 1
    assert {has_torch for _, has_torch in lines} == {"False"}
    assert lines[0][0] != str(os.getpid())


def test_light_driver() -> None:
    """Nor in the process that drives a sweep."""
    code = "import sys, stageflow.search_ray, stageflow.sweep\nsys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_twins_run_once(sweep: Sweep) -> None:
    """Trials that build the same pipeline at the same time have one execution and one value."""
    trials = sweep.search(*(Params(first=8, twin=twin) for twin in range(4)), concurrent=4)
    assert [trial.value for trial in trials] == [20.0] * 4
    assert len({trial.target for trial in trials}) == 1
    assert len(noted(sweep.folder / "log-8")) == 2


@pytest.mark.parametrize(("maximise", "firsts"), [(True, (100, 50, 200)), (False, (50, 100, 20))])
def test_pruned(sweep: Sweep, maximise: bool, firsts: tuple[int, ...]) -> None:
    """ASHA stops the second, that is worse at its first report; the study says after which."""
    tried = [Params(first=first) for first in firsts]
    best, worse, better = sweep.search(*tried, rung="value", maximise=maximise)
    assert best.state == better.state == "COMPLETE"
    assert better.value == 2.0 * (firsts[2] + 2)
    assert (worse.state, worse.value, worse.reason) == ("PRUNED", None, "")
    assert worse.target.startswith("add/")


def test_final_values_are_no_reports(sweep: Sweep) -> None:
    """ASHA compares reports with reports: the value of a trial, here twice the count, is another.

    The first trial ends as its third result, when the second makes its third report.
    """
    first, second = sweep.search(Params(first=100, to=2), Params(first=110, to=4), rung="value")
    assert (first.state, first.value) == ("COMPLETE", 204.0)
    assert (second.state, second.value) == ("COMPLETE", 228.0)


def test_reports_are_replayed(sweep: Sweep, executor: RayExecutor) -> None:
    """A search that is served from the store goes as the one for which the stages ran."""
    tried = [Params(first=first) for first in (100, 50, 120, 90, 130)]
    live = sweep.search(*tried, rung="value")
    assert [t.state for t in live] == ["COMPLETE", "PRUNED", "COMPLETE", "PRUNED", "COMPLETE"]
    sweep.executor = RayExecutor(executor.artifacts)
    try:
        again = sweep.search(*tried, rung="value")
    finally:
        sweep.executor.close()
    assert [(t.state, t.value, t.target) for t in again] == [
        (t.state, t.value, t.target) for t in live
    ]
    for trial in live:
        if trial.state == "COMPLETE":
            assert len(noted(sweep.folder / f"log-{trial.params['first']}")) == 2


def test_a_cluster_that_grows_runs_more_at_once(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trial does not end before the third has begun."""

    def grow(machines: Machines) -> int:
        if sweep.begun() == 3:
            (sweep.folder / "gate1").touch()
        return 3 if sweep.begun() else 1

    monkeypatch.setattr(search_ray, "fitting", grow)
    tried = [Params(kind="gated", first=first, to=1) for first in range(3)]
    trials = sweep.search(*tried, Params(first=9), concurrent=0)
    assert [trial.state for trial in trials] == ["COMPLETE"] * 4


def test_a_storage_that_is_lost_ends_the_search_in_its_own_words(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(study: Study[Params], number: int, result: object) -> None:
        raise StudyError("the study's storage has been away for a minute")

    monkeypatch.setattr(Study, "tell", lost)
    with pytest.raises(StudyError, match=r"^the study's storage has been away for a minute$"):
        sweep.search(Params(first=1))


def test_a_coordinator_that_dies_costs_no_trial(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search ends in one line that names it; the same command goes on with the same trials."""
    url = f"sqlite:///{sweep.folder}/studies.db"
    tried = [Params(kind="gated", first=first, to=1) for first in range(2)]

    def command(executor: RayExecutor) -> list[Trial]:
        study = Study("study", url, space=space)
        with study.joined(), executor.watching(ignore):
            for params in tried:
                study.enqueue(params)
            search_ray.search(study, sweep.objective(), executor, trials=2, concurrent=0)
        return study.trials()

    def kill(machines: Machines) -> int:
        if sweep.begun() == 2:
            ray.kill(dies.coordinator)
        return 2

    dies = RayExecutor(sweep.executor.artifacts)
    with monkeypatch.context() as patch:
        patch.setattr(search_ray, "fitting", kill)
        with pytest.raises(CoordinatorError, match=r"^the coordinator died \(.*goes on from here$"):
            command(dies)
    dies.close()
    (sweep.folder / "gate2").touch()
    (sweep.folder / "gate1").touch()
    trials = command(sweep.executor)
    assert [(trial.state, trial.reason) for trial in trials[:2]] == [("FAIL", LOST)] * 2
    assert [trial.state for trial in trials[2:]] == ["COMPLETE"] * 2
    assert {trial.params["first"] for trial in trials[2:]} == {0, 1}
