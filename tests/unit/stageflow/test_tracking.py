"""Real studies and artifacts, projected onto a real MLflow in a database file."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from stageflow.artifact import Artifacts
from stageflow.board import Entry, Row, row
from stageflow.context import Context
from stageflow.executor import LocalExecutor, run
from stageflow.stage import Node, Source, stage
from stageflow.store import FolderStore, StoreError
from stageflow.study import Broken, Completed, Pruned, Study
from stageflow.tracking import Background, Links, Tracked, Tracker, project

# MLflow 3.17 on SQLAlchemy 2.1, once in a process: its own mapping uses an option that will go away
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
)

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    rate: float
    seed: int = 0
    epochs: int = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Nothing:
    pass


@stage(version="1")
def train(context: Context, images: Source, config: Training) -> dict[str, float]:
    for epoch in range(1, config.epochs + 1):
        context.report(epoch, {"loss": config.rate / epoch})
    return {"accuracy": config.rate}


@stage(version="1")
def score(context: Context, weights: Path, config: Nothing) -> dict[str, float]:
    return {"miou": 0.5, "iou/cat": 0.25}


@stage(version="1")
def draw(context: Context, scores: Path, config: Nothing) -> None:
    (context.out / "curve.png").write_bytes(PNG)


def pipeline(rate: float, seed: int = 0) -> Node:
    images = Source("scenes", "/anywhere", {"count": 40})
    return score(train(images, Training(rate=rate, seed=seed)), Nothing())


def space(trial: optuna.Trial) -> float:
    return trial.suggest_float("rate", 0, 1)


@dataclass(frozen=True, slots=True)
class Bench:
    """A study with its artifacts, and what MLflow says of it."""

    study: Study[float]
    artifacts: Artifacts
    uri: str

    def tracked(self, rows: Sequence[Row] = (), page: str = "") -> Tracked:
        return Tracked(
            experiment="toy",
            study=self.study.name,
            trials=self.study.trials(),
            options={"data": {"root": "scenes"}, "epochs": 3},
            rows=rows,
            metric="miou",
            files={"leaderboard.html": page},
        )

    def project(self) -> Links:
        return project(self.tracked(), self.artifacts, self.uri)

    def make(self, *targets: Node) -> None:
        run(*targets, executor=LocalExecutor(self.artifacts))

    def complete_a_trial(self) -> None:
        proposal = self.study.ask()
        target = pipeline(proposal.params)
        self.make(target)
        self.study.tell(proposal.number, Completed(0.5, f"score/{target.key}"))

    def runs(self, kind: str = "stageflow.trial", view: int = ViewType.ACTIVE_ONLY) -> list[Any]:
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("toy")
        found = client.search_runs([experiment.experiment_id], run_view_type=view)
        return sorted(
            (run for run in found if kind in run.data.tags), key=lambda run: run.data.tags[kind]
        )

    def history(self, run: Any, key: str) -> list[tuple[int, float]]:
        points = MlflowClient(self.uri).get_metric_history(run.info.run_id, key)
        return sorted((point.step, point.value) for point in points)

    def content(self) -> dict[str, Any]:
        """Everything that MLflow holds, by run id."""
        client, found = MlflowClient(self.uri), {}
        for one in client.search_runs([client.get_experiment_by_name("toy").experiment_id]):
            data, info = one.data, one.info
            histories = {key: self.history(one, key) for key in data.metrics}
            end = (info.status, info.start_time, info.end_time, info.run_name)
            found[info.run_id] = (
                data.params,
                data.tags,
                histories,
                end,
                one.inputs.to_dictionary(),
            )
        return found


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to lay out a new database; once is enough."""
    file = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Bench:
    database = tmp_path / "tracking" / "mlflow.db"
    database.parent.mkdir()
    shutil.copyfile(empty_database, database)
    return Bench(
        study=Study("toy-1", str(tmp_path / "study.journal"), space=space),
        artifacts=Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache"),
        uri=f"sqlite:///{database}",
    )


def test_a_parent_with_a_child_for_each_trial(bench: Bench) -> None:
    bench.complete_a_trial()
    bench.study.tell(bench.study.ask().number, Pruned(0.1, 1))
    bench.study.tell(bench.study.ask().number, Broken("RuntimeError: out of memory"))
    bench.study.ask()
    links = bench.project()
    (parent,) = bench.runs("stageflow.study")
    trials = bench.runs()
    assert (links.experiment, links.run) == (parent.info.experiment_id, parent.info.run_id)
    assert parent.data.tags["stageflow.study"] == "toy-1"
    assert parent.data.params == {"data.root": "scenes", "epochs": "3"}
    assert parent.info.status == "RUNNING"
    assert [one.data.tags["stageflow.trial"] for one in trials] == [f"toy-1/{n}" for n in range(4)]
    assert {one.data.tags["mlflow.parentRunId"] for one in trials} == {parent.info.run_id}
    states = [(one.data.tags["stageflow.state"], one.info.status) for one in trials]
    assert states == [
        ("COMPLETE", "FINISHED"),
        ("PRUNED", "KILLED"),
        ("FAIL", "FAILED"),
        ("RUNNING", "RUNNING"),
    ]
    assert trials[2].data.tags["stageflow.reason"] == "RuntimeError: out of memory"
    assert [set(one.data.params) for one in trials] == [{"rate"}] * 4
    for told, one in zip(bench.study.trials(), trials, strict=True):
        assert one.info.start_time == pytest.approx(1000 * (told.started or 0), abs=1)
        if told.finished is not None:
            assert one.info.end_time == pytest.approx(1000 * told.finished, abs=1)


def test_what_a_trial_rests_on(bench: Bench) -> None:
    bench.complete_a_trial()
    bench.project()
    (trial,) = bench.runs()
    rate = float(trial.data.params["rate"])
    assert trial.data.metrics["miou"] == 0.5
    assert trial.data.metrics["iou/cat"] == 0.25
    assert trial.data.metrics["train/accuracy"] == rate
    assert trial.data.metrics["total/reused_stages"] == 0
    assert bench.history(trial, "train/loss") == [(1, rate), (2, rate / 2), (3, rate / 3)]
    (given,) = trial.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.source) == ("scenes", '{"count": 40}')
    assert given.dataset.digest == Source("scenes", "", {"count": 40}).key
    (told,) = bench.study.trials()
    assert (
        trial.data.tags["stageflow.artifact.score"] == f"{bench.artifacts.store.uri}/{told.target}"
    )
    assert trial.data.tags["stageflow.seed"] == "0"
    assert trial.data.tags["stageflow.resumed"] == "no"


def test_again_by_another_process_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        bench.complete_a_trial()
    bench.project()
    before = bench.content()
    assert len(before) == 3
    monkeypatch.setattr("stageflow.tracking_mlflow.PAGE", 2)
    with monkeypatch.context() as patch:
        for name in ("create_run", "log_batch", "log_inputs", "set_terminated", "update_run"):
            patch.delattr(MlflowClient, name)  # nor is anything written
        bench.project()
    assert bench.content() == before


def test_a_trial_stays_one_run_from_its_start_to_its_end(bench: Bench) -> None:
    tracker = Tracker(bench.uri)
    proposal = bench.study.ask()
    tracker.project(bench.tracked(), bench.artifacts)
    (before,) = bench.runs()
    target = pipeline(proposal.params)
    bench.make(target)
    bench.study.tell(proposal.number, Completed(0.5, f"score/{target.key}"))
    tracker.project(bench.tracked(), bench.artifacts)
    (after,) = bench.runs()
    assert after.info.run_id == before.info.run_id
    assert (before.info.status, after.info.status) == ("RUNNING", "FINISHED")
    assert after.data.metrics["miou"] == 0.5
    assert bench.runs("stageflow.study")[0].info.status == "FINISHED"


def test_twins_are_merged(bench: Bench) -> None:
    bench.complete_a_trial()
    bench.project()
    before = bench.content()
    client = MlflowClient(bench.uri)
    for kind in ("stageflow.study", "stageflow.trial"):
        (one,) = bench.runs(kind)
        identity = {kind: one.data.tags[kind]}
        client.create_run(one.info.experiment_id, one.info.start_time + 1, identity)
    somebody_elses = client.create_run(one.info.experiment_id)
    assert len(bench.content()) == 5
    bench.project()
    after = bench.content()
    after.pop(somebody_elses.info.run_id)
    assert after == before


def test_what_a_killed_process_left_half_written_is_completed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.complete_a_trial()
    dies = Mock(side_effect=[None, KeyboardInterrupt])  # not at the parent, but at the trial
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_inputs", dies)
        with pytest.raises(KeyboardInterrupt):
            bench.project()
    (half,) = bench.runs()
    assert not half.data.params
    bench.project()
    (whole,) = bench.runs()
    assert whole.info.run_id == half.info.run_id
    assert whole.data.metrics["miou"] == 0.5


def test_a_run_that_is_not_true_any_more_is_written_anew(bench: Bench, tmp_path: Path) -> None:
    """The user removed the study: its trial 0 is another one now, under the same name."""
    bench.complete_a_trial()
    bench.project()
    (old,) = bench.runs()
    (tmp_path / "study.journal").unlink()
    bench = replace(
        bench, study=Study("toy-1", str(tmp_path / "study.journal"), space=lambda _: 0.25)
    )
    bench.complete_a_trial()
    bench.project()
    (new,) = bench.runs()
    assert new.info.run_id != old.info.run_id
    assert new.data.params == {}
    assert new.data.metrics["train/accuracy"] == 0.25


def test_a_removed_experiment_is_brought_back(bench: Bench) -> None:
    bench.complete_a_trial()
    MlflowClient(bench.uri).delete_experiment(bench.project().experiment)
    bench.project()
    assert len(bench.runs()) == 1


def test_after_an_error_the_same_tracker_looks_again(bench: Bench) -> None:
    """Somebody removed the parent in the UI: one round fails, the next one mends it all."""
    tracker = Tracker(bench.uri)
    bench.complete_a_trial()
    MlflowClient(bench.uri).delete_run(tracker.project(bench.tracked(), bench.artifacts).run)
    bench.complete_a_trial()
    with pytest.raises(MlflowException):
        tracker.project(bench.tracked(), bench.artifacts)
    links = tracker.project(bench.tracked(), bench.artifacts)
    assert [one.data.tags["mlflow.parentRunId"] for one in bench.runs()] == [links.run] * 2


def test_long_histories_and_many_parameters(bench: Bench) -> None:
    images = Source("scenes", "/anywhere", {"count": 40})
    target = score(train(images, Training(rate=0.5, epochs=1201)), Nothing())
    bench.make(target)
    number = bench.study.ask().number
    bench.study.tell(number, Completed(0.5, f"score/{target.key}"))
    options = {f"option{n}": "x" * 9000 for n in range(130)}
    tracked = replace(bench.tracked(), options=options)
    project(tracked, bench.artifacts, bench.uri)
    assert len(bench.history(bench.runs()[0], "train/loss")) == 1201
    parameters = bench.runs("stageflow.study")[0].data.params
    assert len(parameters) == 130
    assert {len(value) for value in parameters.values()} == {6000}


def test_rows_with_pictures_and_the_page(bench: Bench, tmp_path: Path) -> None:
    targets = [pipeline(0.5, seed) for seed in (1, 2)]
    pictures = tuple(draw(target, Nothing()) for target in targets)
    bench.make(*targets, *pictures)
    entry = Entry(
        task="CAM seed",
        split="scenes train (40)",
        method="ReCAM",
        targets=tuple(targets),
        seeds=(1, 2),
        oracle=True,
        weights="none",
        pictures=pictures,
    )
    rows = [row(entry, bench.artifacts)]
    bench.complete_a_trial()
    tracker = Tracker(bench.uri)
    for page in ("<p>first</p>", "<p>second</p>"):
        links = tracker.project(bench.tracked(rows, page), bench.artifacts)
    runs = bench.runs("stageflow.row")
    assert [one.info.run_name for one in runs] == ["ReCAM seed 1", "ReCAM seed 2"]
    assert {one.data.tags["mlflow.parentRunId"] for one in runs} == {links.run}
    assert runs[0].data.params["task"] == "CAM seed"
    assert runs[0].data.metrics["miou"] == 0.5
    client = MlflowClient(bench.uri)
    for one in runs:
        local = client.download_artifacts(one.info.run_id, "draw.curve.png", str(tmp_path))
        assert Path(local).read_bytes() == PNG
    local = client.download_artifacts(links.run, "leaderboard.html", str(tmp_path))
    assert Path(local).read_text() == "<p>second</p>"
    beside = tmp_path / "tracking" / "mlflow-artifacts" / "toy"
    assert len([*beside.rglob("draw.curve.png")]) == 2


def test_links_are_for_people() -> None:
    http = Links("https://me:pass@host:5000/", "3", "abc")
    page = "#/experiments/3/runs/abc?workflowType=machine_learning"
    assert str(http) == f"https://***@host:5000/{page}"
    assert "mlflow ui --backend-store-uri sqlite:////x.db" in str(
        Links("sqlite:////x.db", "3", "a")
    )


def test_the_background_shows_what_happens(bench: Bench) -> None:
    said: list[str] = []
    with Background(
        bench.tracked, bench.artifacts, bench.uri, period=0.05, say=said.append
    ) as keeper:
        bench.complete_a_trial()
        wait_until(lambda: keeper.links is not None and len(bench.runs()) == 1)
        bench.complete_a_trial()
    assert keeper.complete
    assert not said
    assert keeper.verdict() == f"MLflow: {keeper.links}"
    assert [one.info.status for one in bench.runs()] == ["FINISHED"] * 2


def test_the_background_says_once_that_a_server_is_away(bench: Bench) -> None:
    said: list[str] = []
    away = "http://me:pass@127.0.0.1:9"
    rounds = 0

    def latest() -> Tracked:
        nonlocal rounds
        rounds += 1
        try:
            raise OSError(f"no route to {away}/x\nand more")
        except OSError as error:
            kind = RuntimeError if rounds == 1 else StoreError
            raise kind("store x does not answer: try later") from error

    with Background(latest, bench.artifacts, away, period=0.01, say=said.append) as keeper:
        wait_until(lambda: rounds > 3)
    assert not keeper.complete
    assert said == [
        "MLflow at http://***@127.0.0.1:9 is not up to date "
        "(no route to http://***@127.0.0.1:9/x): nothing is lost; `stageflow relog` writes it later"
    ]
    assert "(store x does not answer: try later)" in keeper.verdict()


def test_a_failing_block_waits_for_less(bench: Bench) -> None:
    hanging = threading.Event()

    def latest() -> Tracked:
        hanging.wait()
        return bench.tracked()

    begun = time.monotonic()
    keeper = Background(latest, bench.artifacts, bench.uri, haste=0.1)
    with pytest.raises(KeyboardInterrupt), keeper:
        raise KeyboardInterrupt
    took = time.monotonic() - begun
    hanging.set()
    wait_until(lambda: keeper.complete)
    assert took < 2


def test_who_does_not_track_does_not_wait_for_mlflow_to_be_imported() -> None:
    code = "import stageflow.tracking, sys; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_background_waits_for_a_hanging_server_no_longer_than_told(bench: Bench) -> None:
    hanging = threading.Event()

    def latest() -> Tracked:
        hanging.wait()
        return bench.tracked()

    begun = time.monotonic()
    with Background(latest, bench.artifacts, bench.uri, patience=0.2) as keeper:
        pass
    took = time.monotonic() - begun
    verdict = keeper.verdict()
    hanging.set()
    wait_until(lambda: keeper.complete)  # late, but it is there
    assert took < 2
    assert "not done after 0.2 s" in verdict


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
