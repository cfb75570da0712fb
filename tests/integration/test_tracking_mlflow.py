"""Tracking over HTTP, on a real server: it holds what a database file holds."""

from __future__ import annotations

import io
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from mlflow import MlflowClient
from PIL import Image

from stageflow.artifact import Artifacts
from stageflow.board import Entry, row
from stageflow.context import Context
from stageflow.executor import LocalExecutor, run
from stageflow.stage import Source, stage
from stageflow.store import FolderStore
from stageflow.study import Broken, Completed, Pruned, Study
from stageflow.tracking import Background, Tracked, project

if TYPE_CHECKING:
    from tests.conftest import MLflowServer

# MLflow 3.17 on SQLAlchemy 2.1, once in a process: its own mapping uses an option that will go away
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1000, 600), "teal").save(file, "png")
    return file.getvalue()


PNG = png()


@dataclass(frozen=True, kw_only=True, slots=True)
class Nothing:
    pass


@stage(version="1")
def score(context: Context, images: Source, config: Nothing) -> dict[str, float]:
    for epoch in range(3):
        context.report(epoch, {"loss": 1 / (1 + epoch), "diverged": math.inf})
    return {"miou": 0.1 + 0.2, "iou/cat": math.nan}


@stage(version="1")
def draw(context: Context, scores: Path, config: Nothing) -> None:
    (context.out / "threshold curve.png").write_bytes(PNG)


@pytest.fixture
def server(mlflow_server: MLflowServer) -> str:
    """Its address."""
    return mlflow_server.address


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
def tracked(tmp_path: Path, artifacts: Artifacts) -> Tracked:
    """A study with trials of every kind, a row with a picture, and a name that wants care."""

    def space(trial: optuna.Trial) -> str | None:
        return trial.suggest_categorical("crop (px)", ["", None])

    study = Study('don\'t "quote" 100 % Größe', str(tmp_path / "journal"), space=space)
    target = score(Source("scenes", "/anywhere", {"count": 40}), Nothing())
    picture = draw(target, Nothing())
    run(target, picture, executor=LocalExecutor(artifacts))
    for result in (Completed(0.3, f"score/{target.key}"), Pruned(0.1, 1), Broken("no memory")):
        study.tell(study.ask().number, result)
    study.ask()
    entry = Entry(
        task="CAM seed",
        split="scenes train (40)",
        method="ReCAM",
        targets=(target,),
        seeds=(0,),
        oracle=False,
        weights="none",
        pictures=(picture,),
    )
    return Tracked(
        experiment="recam/threshold",
        study=study.name,
        trials=study.trials(),
        options={"subset": "", "epochs": 3},
        rows=[row(entry, artifacts)],
        metric="miou",
        files={"leaderboard.html": "<p>Größe</p>", "leaderboard.md": "| Größe |"},
    )


def content(uri: str, experiment: str, to: Path) -> dict[str, Any]:
    """All that MLflow holds of an experiment, with names in place of ids and of NaN."""
    client, found = MlflowClient(uri), {}
    place = client.get_experiment_by_name(experiment).experiment_id
    runs = [*client.search_runs([place])]
    names = {one.info.run_id: one.info.run_name for one in runs}
    for one in runs:
        data, info = one.data, one.info
        parent = names.get(data.tags.pop("mlflow.parentRunId", ""))
        data.tags.pop("stageflow.digest")
        note = data.tags["mlflow.note.content"].replace(f"#/experiments/{place}/", "#/experiments/")
        data.tags["mlflow.note.content"] = note.replace(f"Sweep `{experiment}`", "Sweep")
        histories = {
            key: [
                (p.step, p.timestamp, repr(p.value))
                for p in client.get_metric_history(info.run_id, key)
            ]
            for key in data.metrics
        }
        folder = to / info.run_id
        folder.mkdir(parents=True)
        client.download_artifacts(info.run_id, "", str(folder))
        files = {
            str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()
        }
        end = (info.status, info.start_time, info.end_time)
        inputs = one.inputs.to_dictionary()
        found[info.run_name] = (parent, data.params, data.tags, histories, end, inputs, files)
    assert len(found) == len(runs)
    return found


def test_a_server_holds_what_a_database_file_holds(
    server: str, tracked: Tracked, artifacts: Artifacts, tmp_path: Path
) -> None:
    file = f"sqlite:///{tmp_path}/mlflow.db"
    for uri in (server, file):
        project(tracked, artifacts, uri)
    there = content(server, tracked.experiment, tmp_path / "there")
    assert there == content(file, tracked.experiment, tmp_path / "here")
    assert len(there) == 6
    parent, params, _, histories, _, _, files = there["ReCAM seed 0"]
    assert parent == tracked.study
    assert params["oracle"] == "False"
    assert files.pop("draw.threshold curve.png") == PNG
    preview, full = sorted(files)
    assert full.startswith("images/draw~threshold curve+step+0+timestamp+")
    assert (full[-4:], preview) == (".png", f"{full[:-4]}+compressed.webp")
    assert files[full] == PNG
    assert max(Image.open(io.BytesIO(files[preview])).size) == 800
    assert [(step, value) for step, _, value in histories["iou/cat"]] == [(2, "nan")]
    assert [(step, value) for step, _, value in histories["miou"]] == [(2, repr(0.1 + 0.2))]
    assert "score/diverged" not in histories
    assert there[tracked.study][1] == {"subset": "", "epochs": "3"}
    assert there[tracked.study][-1] == {
        "leaderboard.html": "<p>Größe</p>".encode(),
        "leaderboard.md": "| Größe |".encode(),
    }


def test_again_by_another_process_changes_nothing(
    server: str, tracked: Tracked, artifacts: Artifacts, tmp_path: Path
) -> None:
    tracked = replace(tracked, experiment="twice")
    links = [project(tracked, artifacts, server)]
    before = content(server, "twice", tmp_path / "before")
    links += [project(tracked, artifacts, server)]
    assert content(server, "twice", tmp_path / "after") == before
    assert links[0] == links[1]
    page = f"{server}/#/experiments/{links[0].experiment}/runs/{links[0].run}"
    assert str(links[0]).startswith(page)


def test_what_comes_later_is_added_to_the_same_run(
    server: str, tracked: Tracked, artifacts: Artifacts
) -> None:
    """Its address stays, and so does what somebody has bookmarked."""
    client, early = MlflowClient(server), replace(tracked, experiment="later")
    place = project(early, artifacts, server).experiment
    before = {run.info.run_id for run in client.search_runs([place])}
    [drawn] = [manifest for manifest in artifacts.all() if manifest.stage == "draw"]
    project(replace(early, pictures={0: f"draw/{drawn.key}"}), artifacts, server)
    after = list(client.search_runs([place]))
    assert {run.info.run_id for run in after} == before
    [trial] = [run for run in after if run.info.run_name == "trial 0"]
    files = {file.path for file in client.list_artifacts(trial.info.run_id)}
    assert files == {"draw.threshold curve.png", "images"}


def test_drivers_of_one_study(
    server: str, tracked: Tracked, artifacts: Artifacts, tmp_path: Path
) -> None:
    """They take turns, so that whichever ends first, no run is there twice and none is missing."""
    tracked = replace(tracked, experiment="together")
    here: list[Study[None]] = [
        Study("drivers", str(tmp_path / "journal"), space=lambda trial: None) for _ in range(3)
    ]
    ready = threading.Barrier(3)

    def drive(study: Study[None]) -> str:
        with study.joined():
            ready.wait()
            with Background(
                lambda: tracked, artifacts, server, is_mine=study.is_first, period=0.1
            ) as background:
                pass
        return background.verdict()

    with ThreadPoolExecutor(3) as drivers:
        verdicts = {*drivers.map(drive, here)}
    assert verdicts <= {
        f"MLflow: {project(tracked, artifacts, server)}",
        "MLflow: another driver of this study writes it",
    }
    alone = replace(tracked, experiment="alone")
    project(alone, artifacts, server)
    there = content(server, "together", tmp_path / "there")
    assert there == content(server, "alone", tmp_path / "alone")


def test_nothing_is_printed(
    server: str, tracked: Tracked, artifacts: Artifacts, capfd: pytest.CaptureFixture[str]
) -> None:
    project(replace(tracked, experiment="quiet"), artifacts, server)
    assert capfd.readouterr() == ("", "")
