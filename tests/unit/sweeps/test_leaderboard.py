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
from wsss.setting import CAFFE_IMAGENET
from wsss.whole_pipeline import Options

DRAWN = Options(data="scenes:images=48")


def test_every_method_has_rows_of_every_task() -> None:
    found = entries(None, DRAWN)
    for method in DRAWN.methods:
        tasks = [entry.task for entry in found if entry.method == method]
        assert tasks == [CAM_SEED] * 3 + [PSEUDO_LABEL] * 2 + [SEGMENTATION] * 4
    said = [(entry.task, entry.method, entry.variant) for entry in found]
    assert len(set(said)) == len(said)


def test_views_and_crf_are_rows_of_their_own() -> None:
    rows = [e for e in entries(None, DRAWN) if (e.task, e.method) == (SEGMENTATION, "ReCAM")]
    assert [(row.variant, row.crf) for row in rows] == [
        ("one view", False),
        ("1 scale, mirrored", False),
        ("3 scales, mirrored", False),
        ("one view, CRF", True),
    ]
    assert seen(MULTI_SCALE) == "6 scales, mirrored"
    assert seen(Segmentation()) == "one view, CRF"


def test_settings_tuned_with_the_same_masks_make_oracles_of_all() -> None:
    rows = entries(None, DRAWN)
    assert {row.oracle for row in rows} == {True}
    assert {row.comparable.partition(", ")[2] for row in rows if row.task == CAM_SEED} == {
        "settings tuned with the training masks"
    }


def test_each_of_ours_is_held_against_its_paper() -> None:
    papers = {entry.method: entry.reference for entry in entries(None, DRAWN)}
    assert papers == {"CAM": "IRN", "ReCAM": "", "SFC": "", "CAM + response": "InferCam"}


def test_few_images_and_small_networks_are_not_comparable(voc_mini: Path) -> None:
    options = leaderboard_voc.VOCOptions(data=f"voc2012:{voc_mini}")
    rows = {entry.task: entry.comparable for entry in entries(None, options)}
    for words in rows.values():
        assert "other images" in words
        assert "other training images" in words
        assert "another backbone" in words
    assert "another segmentation network" in rows[SEGMENTATION]
    assert "segmentation" not in rows[CAM_SEED]


@pytest.fixture(scope="module")
def official(voc_lists: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC 2012 in full, but for what is in its files; masks of train and val, as it comes."""
    root = tmp_path_factory.mktemp("official") / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split in ("train", "train_aug", "val"):
        ids = (voc_lists / f"{split}.txt").read_text().split()
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids))
        for name in ids:
            (root / f"JPEGImages/{name}.jpg").touch()
            if split != "train_aug":
                (root / f"SegmentationClass/{name}.png").touch()
    (root / "image_labels.txt").symlink_to(voc_lists / "voc_image_labels.txt")
    (root.parent / CAFFE_IMAGENET).touch()
    return root


def against(root: Path, **given: object) -> dict[tuple[str, str, bool], str]:
    """How each row would stand to the published ones, by method, variant and CRF."""
    weights = str(root.parent / CAFFE_IMAGENET)
    usual = {"network_weights": weights, "seeds": 1} | given
    options = leaderboard_voc.VOCOptions(data=f"voc2012:{root}", **usual)
    ours = [
        Row(
            task=entry.task,
            split=entry.split,
            method=entry.method,
            variant=entry.variant,
            values=(50.0,),
            oracle=entry.oracle,
            crf=entry.crf,
            comparable=entry.comparable,
            reference=entry.reference,
            keys=tuple(node.key for node in entry.targets),
        )
        for entry in entries(None, options)
    ]
    lines = [line for group in rank([*ours, *PUBLISHED_ROWS]) for line in group.lines]
    return {
        (line.row.method, line.row.variant, line.row.crf): line.against
        for line in lines
        if line.row in ours
    }


def test_published_conditions_are_compared(official: Path) -> None:
    found = against(official)
    assert found["ReCAM", "best threshold", False] == "-4.8"
    assert found["ReCAM", "one view, CRF", True] == "-18.5"
    assert found["SFC", "one view, CRF", True] == "-21.2"
    assert "other views at test" in found["SFC", "6 scales, mirrored", False]
    assert "published is oracle" in found["ReCAM", "threshold 0.21", False]
    response = found["CAM + response", "one view, CRF", True]
    assert response == (
        "not comparable to InferCam: published with WideResNet-38, AffinityNet and saliency"
    )


@pytest.mark.parametrize(
    ("given", "row", "reason"),
    [
        ({"labelled": "train"}, "labels of train, one view, CRF", "labels of other images"),
        ({"labelled": "train"}, "walk, threshold 0.28", "affinities of other images"),
        ({"pseudo": "crf"}, "labels of the CRF, one view, CRF", "labels of the CRF alone"),
        ({"pseudo": "crf"}, "labels for IRN", "labels of the CRF alone"),
        ({"shift": 0.1}, "labels moved by 0.1, one view, CRF", "a threshold of ours"),
        ({"loss": "balanced"}, "balanced loss, one view, CRF", "segmentation schedule"),
        ({"images": 1460}, "one view, CRF", "labels of other images"),
        ({"network": "deeplabv3plus"}, "one view, CRF", "another segmentation network"),
        ({"network_weights": "imagenet"}, "one view, CRF", "from other initial weights"),
        ({"backbone": "resnet101"}, "one view, CRF", "another backbone"),
    ],
)
def test_whatever_differs_is_told(
    official: Path, given: dict[str, object], row: str, reason: str
) -> None:
    found = against(official, **given)
    told = [why for name, why in found.items() if name[:2] == ("ReCAM", row)]
    assert told
    assert all(why.startswith("not comparable") and reason in why for why in told), told


def test_recam_is_cut_lower_on_coco(coco_mini: Path) -> None:
    options = leaderboard_coco.COCOOptions(data=f"coco2014:{coco_mini}", methods=("ReCAM",))
    rows = entries(None, options)
    assert {"threshold 0.15", "walk, threshold 0.25"} < {row.variant for row in rows}
    [first, *_] = products(None, options)
    assert first.node.config.threshold == 0.25


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
    assert rows[0].variant == "aamr_proposed 0.2, one view"
    assert "our own mask refinement loss" in rows[0].comparable


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
    assert {row.comparable for row in rows} == {
        "other data, settings tuned on voc2012",
        "other data, settings tuned on voc2012, scored on images that it learned from",
        "other data, settings tuned on voc2012, other views at test, scored on images that it "
        "learned from",
        "other data, settings tuned on voc2012, published with WideResNet-38, AffinityNet and "
        "saliency, scored on images that it learned from",
        "other data, settings tuned on voc2012, published with WideResNet-38, AffinityNet and "
        "saliency, other views at test, scored on images that it learned from",
    }
    assert False in {row.oracle for row in rows}  # the masks that tuned them are others


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
    assert "| ReCAM (best variant) |" not in text
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
    assert json.loads(done.stdout) == [36, False]
