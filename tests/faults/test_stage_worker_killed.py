"""A stage worker is killed in the middle of a training: the sweep ends with the same answer."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (
    *(sys.executable, str(ROOT / "sweeps" / "recam_threshold.py"), "--tracking=none"),
    *("--data=scenes:images=32", "--trials=1", "--seeds=1", "--probe=0"),
    *("--cam-steps=4", "--recam-steps=80"),
)
BOARD = re.compile(r"^ (?:Re)?CAM .*$", re.MULTILINE)


def started(home: Path, executor: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"STAGEFLOW_HOME": str(home), "COLUMNS": "200"}
    return subprocess.Popen(
        [*COMMAND, f"--executor={executor}"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def board(process: "subprocess.Popen[str]") -> list[list[str]]:
    """Rows, word by word: how wide their columns are is no result."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return [line.split() for line in BOARD.findall(output)]


def worker_with_torch(driver: int) -> psutil.Process:
    """The worker of this driver that trains: only such processes have loaded torch."""
    for process in psutil.Process(driver).children(recursive=True):
        if "Worker" in process.name() or "ray::Worker" in " ".join(process.cmdline()):
            if any("libtorch" in mapped.path for mapped in process.memory_maps()):
                return process
    raise AssertionError("no training worker found")


@pytest.mark.slow
def test_killed_in_mid_training(tmp_path: Path) -> None:
    undisturbed = board(started(tmp_path / "a", "local"))
    process = started(tmp_path / "b", "ray")
    training = tmp_path / "b" / "store" / "train_recam"
    until = time.monotonic() + 200
    while not list(training.glob("*/checkpoints/*.json")):  # the first epoch is behind it
        assert process.poll() is None, "the sweep ended before a checkpoint was written"
        assert time.monotonic() < until, "no checkpoint was written"
        time.sleep(0.02)
    worker_with_torch(process.pid).kill()
    assert board(process) == undisturbed
    trained = [json.loads(path.read_text()) for path in training.glob("*/manifest.json")]
    killed = [manifest for manifest in trained if manifest["resumed_from"]]
    assert killed, "the training was over before the worker was killed"
    [manifest] = killed
    steps = [report["step"] for report in manifest["reports"]]
    assert steps == [20, 40, 60, 80]
    assert manifest["resumed_from"][0] in steps[:3]
