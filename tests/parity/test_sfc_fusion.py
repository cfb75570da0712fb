"""Golden unit 16: SFC's fused maps, their decisions, its labels for IRN, and its two walks."""

import pytest
import torch
import torch.nn.functional as F

from wsss.cam.scores import ScoreMap
from wsss.cam.sfc_labels import cut, sfc_walk_planes
from wsss.cam.sfc_maps import fused_both, mixture, plain_scores
from wsss.config.refine import PseudoLabels
from wsss.config.sfc import SFCFusion, SFCLabels, SFCWalk
from wsss.labels import pseudo_label, refined_ir_label
from wsss.metrics import seed_label


@pytest.fixture(scope="module")
def unit(golden):
    return golden("unit16_sfc_fusion")


@pytest.fixture(scope="module")
def size(unit):
    height, width = unit["size"].tolist()
    return height, width


@pytest.fixture(scope="module")
def keys(unit):
    """0-based, with -1 for background first."""
    return torch.from_numpy(unit["keys"]) - 1


@pytest.fixture(scope="module")
def maps(unit, size, keys):
    """M and P at full resolution, not shifted."""
    rows = keys + 1
    scales = [
        torch.cat([torch.from_numpy(unit[f"{name}_scale{s}"])[rows] for name in "MP"])
        for s in range(4)
    ]
    return fused_both(scales, size)


def score_maps(maps, keys, size):
    return [ScoreMap("image", keys, planes, size) for planes in maps]


def test_fused_maps_equal_the_release_before_its_shift(unit, maps, close):
    for planes, name in zip(maps, "MP", strict=True):
        close(torch.cat([planes[:1] + 0.4, 2 * planes[1:]]), unit[f"{name}_shifted"])


@pytest.mark.parametrize(
    ("fusion", "name"),
    [
        (SFCFusion(), "pred_P_only"),
        (SFCFusion(classifier_weight=1.0, prototype_weight=1.0), "pred_M_plus_P"),
    ],
)
def test_plain_scores_decide_as_the_release_does(unit, maps, keys, size, fusion, name):
    scores = plain_scores(*score_maps(maps, keys, size), fusion)
    found = seed_label(scores.planes, scores.keys, fusion.threshold(0.4))
    assert torch.equal(found, torch.from_numpy(unit[name]))


def test_labels_for_irn_equal_the_release(unit, maps, keys, size):
    config = SFCLabels()
    hi, lo = cut(mixture(*score_maps(maps, keys, size), config), config)
    found = refined_ir_label(unit["image"], hi, lo, keys[1:], config.crf)
    assert torch.equal(found, torch.from_numpy(unit["ir_label"]))


def test_the_two_walks_decide_as_the_release_does(unit, maps, keys, size):
    edge = torch.from_numpy(unit["edge"])[0]
    grid = [F.interpolate(m[None], edge.shape, mode="bilinear")[0] for m in maps]
    config = SFCWalk()
    planes = sfc_walk_planes(*score_maps(grid, keys, size), edge, config)
    scores = ScoreMap("image", keys[1:], planes, size)
    found = pseudo_label(scores, PseudoLabels(threshold=SFCWalk.plane_threshold(0.25)))
    assert torch.equal(found, torch.from_numpy(unit["pseudo_label"]))
