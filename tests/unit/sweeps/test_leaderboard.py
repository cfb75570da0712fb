"""What the leaderboards declare, and the section that they write."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from stageflow.board import Row, rank
from sweeps import leaderboard_coco, leaderboard_voc
from sweeps.leaderboard import PUBLISHED_ROWS, entries, products, seen, summary
from wsss.config import MULTI_SCALE, Segmentation
from wsss.published import CAM_SEED, PSEUDO_LABEL, SEGMENTATION
from wsss.whole_pipeline import Options

DRAWN = Options(data="scenes:images=48")


def test_every_method_has_rows_of_every_task() -> None:
    found = entries(None, DRAWN)
    for method in DRAWN.methods:
        tasks = [entry.task for entry in found if entry.method == method]
        assert tasks == [CAM_SEED] * 3 + [PSEUDO_LABEL] * 2 + [SEGMENTATION] * 3
    said = [(entry.task, entry.method, entry.variant) for entry in found]
    assert len(set(said)) == len(said)


def test_views_and_crf_are_rows_of_their_own() -> None:
    rows = [e for e in entries(None, DRAWN) if (e.task, e.method) == (SEGMENTATION, "ReCAM")]
    assert [(row.variant, row.crf) for row in rows] == [
        ("one view", False),
        ("3 scales, mirrored", False),
        ("one view, CRF", True),
    ]
    assert {row.oracle for row in rows} == {False}
    assert seen(MULTI_SCALE) == "6 scales, mirrored"
    assert seen(Segmentation()) == "one view, CRF"


def test_what_masks_chose_marks_all_that_follows() -> None:
    plain = [entry.oracle for entry in entries(None, DRAWN)]
    for given in ({"cut": "best"}, {"shift": 0.1}):
        rows = entries(None, replace(DRAWN, **given))
        assert {e.oracle for e in rows if e.task == SEGMENTATION} == {True}
    assert True in plain
    assert False in plain


def test_each_of_ours_is_held_against_its_paper() -> None:
    against = {entry.method: entry.reference for entry in entries(None, DRAWN)}
    assert against == {"CAM": "IRN", "ReCAM": "", "SFC": "", "CAM + response": "InferCam"}


def test_few_images_and_small_networks_are_not_comparable(voc_mini: Path) -> None:
    options = leaderboard_voc.VOCOptions(data=f"voc2012:{voc_mini}")
    rows = {entry.task: entry.comparable for entry in entries(None, options)}
    for words in rows.values():
        assert "other images" in words
        assert "other training images" in words
        assert "another backbone" in words
    assert "another segmentation network" in rows[SEGMENTATION]
    assert "segmentation" not in rows[CAM_SEED]


def test_the_rows_are_compared_where_nothing_differs() -> None:
    ours = Row(
        task=SEGMENTATION,
        split="voc2012 val (1449)",
        method="CAM + response",
        reference="InferCam",
        values=(70.0, 71.0, 72.0),
        oracle=False,
        crf=True,
        keys=("a", "b", "c"),
    )
    [line] = [line for group in rank([ours, *PUBLISHED_ROWS]) for line in group.lines if
              line.row is ours]  # fmt: skip
    assert line.difference == pytest.approx(71.0 - 70.8)


def test_saliency_is_told_with_what_could_not_be_verified(tmp_path: Path) -> None:
    for entry in entries(None, DRAWN):
        assert not entry.note
    from wsss.data import open_samples

    for name in open_samples(DRAWN.data, "train").ids:
        Image.new("L", (64, 64)).save(tmp_path / f"{name}.png")
    options = replace(DRAWN, saliency=str(tmp_path), aamr=0.2)
    rows = [entry for entry in entries(None, options) if entry.task == SEGMENTATION]
    assert {row.note.partition(";")[0] for row in rows} == {
        "mask refinement loss by our own proposal"
    }
    assert rows[0].variant == "aamr 0.2, one view"


def own_images(root: Path, *, masks: bool) -> Options:
    """Twelve images of two classes."""
    for name in ("images", "masks")[: 1 + masks]:
        (root / name).mkdir(parents=True)
    for i in range(12):
        Image.new("RGB", (40, 32), (i, 0, 0)).save(root / f"images/{i}.png")
        if masks:
            Image.new("L", (40, 32), i % 2 + 1).save(root / f"masks/{i}.png")
    table = "".join(f"{i} {'oak' if i % 2 else 'ash'}\n" for i in range(12))
    (root / "image_labels.txt").write_text(table)
    return Options(data=f"images:{root}")


def test_own_images_without_masks_have_no_rows_but_files_to_take_away(tmp_path: Path) -> None:
    options = own_images(tmp_path, masks=False)
    assert entries(None, options) == []
    assert [product.name for product in products(None, options)][:2] == [
        "CAM: pseudo labels of all",
        "CAM: segmentations of all",
    ]


def test_own_images_with_masks_are_scored(tmp_path: Path) -> None:
    rows = entries(None, own_images(tmp_path, masks=True))
    assert {row.task for row in rows} == {CAM_SEED, PSEUDO_LABEL, SEGMENTATION}
    assert {row.comparable for row in rows} == {"other data"}


def test_test_images_are_packed_on_demand(voc_mini: Path, tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for name in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "image_labels.txt"):
        (root / name).symlink_to(voc_mini / name)
    for split in ("train", "train_aug", "val"):
        text = (voc_mini / f"ImageSets/Segmentation/{split}.txt").read_text()
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(text)
    (root / "ImageSets/Segmentation/test.txt").write_text(text.splitlines()[0] + "\n")
    options = leaderboard_voc.VOCOptions(data=f"voc2012:{root}", methods=("CAM",), test=True)
    made = products(None, options)
    assert [product.node.name for product in made] == [
        *("pseudo_labels", "segment", "voc_submission"),
    ]


def test_the_section_has_the_published_rows_of_its_data() -> None:
    row = Row(
        task=SEGMENTATION,
        split="voc2012 val (1449)",
        method="ReCAM",
        values=(60.0, 61.0),
        oracle=False,
        crf=True,
        commits=("abc",),
    )
    text = summary([row], DRAWN)
    assert text.startswith("## Leaderboard of scenes, tiny, small budget")
    assert "| ReCAM | 68.5 |" in text
    assert "coco2014" not in text


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (leaderboard_voc.VOCOptions, "give voc2012:PATH, or use leaderboard.py"),
        (leaderboard_coco.COCOOptions, "give coco2014:PATH, or use leaderboard.py"),
    ],
)
def test_a_leaderboard_of_other_data_is_refused(kind: type[Options], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kind(data="scenes")


def test_declaring_a_leaderboard_imports_no_torch() -> None:
    code = "import sys, json; from sweeps import leaderboard as l; from wsss.whole_pipeline import "
    code += "Options; found = l.entries(None, Options()); l.products(None, Options()); "
    code += "print(json.dumps([len(found), 'torch' in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [32, False]
