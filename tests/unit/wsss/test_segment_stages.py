"""From pseudo labels to a segmentation network and what it makes, on a few drawn scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stageflow.artifact import Artifacts
from stageflow.executor import LocalExecutor, RunError, run
from stageflow.stage import Needs, Node
from stageflow.store import FolderStore
from wsss import pipelines, stages
from wsss.config import (
    CAMTraining,
    Extraction,
    IRNTraining,
    ReCAMTraining,
    Segmentation,
    SegmentationTraining,
    SFCTraining,
)
from wsss.data import open_samples
from wsss.data.label_maps import Labels
from wsss.methods import CAM
from wsss.recipes import Recipe
from wsss.setting import Setting
from wsss.voc_submission import read_submission

SETTING = Setting(data="scenes:images=8")
VIEW = {"steps": 2, "epochs": 1, "batch": 4, "crop": 64}
START = {"backbone": "tiny", "weights": "random"}
LEARNING = SegmentationTraining(**VIEW, **START, accumulation=1, pyramid=(), lr=0.01)
SHORT = Recipe(
    cam=CAMTraining(**VIEW, **START, long_side=(64, 80)),
    recam=ReCAMTraining(**VIEW, long_side=(64, 80)),
    sfc=SFCTraining(**VIEW, **START, long_side=(64, 80)),
    irn=IRNTraining(**VIEW, **START, radius=5),
    maps=Extraction(scales=(1.0,)),
    segmentation=LEARNING,
)
PLAIN = Segmentation(crf=None)


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> LocalExecutor:
    folder = tmp_path_factory.mktemp("segment")
    return LocalExecutor(Artifacts(FolderStore(folder / "store"), folder / "cache"), device="cpu")


def labels() -> Node:
    """Pseudo labels of all training images."""
    tail = CAM.tail(SETTING, SHORT, 0, "train", "train", 0.0)
    return pipelines.pseudo_labels(SETTING, tail, 0.25)


def test_a_network_learns_pseudo_labels_and_is_scored(executor: LocalExecutor) -> None:
    net = pipelines.segmenter(SETTING, SHORT, labels(), 0, split="train")
    made = pipelines.segmented(SETTING, net, "val[:6]", PLAIN)
    score = pipelines.label_score(SETTING, made, "val[:6]")
    pictures = pipelines.segmentation_pictures(SETTING, made, "val[:6]")
    scored, drawn, found = run(score, pictures, made, executor=executor)
    assert 0 < scored.metrics["miou"] < 1
    assert [file.path for file in drawn.files] == ["strips.png"]
    samples, known = open_samples(SETTING.data, "val[:6]"), Labels(executor.artifacts.fetch(found))
    known.check(samples.ids)
    assert known[samples.ids[0]].shape == samples.image(0).shape[:2]


def test_the_best_cut_is_that_of_the_curve(executor: LocalExecutor) -> None:
    tail = CAM.tail(SETTING, SHORT, 0, "train", "train", 0.0)
    best = pipelines.pseudo_labels(SETTING, tail, None)
    scores = (
        pipelines.label_score(SETTING, best, "train"),
        pipelines.score(SETTING, tail.walked.quality, None),
    )
    cut, point = run(*scores, executor=executor)
    assert cut.metrics["miou"] == pytest.approx(point.metrics["miou"], abs=1e-9)


@pytest.fixture
def saliency(tmp_path: Path) -> Path:
    """Maps of every training image: the upper half is salient."""
    folder = tmp_path / "saliency"
    folder.mkdir()
    samples = open_samples(SETTING.data, "train")
    for i, name in enumerate(samples.ids):
        grey = np.zeros(samples.image(i).shape[:2], dtype=np.uint8)
        grey[: len(grey) // 2] = 255
        Image.fromarray(grey).save(folder / f"{name}.png")
    return folder


def refined(saliency: Path) -> Node:
    """A network that the mask refinement loss has a say in."""
    maps = CAM.seeds(SETTING, SHORT, 0, "train").maps
    targets = pipelines.aamr_targets(SETTING, str(saliency), maps, "train")
    recipe = replace(SHORT, segmentation=replace(LEARNING, aamr_weight=0.5))
    return pipelines.segmenter(SETTING, recipe, labels(), 0, split="train", targets=targets)


def test_saliency_has_a_say_and_is_part_of_the_key(executor: LocalExecutor, saliency: Path) -> None:
    net = refined(saliency)
    [made] = run(net, executor=executor)
    assert {"loss", "pixels", "aamr"} <= set(made.reports[-1].metrics)
    first = open_samples(SETTING.data, "train").ids[0]
    Image.new("L", (5, 5)).save(saliency / f"{first}.png")
    assert refined(saliency).key != net.key
    with pytest.raises(RunError, match="not what was planned with"):
        run(replace_targets(net), executor=executor)


def replace_targets(net: Node) -> Node:
    """The targets again, under another share so that they are not there yet."""
    [targets] = [node for node in net.parents if node.name == "aamr_targets"]
    return stages.aamr_targets(*targets.inputs, replace(targets.config, share=0.2))


def test_a_missing_saliency_map_is_named_before_anything_runs(saliency: Path) -> None:
    first = open_samples(SETTING.data, "train").ids[0]
    (saliency / f"{first}.png").unlink()
    with pytest.raises(ValueError, match=rf"1 images have no saliency map, .*{first}\.png first"):
        refined(saliency)


def test_a_split_that_fills_no_step_is_told_before_anything_runs() -> None:
    with pytest.raises(ValueError, match=r"train\[:3\] has 3 images, which fill no step of 4"):
        pipelines.segmenter(SETTING, SHORT, labels(), 0, split="train[:3]")


def test_gpus_are_no_part_of_the_key() -> None:
    one, two = (
        pipelines.segmenter(SETTING, SHORT, labels(), 0, split="train", gpus=gpus)
        for gpus in (1, 2)
    )
    assert one.key == two.key
    assert (one.stage.needs, two.stage.needs) == (Needs(cpus=1, gpus=1), Needs(cpus=2, gpus=2))
    with pytest.raises(ValueError, match="5 GPUs cannot share a batch of 4"):
        pipelines.segmenter(SETTING, SHORT, labels(), 0, split="train", gpus=5)


def test_an_archive_for_voc_s_server(executor: LocalExecutor, tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    for name in ("JPEGImages", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    names = ("2008_000001", "2008_000002")
    for width, name in zip((40, 56), names, strict=True):
        Image.new("RGB", (width, 48), (90, 30, width)).save(root / f"JPEGImages/{name}.jpg")
    (root / "ImageSets/Segmentation/test.txt").write_text("\n".join(names))
    setting = replace(SETTING, data=f"voc2012:{root}")
    net = pipelines.segmenter(SETTING, SHORT, labels(), 0, split="train")  # of scenes: 9 ids < 20
    packed = pipelines.voc_submission(
        setting, pipelines.segmented(setting, net, "test", PLAIN), "test"
    )
    [made] = run(packed, executor=executor)
    assert made.metrics["images"] == 2
    found = dict(read_submission(executor.artifacts.fetch(made) / "results.tar.gz"))
    assert {name: label.shape for name, label in found.items()} == {
        names[0]: (48, 40),
        names[1]: (48, 56),
    }
