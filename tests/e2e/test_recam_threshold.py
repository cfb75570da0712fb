"""The main job as a user runs it: on the built-in scenes, with few steps."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from stageflow.artifact import Artifacts
from stageflow.executor import Event, Kind, LocalExecutor
from stageflow.executor import run as execute
from stageflow.store import FolderStore
from stageflow.sweep import main
from sweeps import recam_threshold as SWEEP_FILE

ROOT = Path(__file__).resolve().parents[2]
SWEEP = ROOT / "sweeps" / "recam_threshold.py"
SMALL = (
    "--data=scenes:images=32",
    "--trials=3",
    "--seeds=2",
    "--cam-steps=2",
    "--recam-steps=2",
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
    thresholds_shared_one_training(private_home / ".stageflow" / "store")


def thresholds_shared_one_training(store: Path) -> None:
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
        (["--cam-threshold=1.5"], ["--cam-threshold", "[0, 1]"]),
        (["--cam-steps=many"], ["--cam-steps", "INTEGER"]),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: list[str],
    private_home: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What its process prints is checked with an unreachable store, below."""
    command = (*SMALL, "--executor=local", "--tracking=none", *arguments)
    assert main(SWEEP_FILE.SWEEP, command) == 2
    [line] = "".join(capfd.readouterr()).strip().splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words)
    assert not (private_home / ".stageflow" / "store").exists()


def test_an_unreachable_store_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    output = run(*SMALL, "--executor=local", "--store=s3://bucket/prefix", status=2)
    [line] = output.strip().splitlines()
    assert line.startswith("error: ")
    assert "127.0.0.1:9" in line


def test_a_truncated_photograph_ends_the_sweep_by_name(
    voc_mini: Path, tmp_path: Path, private_home: Path
) -> None:
    """A stage fails, nothing is half-written, and the last line says which file to mend."""
    root, split = tmp_path / "voc", "ImageSets/Segmentation/train.txt"
    (root / split).parent.mkdir(parents=True)
    ids = (voc_mini / split).read_text().split()[:16]
    (root / split).write_text("\n".join(ids))
    for folder in ("JPEGImages", "SegmentationClass"):
        (root / folder).mkdir()
        for path in (voc_mini / folder).iterdir():
            if path.stem in ids:
                (root / folder / path.name).symlink_to(path)
    (root / "image_labels.txt").symlink_to(voc_mini / "image_labels.txt")
    broken = root / "JPEGImages" / f"{ids[3]}.jpg"
    content = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(content[: len(content) // 2])
    output = run(
        *(f"--data=voc2012:{root}", "--train=train", "--backbone=tiny", "--trials=1", "--probe=0"),
        *("--cam-steps=2", "--recam-steps=1", "--executor=local", "--tracking=none"),
        status=1,
    )
    assert str(broken) in output.strip().splitlines()[-1]
    assert not list((private_home / ".stageflow" / "store").rglob("manifest.json"))


def test_twelve_thresholds_train_once(tmp_path: Path) -> None:
    options = replace(
        SWEEP_FILE.Options(), data="scenes:images=32", cam_steps=2, recam_steps=2, probe=0
    )
    trials = [SWEEP_FILE.Params(threshold=0.05 * k) for k in range(1, 13)]
    nodes = [SWEEP_FILE.pipeline(params, options) for params in trials]
    artifacts = Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache")
    made: Counter[str] = Counter()

    def count(event: Event) -> None:
        made[event.stage] += event.kind is Kind.FINISHED

    found = execute(*nodes, executor=LocalExecutor(artifacts, device="cpu"), observe=count)
    assert made == {
        **{stage: 1 for stage in ("train_cam", "train_recam", "recam_maps", "seed_quality")},
        "seed_score": 12,
    }
    assert [m.metrics["threshold"] for m in found] == pytest.approx([p.threshold for p in trials])
    assert len({manifest.metrics["miou"] for manifest in found}) > 6


def test_an_unknown_field_of_a_config_file_is_named(tmp_path: Path) -> None:
    config = tmp_path / "sweep.toml"
    config.write_text("sedes = 3\n")
    output = run("--config", str(config), status=2)
    assert output == (
        f"error: {config}: sedes: Options has no field 'sedes'; did you mean seeds?\n"
    )
