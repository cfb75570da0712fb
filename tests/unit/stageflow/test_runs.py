"""What runs say, without MLflow: manifests made by hand, so that every number is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from stageflow.artifact import Artifacts, File, Manifest
from stageflow.board_row import Picture, Row
from stageflow.context import Report
from stageflow.redact import safe
from stageflow.runs import Lineages, Point, Run, Tracked, row_runs, study_run, trial_run
from stageflow.store import FolderStore
from stageflow.study import Trial

VOC = {"name": "voc", "key": "d" * 20, "identity": {"images": 1464}}


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache")


def made(artifacts: Artifacts, folder: str, **facts: Any) -> dict[str, str]:
    """Store a manifest; returns how another names it as its input."""
    stage, key = folder.split("/")
    manifest = Manifest(
        **{
            "key": key,
            "stage": stage,
            "version": "1",
            "config": {},
            "inputs": {},
            "files": (),
            "metrics": {},
            "reports": (),
            "resumed_from": (),
            "shards": 1,
            "fingerprint": "f",
            "commit": "c0ffee",
            "libraries": {},
            "hosts": ("here",),
            "device": "cpu",
            "started": 1000.0,
            "wall_seconds": 10.0,
            "gpu_seconds": 0.0,
            **facts,
        }
    )
    assert artifacts.store.create(f"{folder}/manifest.json", manifest.to_json())
    return {"name": stage, "key": key}


def trial(number: int = 0, **facts: Any) -> Trial:
    usual = {
        "state": "COMPLETE",
        "params": {"w": 0.5},
        "value": 0.5,
        "target": "score/k",
        "reason": "",
    }
    return Trial(number=number, **{**usual, "started": 1005.0, "finished": 1060.0, **facts})


def tracked(*trials: Trial, **facts: Any) -> Tracked:
    return Tracked(
        **{
            "experiment": "e",
            "study": "s",
            "trials": trials,
            "options": {},
            "metric": "miou",
            **facts,
        }
    )


def values(run: Run, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in run.points if point.key == key]


def parent(artifacts: Artifacts, *trials: Trial, **facts: Any) -> Run:
    return study_run(tracked(*trials, **facts), Lineages(artifacts), "7")


def said(run: Run) -> dict[str, str]:
    """The tags of our own, as opposed to those that MLflow has a place for."""
    return {name: text for name, text in run.tags.items() if name.startswith("stageflow.")}


def shown(artifacts: Artifacts, one: Trial | None = None) -> Run:
    one = one or trial()
    return trial_run(tracked(one), one, Lineages(artifacts))


def test_lineage_of_a_trial(artifacts: Artifacts) -> None:
    reports = tuple(Report(epoch, {"loss": 1 / epoch}) for epoch in (1, 2))
    train = made(
        artifacts,
        "train/t",
        inputs={"images": VOC},
        config={"seed": 3},
        reports=reports,
        resumed_from=(1,),
        metrics={"loss": 0.25},
        gpu_seconds=5.0,
    )
    maps = made(artifacts, "maps/m", inputs={"weights": train, "images": VOC}, started=1010.0)
    made(artifacts, "score/k", inputs={"maps": maps}, metrics={"miou": 0.5, "iou/cat": math.nan})
    run = shown(artifacts)
    assert values(run, "miou") == [(0, 0.5)]
    assert math.isnan(values(run, "iou/cat")[0][1])
    assert values(run, "train/loss") == [(1, 1.0), (2, 0.5), (2, 0.25)]
    assert [p.time for p in run.points if p.key == "train/loss"] == [1005_000, 1010_000, 1010_001]
    assert values(run, "train/gpu_seconds") == [(2, 5.0)]
    assert values(run, "total/gpu_seconds") == [(0, 5.0)]
    assert values(run, "total/wall_seconds") == [(0, 30.0)]
    assert values(run, "total/stages") == [(0, 3)]
    assert values(run, "total/reused_stages") == [(0, 2)]  # maps began after the trial did
    assert run.params == {"w": "0.5"}
    assert said(run) == {
        "stageflow.state": "COMPLETE",
        "stageflow.seed": "3",
        "stageflow.commit": "c0ffee",
        "stageflow.resumed": "train from step 1",
        "stageflow.artifact.score": f"{artifacts.store.uri}/score/k",
        "stageflow.artifact.maps": f"{artifacts.store.uri}/maps/m",
        "stageflow.artifact.train": f"{artifacts.store.uri}/train/t",
    }
    assert [(d.name, d.key, json.loads(d.identity), d.role) for d in run.data] == [
        ("voc", "d" * 20, {"images": 1464}, "images")
    ]
    assert (run.status, run.started, run.finished) == ("FINISHED", 1005_000, 1060_000)


def test_a_stage_met_twice_is_numbered(artifacts: Artifacts) -> None:
    both = {name: made(artifacts, f"maps/{name}", metrics={"n": n}) for n, name in enumerate("ab")}
    made(artifacts, "score/k", inputs=both)
    run = shown(artifacts)
    assert values(run, "maps/n") == [(0, 0)]
    assert values(run, "maps-2/n") == [(0, 1)]


def test_a_diamond_is_walked_once(artifacts: Artifacts) -> None:
    train = made(artifacts, "train/t")
    maps = made(artifacts, "maps/m", inputs={"weights": train})
    made(artifacts, "score/k", inputs={"maps": maps, "weights": train, "again": train})
    assert sorted(Lineages(artifacts).of("score/k")) == ["maps", "score", "train"]


def test_shards_ran_side_by_side(artifacts: Artifacts) -> None:
    made(artifacts, "score/k", shards=5, reports=(Report(0, {"x": 1.0}),))
    assert [p.time for p in shown(artifacts).points if p.key == "score/x"] == [1002_000]


@pytest.mark.parametrize(
    ("state", "status", "facts"),
    [
        ("PRUNED", "KILLED", {}),
        ("FAIL", "FAILED", {"reason": "the objective is nan"}),
        ("RUNNING", "RUNNING", {"finished": None}),
    ],
)
def test_other_ends(artifacts: Artifacts, state: str, status: str, facts: dict[str, Any]) -> None:
    run = shown(artifacts, trial(state=state, value=None, target="", **facts))
    reason = {"stageflow.reason": facts["reason"]} if "reason" in facts else {}
    assert run.status == status
    assert said(run) == {"stageflow.state": state, **reason}
    assert not run.points
    assert run.finished == (None if state == "RUNNING" else 1060_000)


def test_a_forgotten_target_leaves_the_value(artifacts: Artifacts) -> None:
    assert shown(artifacts).points == (Point("miou", 0.5, 1060_000, 0),)


def test_pictures_of_a_trial(artifacts: Artifacts) -> None:
    picture(artifacts, "draw/p")
    one, other = trial(), trial(1)
    told = tracked(one, other, pictures={1: "draw/p", 2: "draw/gone"})
    without, run = (trial_run(told, each, Lineages(artifacts)) for each in (one, other))
    assert [file.path for file in run.files][:1] == ["draw.a.png"]
    assert [file.small for file in run.files] == [False, False, True]
    assert "mlflow.loggedImages" in run.tags
    assert not without.files
    assert "mlflow.loggedImages" not in without.tags


def test_what_mlflow_has_columns_for(artifacts: Artifacts) -> None:
    """A commit only where there is one: the digest of a folder's files is none."""
    made(artifacts, "score/k", commit="c0ffee012345-dirty", inputs={"images": VOC})
    one = trial()
    told = tracked(one, command="sweeps/recam.py --data voc")
    for run in (
        trial_run(told, one, Lineages(artifacts)),
        study_run(told, Lineages(artifacts)),
    ):
        assert run.tags["mlflow.source.name"] == "sweeps/recam.py"
        assert run.tags["mlflow.source.type"] == "JOB"
        assert run.tags["mlflow.source.git.commit"] == "c0ffee012345"
        assert [given.name for given in run.data] == ["voc"]
    made(artifacts, "score/s", commit="source:0884b8499001")
    assert "mlflow.source.git.commit" not in shown(artifacts, trial(target="score/s")).tags


@pytest.mark.parametrize(("maximise", "best"), [(True, [0.4, 0.4, 0.6]), (False, [0.4, 0.2, 0.2])])
def test_the_parent_has_the_best_value_so_far(
    artifacts: Artifacts, maximise: bool, best: list[float]
) -> None:
    trials = [
        trial(0, value=0.2, finished=20.0),
        trial(1, value=0.4, finished=10.0),
        trial(2, value=0.6, finished=30.0),
        trial(3, value=None, state="FAIL"),
    ]
    run = parent(artifacts, *trials, maximise=maximise)
    assert values(run, "best/miou") == list(enumerate(best, start=1))
    assert [point.time for point in run.points] == [10_000, 20_000, 30_000]


@pytest.mark.parametrize("state", ["FINISHED", "FAILED", "KILLED"])
def test_the_parent_ends_as_its_command_did(artifacts: Artifacts, state: str) -> None:
    run = parent(artifacts, trial(), state=state, began=900.0, ended=1200.0)
    assert (run.status, run.started, run.finished) == (state, 900_000, 1200_000)
    working = parent(artifacts, trial(), state="RUNNING", began=900.0)
    assert (working.status, working.finished) == ("RUNNING", None)


def test_what_mlflow_cannot_hold(artifacts: Artifacts) -> None:
    metrics = {"miou@0.5": 0.1, "../a//b/": 0.2, "m" * 300: 0.3}
    made(artifacts, "score/k", metrics=metrics, reports=(Report(0, {"x": math.inf}),))
    keys = {point.key for point in shown(artifacts).points}
    assert {"miou_0.5", "a/b", "m" * 250} <= keys
    assert "score/x" not in keys
    one = trial(params={"long": "v" * 7000})
    assert shown(artifacts, one).params == {"long": "v" * 6000}


def test_the_parent_runs_as_long_as_a_trial(artifacts: Artifacts) -> None:
    done, open_ = trial(), trial(1, state="RUNNING", started=1001.0, finished=None)
    run = parent(artifacts, done, open_, options={"data": {"root": "x"}, "epochs": 3})
    assert (run.status, run.started, run.finished) == ("RUNNING", 1001_000, None)
    assert run.params == {"data.root": "x", "epochs": "3"}
    assert said(run) == {"stageflow.trials": "1 complete, 1 running"}
    closed = parent(artifacts, done, files={"leaderboard.html": "<html>", "leaderboard.md": "|"})
    assert (closed.status, closed.finished) == ("FINISHED", 1060_000)
    assert [(file.path, file.content) for file in closed.files] == [
        ("leaderboard.html", "<html>"),
        ("leaderboard.md", "|"),
    ]


def test_the_parent_says_where_products_lie(artifacts: Artifacts) -> None:
    run = parent(artifacts, products={"predictions, as PNGs": "s3://b/predict/k"})
    assert said(run) == {"stageflow.product.predictions_ as PNGs": "s3://b/predict/k"}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("postgresql+psycopg2://me:p@ss@host/db", "postgresql+psycopg2://***@host/db"),
        ("https://host/x?a=1&X-Amz-Signature=abc&b=2", "https://host/x?a=1&***&b=2"),
        ("s3://bucket/a and me@example.org", "s3://bucket/a and me@example.org"),
    ],
)
def test_credentials_are_cut(artifacts: Artifacts, text: str, left: str) -> None:
    assert safe(text) == left
    options = {"url": text, "s3": {"secret_key": "abc"}, "class_token": "mean"}
    params = parent(artifacts, options=options).params
    assert params == {"url": left, "s3.secret_key": "***", "class_token": "mean"}


def test_credentials_in_a_reason_are_cut(artifacts: Artifacts) -> None:
    one = trial(state="FAIL", value=None, reason="cannot read http://me:pass@host/x")
    assert shown(artifacts, one).tags["stageflow.reason"] == "cannot read http://***@host/x"


def board_row(*pictures: str) -> Row:
    return Row(
        task="CAM seed",
        split="scenes train (40)",
        method="ReCAM",
        reference="IRN",
        variant="product",
        values=(50.0, 60.0),
        seeds=(1, 2),
        oracle=True,
        crf=False,
        keys=("k1", "k2"),
        config_key="abc",
        pictures=tuple(Picture(*name.split("/"), "a.png", "0", "00") for name in pictures),
    )


def picture(artifacts: Artifacts, folder: str, *inputs: dict[str, str]) -> None:
    files = (File("a.png", 1, folder, "0"), File("numbers.json", 1, "-", "0"))
    named = {str(i): given for i, given in enumerate(inputs)}
    made(artifacts, folder, files=files, inputs=named)


def test_a_row_is_one_run_for_each_seed(artifacts: Artifacts) -> None:
    shared = made(artifacts, "prepare/p", inputs={"images": VOC}, started=900.0)
    scores = [
        made(
            artifacts,
            f"score/k{n}",
            inputs={"data": shared},
            config={"seed": n},
            metrics={"miou": n / 10},
        )
        for n in (1, 2)
    ]
    picture(artifacts, "draw/p1", scores[0])
    picture(artifacts, "draw/p2", scores[1])
    picture(artifacts, "compare/c", *scores)
    picture(artifacts, "legend/l", shared)
    row = board_row("draw/p1", "draw/p2", "compare/c", "legend/l")
    first, second = row_runs(tracked(), row, Lineages(artifacts))
    assert (first.kind, first.identity) == ("stageflow.row", f"s/{row.key}/1")
    assert (first.name, second.name) == ("ReCAM (product) seed 1", "ReCAM (product) seed 2")
    assert values(first, "miou") == [(0, 0.1)]
    assert second.tags["stageflow.seed"] == "2"
    assert second.params["oracle"] == "True"
    assert second.params["reference"] == "IRN"
    assert (first.started, first.finished) == (900_000, 1010_000)
    assert [given.name for given in first.data] == ["voc"]
    own = [
        [(file.path, file.sha256) for file in run.files if not file.path.startswith("images/")]
        for run in (first, second)
    ]
    both = [("compare.a.png", "compare/c"), ("legend.a.png", "legend/l")]
    assert own[0] == [("draw.a.png", "draw/p1"), *both]
    assert own[1] == [("draw.a.png", "draw/p2"), *both]


def test_pictures_of_one_stage_do_not_overwrite_each_other(artifacts: Artifacts) -> None:
    for key in ("p1", "p2"):
        picture(artifacts, f"draw/{key}")
    run, _ = row_runs(tracked(), board_row("draw/p1", "draw/p2"), Lineages(artifacts))
    mark = "a+step+0+timestamp+1010000+draw~p"
    assert [file.path.replace("draw/p", "draw~p") for file in run.files] == [
        "draw.a.png",
        f"images/draw~{mark}1.png",
        f"images/draw~{mark}1+compressed.webp",
        "draw-2.a.png",
        f"images/draw-2~{mark}2.png",
        f"images/draw-2~{mark}2+compressed.webp",
    ]
    assert run.tags["mlflow.loggedImages"] == "True"


def test_a_row_whose_artifacts_were_forgotten(artifacts: Artifacts) -> None:
    run, _ = row_runs(tracked(), board_row("draw/gone"), Lineages(artifacts))
    assert values(run, "miou") == [(0, 0.5)]
    assert not run.files


def test_published_rows_have_no_run(artifacts: Artifacts) -> None:
    row = Row(task="t", split="s", method="m", values=(48.0,), published=True)
    assert not [*row_runs(tracked(), row, Lineages(artifacts))]


def test_the_digest_tells_everything_apart(artifacts: Artifacts) -> None:
    given = [trial(), trial(params={"w": 0.6}), trial(value=0.6), trial(finished=1061.0)]
    runs = [shown(artifacts, one) for one in given]
    digests = {run.digest for run in (*runs, runs[0].under("p"))}
    assert len(digests) == 5
    assert shown(artifacts).digest == runs[0].digest
    pages = [parent(artifacts, trial(), files={"page": page}).digest for page in "ab"]
    assert pages[0] != pages[1]
