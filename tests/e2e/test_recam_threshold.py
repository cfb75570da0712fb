"""The main job as a user runs it: on the built-in scenes, with few steps."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SWEEP = ROOT / "sweeps" / "recam_threshold.py"
SMALL = (
    "--data=scenes:images=48",
    "--trials=3",
    "--seeds=2",
    "--cam-steps=6",
    "--recam-steps=4",
    "--probe=4",
)


def run(*arguments: str, status: int = 0) -> str:
    """Run the sweep in a process of its own; its output."""
    done = subprocess.run(
        [sys.executable, str(SWEEP), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def executed(output: str) -> int:
    return len(re.findall(r"^ +\d+:\d\d  finished", output, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["ray", "local"])
def test_the_same_command_again_executes_nothing(executor: str, private_home: Path) -> None:
    first = run(*SMALL, f"--executor={executor}")
    assert executed(first) > 10
    assert re.search(r"ReCAM \(", first)
    assert "CAM (best threshold)" in first
    assert "mlflow ui" in first
    again = run(*SMALL, f"--executor={executor}")
    assert executed(again) == 0
    board = re.compile(r"^ (?:Re)?CAM .*± .*$", re.MULTILINE)
    assert board.findall(again) == board.findall(first) != []


@pytest.mark.slow
def test_thresholds_share_one_training(private_home: Path) -> None:
    run(*SMALL, "--executor=local", "--tracking=none")
    store = private_home / ".stageflow" / "store"
    trained = [json.loads(p.read_text()) for p in store.glob("train_recam/*/manifest.json")]
    assert len({(m["config"]["loss_weight"], m["config"]["seed"]) for m in trained}) == len(trained)
    assert len(list(store.glob("train_cam/*/manifest.json"))) == 2  # one for each seed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data=voc2012:/nowhere"], ["/nowhere"]),
        (["--data=voc2007:/x"], ["voc2007"]),
        (["--classes=background,caat"], ["caat", "cat"]),
        (["--seeds=0"], ["--seeds"]),
        (["--store=ftp://x"], ["ftp"]),
        (["--trials=-1"], ["--trials"]),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: list[str], private_home: Path) -> None:
    output = run(*SMALL, "--executor=local", "--tracking=none", *arguments, status=2)
    [line] = output.strip().splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words)
    assert not (private_home / ".stageflow" / "store").exists()


def test_an_unknown_field_of_a_config_file_is_named(tmp_path: Path) -> None:
    config = tmp_path / "sweep.toml"
    config.write_text("sedes = 3\n")
    output = run("--config", str(config), status=2)
    assert output == (
        f"error: {config}: sedes: Options has no field 'sedes'; did you mean seeds?\n"
    )
