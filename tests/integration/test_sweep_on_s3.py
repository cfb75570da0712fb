"""The main job with its artifacts and leaderboard in a real S3 server, run by Ray."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stageflow import board
from stageflow.artifact import Artifacts
from stageflow.store import open_store

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    *("--data=scenes:images=32", "--trials=2", "--seeds=1", "--probe=0"),
    *("--cam-steps=4", "--recam-steps=4", "--tracking=none"),
)


def run(store: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "sweeps" / "recam_threshold.py"), *SMALL, f"--store={store}"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_artifacts_and_rows_live_in_the_bucket(bucket: str, tmp_path: Path) -> None:
    store = f"s3://{bucket}/wsss"
    run(store)
    again = run(store)
    assert not re.search(r"^ +\d+:\d\d  finished", again, re.MULTILINE)
    there = open_store(store)
    made = Artifacts(there, tmp_path / "cache")
    assert {manifest.stage for manifest in made.all()} == {
        *("train_cam", "train_recam", "cam_maps", "recam_maps"),
        *("seed_quality", "seed_score", "seed_pictures"),
    }
    assert {row.method for row in board.load(there) if not row.published} == {"CAM", "ReCAM"}
    leftovers = [
        name for name in there.list("") if re.search("/checkpoints/|/shards/|drivers/", name)
    ]
    assert leftovers == []
