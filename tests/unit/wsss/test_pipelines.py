"""Every method as a chain of stages, run on a few drawn scenes; and what chains share."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stageflow.artifact import Artifacts
from stageflow.executor import LocalExecutor, run
from stageflow.stage import Node, ancestry
from stageflow.store import FolderStore
from wsss import pipelines, stages
from wsss.config import (
    AdvCAM,
    CAMTraining,
    Extraction,
    IRNTraining,
    LabelScore,
    PseudoLabels,
    ReCAMTraining,
    Response,
    SFCTraining,
)
from wsss.data import open_samples
from wsss.data.label_maps import Labels
from wsss.methods import METHODS, SFC, Method, named, rare_classes
from wsss.recipes import Recipe
from wsss.setting import Setting

SETTING = Setting(data="scenes:images=8")
VIEW = {"steps": 2, "epochs": 1, "batch": 4, "crop": 64}
START = {"backbone": "tiny", "weights": "random"}
SHORT = Recipe(
    cam=CAMTraining(**VIEW, **START, long_side=(64, 80)),
    recam=ReCAMTraining(**VIEW, long_side=(64, 80)),
    sfc=SFCTraining(**VIEW, **START, long_side=(64, 80)),
    irn=IRNTraining(**VIEW, **START, radius=5),
    maps=Extraction(scales=(1.0,)),
)


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> LocalExecutor:
    folder = tmp_path_factory.mktemp("pipelines")
    return LocalExecutor(Artifacts(FolderStore(folder / "store"), folder / "cache"), device="cpu")


def names(*nodes: Node) -> set[str]:
    return {node.name for node in ancestry(*nodes)}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_comes_to_labels(method: Method, executor: LocalExecutor) -> None:
    """On two images, from training to the walk, in this process."""
    part = "train[:2]"
    seeds = method.seeds(SETTING, SHORT, 0, part)
    tail = method.tail(SETTING, SHORT, 0, part, "train[:4]", 0.0)
    asked = [
        pipelines.score(SETTING, seeds.quality, None),
        pipelines.score(SETTING, seeds.quality, method.threshold if method is SFC else 0.5),
        pipelines.label_score(SETTING, tail.labels, part),
        pipelines.score(SETTING, tail.walked.quality, method.walk_threshold),
    ]
    strips = pipelines.label_pictures(SETTING, seeds, tail, part)
    *scores, drawn = run(*asked, strips, executor=executor)
    assert [file.path for file in drawn.files] == ["strips.png"]
    best, fixed, sure, walked = (made.metrics["miou"] for made in scores)
    assert best >= fixed > 0
    assert 0 < sure <= 1
    assert 0 < walked <= 1


def test_pseudo_labels_hold_the_classes_of_their_images(executor: LocalExecutor) -> None:
    maps, images = pipelines.cam(SETTING, SHORT, 0).maps, stages.images(SETTING.data, "train")
    cut = stages.pseudo_labels(images, maps, PseudoLabels(threshold=0.5))
    [made] = run(cut, executor=executor)
    labels, samples = Labels(executor.artifacts.fetch(made)), open_samples(SETTING.data, "train")
    labels.check(samples.ids)
    for i, name in enumerate(samples.ids):
        assert set(np.unique(labels[name])) <= {0, *(np.flatnonzero(samples.labels[i]) + 1)}


def test_chains_share_what_they_have_in_common() -> None:
    plain = pipelines.cam(SETTING, SHORT, 0)
    drawn_out = pipelines.cam(SETTING, SHORT, 0, response=Response())
    climbed = pipelines.cam(SETTING, SHORT, 0, climb=AdvCAM())
    trained = {plain.maps.parents, drawn_out.maps.parents, climbed.maps.parents}
    assert len(trained) == 1
    assert len({plain.maps, drawn_out.maps, climbed.maps}) == 3
    recam = pipelines.recam(SETTING, SHORT, 0)
    assert set(plain.maps.parents) <= set(ancestry(recam.maps))
    assert "train_cam" not in names(pipelines.sfc(SETTING, SHORT, 0).maps)


def test_a_part_is_scored_from_the_maps_of_the_whole() -> None:
    """Where the maps are there, scoring a part of the images extracts nothing."""
    whole = pipelines.cam(SETTING, SHORT, 0).maps
    assert pipelines.scored(SETTING, whole, "train[:4]").quality.parents == (whole,)


def test_the_seed_reaches_every_training() -> None:
    def trainings(seed: int) -> dict[str, str]:
        tail = named("SFC").tail(SETTING, SHORT, seed, "train", "train", 0.0)
        recam = named("ReCAM").seeds(SETTING, SHORT, seed, "train")
        nodes = ancestry(tail.walked.quality, recam.quality)
        return {node.name: node.key for node in nodes if node.name.startswith("train_")}

    first, second = trainings(0), trainings(1)
    assert set(first) == {"train_cam", "train_recam", "train_sfc", "train_irnet"}
    assert not set(first.values()) & set(second.values())


def test_a_shift_moves_both_thresholds_of_the_labels() -> None:
    tail = named("CAM").tail(SETTING, SHORT, 0, "train", "train", 0.1)
    assert (tail.labels.config.threshold_fg, tail.labels.config.threshold_bg) == (0.4, 0.15)
    moved = named("SFC").tail(SETTING, SHORT, 0, "train", "train", 0.1).labels.config
    assert moved.threshold(moved.bias) == pytest.approx(SFC.threshold + 0.1)


def test_a_part_too_small_to_teach_is_told_before_anything_runs() -> None:
    with pytest.raises(ValueError, match=r"train\[:3\] has 3 images, which fill no batch of 4"):
        named("CAM").tail(SETTING, SHORT, 0, "train", "train[:3]", 0.0)


def test_the_affinity_network_learns_from_the_split_that_is_named() -> None:
    tail = named("ReCAM").tail(SETTING, SHORT, 0, "train[:2]", "train[2:]", 0.0)
    [net] = [node for node in ancestry(tail.walked.maps) if node.name == "train_irnet"]
    assert net.inputs[0].location == "train[2:]@scenes:images=8"
    assert tail.labels.inputs[0].location == "train[:2]@scenes:images=8"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_fixed_thresholds_lie_on_the_curves(method: Method) -> None:
    tail = method.tail(SETTING, SHORT, 0, "train", "train", 0.0)
    seeds = method.seeds(SETTING, SHORT, 0, "train")
    cuts = ((seeds, method.threshold), (tail.walked, method.walk_threshold))
    for maps, threshold in cuts:
        place = threshold * maps.quality.config.bins
        assert place == pytest.approx(round(place), abs=1e-6)


def test_masks_that_select_an_epoch_are_an_input() -> None:
    selecting = replace(SHORT, sfc=replace(SHORT.sfc, select="best", probe=2))
    net = pipelines.sfc_net(SETTING, selecting, 0)
    assert [source.name for source in net.inputs] == ["images", "masks"]
    assert pipelines.sfc_net(SETTING, SHORT, 0).name == "train_sfc"
    probed = replace(SHORT, sfc=replace(SHORT.sfc, probe=2))
    assert pipelines.sfc_net(SETTING, probed, 0) == pipelines.sfc_net(SETTING, SHORT, 0)


def test_an_unknown_class_is_told_before_anything_runs() -> None:
    curve = pipelines.cam(SETTING, SHORT, 0).quality
    with pytest.raises(ValueError, match="class 'bota' is unknown: did you mean boat"):
        pipelines.score(SETTING, curve, None, LabelScore(pairs=(("bota", "water"),)))


def test_an_unknown_method_is_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="method is 'RECAM': choose from CAM, ReCAM, SFC"):
        named("RECAM")


def test_rare_classes_are_the_third_with_the_fewest_images() -> None:
    assert rare_classes(Setting()) == ("car", "bird")


def test_declaring_every_method_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys; from sweeps import labels, methods, sfc_weights; "
    code += "methods.entries(None, methods.Options()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
