"""Leaderboards as users run them: a killed driver, and data of one's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from stageflow.cli import main as stageflow
from wsss.data import open_samples
from wsss.data.label_maps import Labels, palette_png

ROOT = Path(__file__).resolve().parents[2]
FINISHED = re.compile(r"^ +\d+:\d\d  finished +(\w+)", re.MULTILINE)
SHORT = ("--steps=1", "--tracking=none")

pytestmark = pytest.mark.slow


def command(*arguments: str, sweep: str = "leaderboard.py") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "sweeps" / sweep), *SHORT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
    )


def output(process: subprocess.Popen[str]) -> str:
    told, _ = process.communicate(timeout=400)
    assert process.returncode == 0, told
    return told


def manifests(home: Path) -> dict[str, str]:
    """When each artifact was made, by its folder."""
    found = (home / ".stageflow" / "store").glob("*/*/manifest.json")
    return {str(path.parent): json.loads(path.read_text())["started"] for path in found}


def test_a_killed_driver_goes_on_to_the_board(voc_mini: Path, private_home: Path) -> None:
    """`kill -9` between training and scores; the same command repeats nothing that was done."""
    arguments = (
        *(f"--data=voc2012:{voc_mini}", "--backbone=efficientnet_lite0", "--images=8"),
        *("--val=val[::120]", "--methods=ReCAM"),
    )
    process = command(*arguments, sweep="leaderboard_voc.py")
    trained = private_home / ".stageflow" / "store" / "train_segmenter"
    until = time.monotonic() + 400
    while not list(trained.glob("*/manifest.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "no segmentation network was trained"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    told, _ = process.communicate()
    assert "segmentation ·" not in told
    before = manifests(private_home)
    assert len(before) > 8

    again = output(command(*arguments, sweep="leaderboard_voc.py"))
    after = manifests(private_home)
    assert {folder: after[folder] for folder in before} == before
    assert len(FINISHED.findall(again)) == len(after) - len(before)
    for task in ("CAM seed · voc2012 train", "pseudo label · voc2012 train"):
        assert task in again
    board = " ".join(again.split())
    assert re.search(r"ReCAM \(one view, CRF\) \S+ 1 only \[::120\] 2", board)
    assert "ReCAM 68.5 1449" in board  # the published one, beside it
    assert "other training images" in board
    done = command(*arguments, "--executor=local", sweep="leaderboard_voc.py")
    assert FINISHED.findall(output(done)) == []


def test_photographs_come_to_the_board_of_coco(coco_mini: Path) -> None:
    told = output(
        command(
            *(f"--data=coco2014:{coco_mini}", "--backbone=efficientnet_lite0", "--images=8"),
            *("--val=val[::50]", "--methods=SFC", "--executor=local"),
            sweep="leaderboard_coco.py",
        )
    )
    board = " ".join(told.split())
    assert re.search(r"SFC \(labels of the CRF, one view, CRF\) \S+ 1 only \[::50\] 1", board)
    assert "SFC 46.8" in board
    assert "walked_maps" not in FINISHED.findall(told)


def own_images(root: Path) -> str:
    """Drawn scenes as somebody's own folder of images."""
    samples = open_samples("scenes:images=16", "train")
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    lines = []
    for i, name in enumerate(samples.ids):
        Image.fromarray(samples.image(i)).save(root / "images" / f"{name}.png")
        (root / "masks" / f"{name}.png").write_bytes(palette_png(samples.mask(i)))
        shown = [c for c, there in zip(samples.classes, samples.labels[i], strict=True) if there]
        lines.append(" ".join([name, *shown]))
    (root / "image_labels.txt").write_text("\n".join(lines))
    (root / "classes.txt").write_text("\n".join(samples.classes))
    return f"images:{root}"


def test_own_images_with_masks_and_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Masks end in a board; without them, the same networks end in files to take away."""
    data = own_images(tmp_path / "own")
    arguments = (f"--data={data}", "--methods=CAM", "--executor=local")
    told = output(command(*arguments))
    assert {"train_cam", "walked_maps", "train_segmenter", "segment"} <= {*FINISHED.findall(told)}
    assert "segmentation · images all" in told
    assert "not comparable to IRN: other data" in " ".join(told.split())

    shutil.rmtree(tmp_path / "own" / "masks")
    told = output(command(*arguments))
    assert "CAM seed" not in told
    assert FINISHED.findall(told) == []  # masks taught nothing
    fetched = re.findall(r"stageflow fetch (\S+) FOLDER", told)
    assert len(fetched) == 2
    samples = open_samples(data, "all")
    for number, key in enumerate(fetched):
        folder = tmp_path / f"taken-{number}"
        assert stageflow(["fetch", key, str(folder)]) == 0, capsys.readouterr().err
        labels = Labels(folder)
        labels.check(samples.ids)
        assert labels[samples.ids[0]].shape == samples.image(0).shape[:2]
