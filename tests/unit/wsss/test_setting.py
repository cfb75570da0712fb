"""What a setting says of data, network and weights, and why rows cannot be compared."""

from dataclasses import replace
from pathlib import Path

import pytest

from wsss.pipelines import cam
from wsss.setting import (
    Setting,
    chosen,
    differences,
    initial_weights,
    probed,
    shortened,
    split_name,
)

SCENES = Setting(data="scenes:images=12")


def photographs(root: Path, **given: object) -> Setting:
    return replace(Setting(data=f"voc2012:{root}", backbone="efficientnet_lite0"), **given)


def test_weights_that_the_user_wants(voc_mini: Path, tmp_path: Path) -> None:
    found = chosen(photographs(voc_mini, weights="random"))
    assert {found.cam.weights, found.sfc.weights, found.irn.weights} == {"random"}
    assert found.cam.weights_file == ""
    file = tmp_path / "mine.pth"
    file.write_bytes(b"weights")
    setting = photographs(voc_mini, weights=str(file))
    named = chosen(setting).cam.weights
    assert named.startswith("sha256:")
    assert initial_weights(setting) == f"efficientnet_lite0, mine.pth@{named[7:15]}"
    copy = tmp_path / "elsewhere.pth"
    copy.write_bytes(b"weights")
    settings = (setting, photographs(voc_mini, weights=str(copy)))
    same, other = (cam(given, chosen(given), 0).quality.key for given in settings)
    assert same == other
    with pytest.raises(ValueError, match=r"nowhere\.pth cannot be read"):
        chosen(photographs(voc_mini, weights=str(tmp_path / "nowhere.pth")))


def test_why_rows_cannot_be_compared(voc_mini: Path) -> None:
    assert "other data" in differences(SCENES, "train")
    found = differences(photographs(voc_mini, weights="random"), "train")
    assert {
        *("other images", "other training images", "another backbone"),
        *("other initial weights", "another schedule", "settings tuned with the training masks"),
    } == set(found)
    setting = Setting(data=f"voc2012:{voc_mini}")
    assert "another schedule" not in differences(setting, "train")
    usual = chosen(setting)
    shorter = replace(usual, recam=replace(usual.recam, steps=5))
    assert "another schedule" in differences(setting, "train", shorter)


def test_splits(voc_mini: Path) -> None:
    assert SCENES.train_split == "train"
    assert photographs(voc_mini).train_split == "train_aug"
    assert photographs(voc_mini, train="val").train_split == "val"
    assert split_name(photographs(voc_mini), "train[::4]") == "voc2012 train[::4] (55)"


def test_a_setting_needs_a_seed() -> None:
    with pytest.raises(ValueError, match=r"^seeds is 0: give 1 or more"):
        replace(SCENES, seeds=0)


def test_without_masks_nothing_is_scored_on_the_way(voc_mini: Path, tmp_path: Path) -> None:
    """The usual layout has a train_aug list, and masks for train only."""
    for name in ("JPEGImages", "ImageSets", "SegmentationClass", "image_labels.txt"):
        (tmp_path / name).symlink_to(voc_mini / name)
    assert probed(photographs(voc_mini), 24) == 24
    assert probed(photographs(tmp_path), 24) == 0


def test_the_precision_is_that_of_every_backbone(voc_mini: Path) -> None:
    assert {t.precision for t in chosen(photographs(voc_mini)).trainings} == {"float32"}
    fast = chosen(photographs(voc_mini, precision="bfloat16"))
    assert {*(t.precision for t in fast.trainings), fast.maps.precision} == {"bfloat16"}


def test_a_shorter_training_has_no_more_epochs_than_steps() -> None:
    found = chosen(SCENES)
    for training in (*found.trainings, found.segmentation):
        short = shortened(training, 2)
        assert (short.steps, short.epochs) == (2, 2)
        assert shortened(training, 0) == training
