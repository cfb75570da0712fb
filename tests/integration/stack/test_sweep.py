"""A whole sweep through `ray job submit` against the stack, twice at the same time."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from stageflow import board
from stageflow.study import Study
from tests.integration.stack.conftest import ROOT, SWEEP, Cluster, Job, wait_until

pytestmark = pytest.mark.slow


def begun(*jobs: Job) -> Counter[tuple[str, ...]]:
    """How often each stage was begun, by name, key and shard."""
    lines = [re.findall(r"started +(\w+) (\w{6})(.*)", job.output()) for job in jobs]
    return Counter(found for each in lines for found in each)


@pytest.mark.timeout(900)
def test_twice_at_the_same_time(cluster: Cluster, sweep: tuple[Job, Job]) -> None:
    """Each stage is made once, by one of the two; and both tell the same board."""
    counted = begun(*sweep)
    assert {"train_cam", "train_recam", "recam_maps", "seed_score"} <= {
        name for name, *_ in counted
    }
    assert set(counted.values()) == {1}, counted
    boards = [job.output().split("CAM seed · ")[1].split("MLflow: ")[0] for job in sweep]
    assert boards[0] == boards[1]
    assert all("another driver made it" in job.output() for job in sweep if begun(job) < counted)


def test_artifacts_are_in_s3(cluster: Cluster, sweep: tuple[Job, Job]) -> None:
    """All that was made, and the board; nothing that served to make it is left behind."""
    store = cluster.store()
    names = list(store.list(""))
    made = {name.split("/")[0] for name in names if name.endswith("/manifest.json")}
    assert {"train_cam", "train_recam", "cam_maps", "recam_maps", "seed_quality"} <= made
    leftovers = re.compile(r"^(claims|drivers)/|/(checkpoints|shards)/")
    assert [name for name in names if leftovers.search(name)] == []
    rows = [row for row in board.load(store) if not row.published]
    assert {row.method.partition(" (")[0] for row in rows} == {"CAM", "ReCAM"}


def test_from_elsewhere_nothing_is_made_again(cluster: Cluster, sweep: tuple[Job, Job]) -> None:
    """The same command in a shell of this machine, in one process, finds all of it in S3."""
    script, *arguments = SWEEP
    before = board.load(cluster.store())
    told = cluster.run("python", str(ROOT / script), *arguments, "--executor=local")
    assert not re.search(r"^ +\d+:\d\d  (started|finished)", told, re.MULTILINE)
    assert "best of 3 trials" in told
    assert "CAM seed · " in told
    assert board.load(cluster.store()) == before


def test_the_study_is_in_postgresql(cluster: Cluster, sweep: tuple[Job, Job]) -> None:
    """Together they spent what one was told to spend."""
    [name] = {found for job in sweep for found in re.findall(r"study (recam-\S+):", job.output())}
    study: Study[None] = Study(
        name, cluster.stack.addresses["STAGEFLOW_STUDIES"], space=lambda _: None
    )
    trials = study.trials()
    assert [trial.state for trial in trials] == ["COMPLETE"] * 3  # some numbers may be left out
    assert len({tuple(sorted(trial.params.items())) for trial in trials}) == 3


def test_the_runs_are_in_mlflow(cluster: Cluster, sweep: tuple[Job, Job], tmp_path: Path) -> None:
    """One run a trial and one for the sweep, however many drivers; pictures come through it."""
    client = MlflowClient(cluster.stack.layout.mlflow_url)
    experiment = client.get_experiment_by_name("recam-threshold")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    [study] = {found for job in sweep for found in re.findall(r"study (recam-\S+):", job.output())}
    [parent] = [run for run in runs if run.data.tags.get("stageflow.study") == study]
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"leaderboard.html", "leaderboard.json"} <= files
    page = client.download_artifacts(parent.info.run_id, "leaderboard.html", str(tmp_path))
    assert "ReCAM" in Path(page).read_text()
    children = [
        run.info.run_name
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    trials = [name for name in children if name.startswith("trial ")]
    assert len(set(trials)) == len(trials) == 3, trials


@pytest.mark.timeout(900)
def test_stopped_and_submitted_again(cluster: Cluster, sweep: tuple[Job, Job]) -> None:
    """It ends in order, lets go of what it held, and the same command goes on where it was."""
    command = ("sweeps/recam_threshold.py", "--data=scenes:images=32", "--trials=1", "--seeds=1")
    command += ("--cam-steps=200", "--recam-steps=4", "--probe=0", "--study=stopped")
    store = cluster.store()
    known = {name for name in store.list("train_cam/")}
    first = cluster.submit(*command, name="first")
    wait_until(lambda: any("/checkpoints/" in n for n in {*store.list("train_cam/")} - known))
    cluster.run("ray", "job", "stop", "first")
    first.process.wait(timeout=120)
    assert "Job 'first' was stopped" in first.told
    assert "stopped; the same command goes on from here" in first.told
    study: Study[None] = Study(
        "stopped", cluster.stack.addresses["STAGEFLOW_STUDIES"], space=lambda _: None
    )
    assert [trial.state for trial in study.trials()] == ["FAIL"]
    again = cluster.submit(*command, name="again").output()
    assert "best of 2 trials" in again
    assert re.search(r"finished +train_cam \w{6}  went on from step", again)
    assert "another driver" not in again
