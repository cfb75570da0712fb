"""What the options of a whole pipeline come to: recipe, splits, and chains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stageflow.stage import ancestry
from wsss.config import DEEPLABV2_COCO, DEEPLABV3PLUS, Segmentation, SegmentationTraining
from wsss.methods import CAM, RECAM, SFC
from wsss.recipes import LITE0, SCENES
from wsss.whole_pipeline import FEW, Options, WholePipeline

DRAWN = Options(data="scenes:images=96")


def whole(**given: object) -> WholePipeline:
    return WholePipeline(options=replace(DRAWN, **given))


def photographs(root: Path, **given: object) -> WholePipeline:
    return WholePipeline(options=Options(data=f"voc2012:{root}", **given))


def test_a_small_budget_takes_some_images_of_each_split_and_half_of_the_steps() -> None:
    found = whole()
    assert found.options.small
    assert (found.scored, found.labelled, found.val) == ("train[::3]", "train[::3]", "val[::3]")
    assert found.randoms == range(1)
    assert found.recipe.cam.steps == SCENES.cam.steps // 2
    assert found.recipe.segmentation.steps == SCENES.segmentation.steps // 2


def test_without_a_small_budget_all_that_is_learned_gets_labels(voc_mini: Path) -> None:
    found = photographs(voc_mini, budget="published")
    assert (found.scored, found.labelled, found.val) == ("train", "train_aug", "val")
    assert found.mapped == "train_aug"  # which holds train
    assert found.randoms == range(3)
    assert found.recipe.cam.backbone == "resnet50"
    assert found.recipe.segmentation == SegmentationTraining()


def test_small_networks_only_where_none_is_named(voc_mini: Path) -> None:
    assert photographs(voc_mini).recipe.cam.backbone == LITE0.cam.backbone
    named = photographs(voc_mini, backbone="resnet50").recipe
    assert named.cam.backbone == "resnet50"
    assert named.segmentation.backbone == LITE0.segmentation.backbone
    assert named.segmentation.steps == LITE0.segmentation.steps // 2
    other = whole(backbone="efficientnet_lite0").recipe
    assert other.segmentation.backbone == "tiny"


def test_coco_has_its_own_schedules_and_sfc_its_own_labels(coco_mini: Path) -> None:
    found = WholePipeline(options=Options(data=f"coco2014:{coco_mini}", budget="published"))
    assert found.recipe.segmentation == DEEPLABV2_COCO
    assert found.recipe.recam.loss_weight == 0.1
    assert found.of_crf(SFC)
    assert not found.of_crf(CAM)
    assert found.pseudo_labels(SFC, 0).name == "sfc_ir_labels"
    walked = WholePipeline(options=replace(found.options, pseudo="walk"))
    assert walked.pseudo_labels(SFC, 0).name == "pseudo_labels"


def test_a_part_that_is_named_is_left_as_it_is() -> None:
    found = whole(score="train[:50]", val="val[:7]", labelled="train[:60]")
    assert (found.scored, found.val, found.labelled) == ("train[:50]", "val[:7]", "train[:60]")
    assert found.mapped == "train[:60]"
    assert replace(DRAWN, images=0).small
    assert whole(images=0).scored == "train"
    assert whole(images=10).scored == "train[::10]"


def test_maps_of_what_is_scored_are_made_apart_where_the_labelled_lack_them() -> None:
    assert whole(score="train[:50]", labelled="train[40:]").mapped == "train[:50]"


def test_what_is_learned_follows_the_options() -> None:
    fixed = whole().pseudo_labels(RECAM, 0)
    assert (fixed.name, fixed.config.threshold) == ("pseudo_labels", RECAM.walk_threshold)
    best = whole(cut="best").pseudo_labels(RECAM, 0)
    assert best.name == "best_pseudo_labels"
    assert "masks" in {given.name for given in best.parents[1].inputs}
    assert whole(pseudo="crf").pseudo_labels(RECAM, 0).name == "ir_labels"


def test_the_segmentation_network_follows_the_options(tmp_path: Path) -> None:
    given = whole(network="deeplabv3plus", loss="balanced").recipe.segmentation
    assert (given.architecture, given.loss, given.lr) == (
        *("deeplabv3plus", "balanced"),
        DEEPLABV3PLUS.lr,
    )
    assert given.steps == SCENES.segmentation.steps // 2
    file = tmp_path / "net.pth"
    file.write_bytes(b"weights")
    named = whole(network_backbone="resnet50", network_weights=str(file)).recipe.segmentation
    assert named.backbone == "resnet50"
    assert named.weights.startswith("sha256:")
    assert named.weights_file == str(file)


def test_steps_are_those_of_every_training() -> None:
    found = whole(steps=5).recipe
    assert {t.steps for t in (*found.trainings, found.segmentation)} == {5}


def test_the_chain_of_a_segmentation_has_every_stage() -> None:
    made = whole().segmentation(RECAM, 0, "val", Segmentation(crf=None))
    assert [node.name for node in ancestry(made)] == [
        *("train_cam", "train_recam", "recam_maps", "ir_labels", "train_irnet"),
        *("walked_maps", "pseudo_labels", "train_segmenter", "segment"),
    ]
    again = whole().segmentation(RECAM, 1, "val", Segmentation(crf=None))
    trained = {node.key for node in ancestry(made) if node.name.startswith("train_")}
    assert not trained & {node.key for node in ancestry(again)}


def test_the_few_images_fill_the_steps_of_the_small_networks() -> None:
    assert FEW // 2 >= max(LITE0.irn.batch, LITE0.segmentation.batch)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("methods", ("CAM", "RECAM"), "'RECAM': choose from CAM, ReCAM"),
        ("seeds", -1, "seeds is -1: give 0 or more"),
        ("images", -2, "images is -2: give -1 or more"),
        ("gpus", 0, "gpus is 0: give 1 or more"),
        ("aamr", -1.0, "aamr is -1.0: give 0 or more"),
        ("saliency", "maps", "the mask refinement loss takes both, a folder and a weight"),
        ("aamr", 0.5, "saliency is '' and aamr 0.5"),
        ("budget", "tiny", "budget is 'tiny': choose from auto, small, published"),
        ("network", "unet", "network is 'unet': choose from auto, deeplabv2"),
        ("test", True, "only VOC has a test server"),
    ],
)
def test_options_are_checked(field: str, value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(DRAWN, **{field: value})
