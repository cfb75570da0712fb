from dataclasses import replace

import numpy as np
import pytest
import torch

from wsss.cam.scores import ScoreMap, upsample
from wsss.cam.sfc_labels import (
    cut,
    sfc_ir_label,
    sfc_seed_labels,
    sfc_walk_planes,
    sfc_walked,
)
from wsss.cam.sfc_maps import SFCScores
from wsss.config.refine import CRF, Walk
from wsss.config.sfc import SFCLabels, SFCWalk
from wsss.data import open_samples
from wsss.labels import ir_label
from wsss.metrics import seed_label
from wsss.refine.crf import crf_labels
from wsss.refine.walk import random_walk

KEYS, SIZE = torch.tensor([-1, 2, 6]), (58, 75)
WALK = Walk(steps=16)


@pytest.fixture
def maps():
    """Smooth M and P at stride 4."""
    rng = np.random.default_rng(0)
    planes = torch.from_numpy(rng.random((2, 3, 6, 8), dtype=np.float32))
    small = torch.nn.functional.interpolate(planes, (15, 19), mode="bicubic").clamp(0, 1)
    return SFCScores(*(ScoreMap("a", KEYS, p, SIZE) for p in small))


@pytest.fixture
def edge():
    return torch.from_numpy(np.random.default_rng(1).random((15, 19), dtype=np.float32))


def test_the_low_label_map_holds_all_foreground_of_the_high_one():
    planes = torch.tensor([[0.6, 0.6, 0.2], [0.4, 0.6, 0.1], [0.1, 0.2, 0.16]]).view(3, 1, 3)
    hi, lo = cut(planes, SFCLabels())
    assert hi.dtype == lo.dtype == torch.uint8
    assert hi.tolist() == [[0, 1, 0]]  # 2 F against B: 0.8 < 1.0, 1.2 > 1.0, 0.32 < 0.6
    assert lo.tolist() == [[1, 1, 2]]  # against half of it: 0.8 > 0.5, 1.2 > 0.5, 0.32 > 0.3


def test_seed_labels_are_cut_at_full_resolution_with_their_weights(maps):
    for config in (SFCLabels(), SFCLabels(prototype_weight=0.0, bias=0.2, gain=1.5)):
        m, p = config.classifier_weight, config.prototype_weight
        released = [
            torch.cat([found.planes[:1] + config.bias, config.gain * found.planes[1:]])
            for found in maps
        ]
        summed = upsample(m * released[0] + p * released[1], SIZE)
        hi, lo = sfc_seed_labels(*maps, config)
        assert torch.equal(hi, summed.argmax(0).to(torch.uint8))
        summed[0] *= 0.5
        assert torch.equal(lo, summed.argmax(0).to(torch.uint8))
        assert (hi > 0).sum() < (lo > 0).sum()


def test_ir_labels_are_what_both_refined_labels_agree_on(maps):
    image = np.random.default_rng(2).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    config = SFCLabels(crf=CRF(iterations=1))
    hi, lo = (crf_labels(image, x, 3, config.crf) for x in sfc_seed_labels(*maps, config))
    found = sfc_ir_label(image, *maps, config)
    assert torch.equal(found, ir_label(hi, lo, KEYS[1:]))
    assert 255 in found.unique()
    closed = sfc_ir_label(image, *maps, replace(config, ignore="background"))
    assert torch.equal(closed, found.masked_fill(found == 255, 0))


@pytest.mark.parametrize("plane", [0.1, 0.25, 0.6])
def test_walked_planes_decide_as_the_sum_of_both_walks_does(maps, edge, plane):
    config = SFCWalk()
    mixed = maps.classifier.planes + 0.3 * maps.prototype.planes
    start = torch.cat([mixed[:1] + 1.3 * 0.4, 2 * mixed[1:]]) ** 1.3

    def walked(x):
        found = upsample(random_walk(x, edge, beta=10.0, steps=16, radius=5), SIZE)
        return found / found.max()

    one, two = walked(start[1:]), walked(start**1.3)
    both = torch.cat([torch.full((1, *SIZE), plane), one]) + two
    planes = sfc_walk_planes(*maps, edge, replace(config, walk=WALK))
    assert planes.shape == (2, 15, 19)
    found = seed_label(upsample(planes, SIZE), KEYS[1:], SFCWalk.plane_threshold(plane))
    expected = (KEYS + 1)[both.argmax(0)]
    assert set(expected.unique().tolist()) == {0, 3, 7}
    assert (found.long() != expected).float().mean() < 0.001  # rounding


def test_edges_everywhere_leave_nothing(maps):
    planes = sfc_walk_planes(*maps, torch.ones(15, 19), SFCWalk(walk=WALK))
    assert torch.allclose(planes, torch.full_like(planes, 1 / 3))
    assert not seed_label(planes, KEYS[1:], SFCWalk.plane_threshold(0.25)).any()


def test_thresholds_of_the_walk():
    assert SFCWalk.plane_threshold(0.25) == pytest.approx(125 / 300)
    for plane in (-1.5, 2.5, float("nan")):
        with pytest.raises(ValueError, match="plane is"):
            SFCWalk.plane_threshold(plane)


def test_images_are_walked_one_by_one_and_those_without_a_class_not_at_all(edge):
    drawn = open_samples("scenes:images=3", "train")
    looked = []

    def edges(image):
        looked.append(image)
        return torch.zeros(tuple(-(-side // 4) for side in image.shape[:2]))

    def scores(i, keys):
        size = drawn.image(i).shape[:2]
        rows = torch.tensor([-1, *keys])
        planes = torch.rand(len(rows), *(-(-side // 4) for side in size))
        return SFCScores(*(ScoreMap(drawn.ids[i], rows, planes, size) for _ in range(2)))

    maps = [scores(0, [2, 3]), scores(1, []), scores(2, [0])]
    found = list(sfc_walked(drawn, range(3), maps, edges, SFCWalk(walk=WALK)))
    assert [s.id for s in found] == list(drawn.ids)
    assert [s.keys.tolist() for s in found] == [[2, 3], [], [0]]
    assert [len(s.planes) for s in found] == [2, 0, 1]
    assert len(looked) == 2
    expected = sfc_walk_planes(*maps[2], edges(drawn.image(2)), SFCWalk(walk=WALK))
    assert torch.equal(found[2].planes, expected)
    with pytest.raises(ValueError, match="maps are of train_0002 where train_0001 is walked on"):
        list(sfc_walked(drawn, [1], [maps[2]], edges, SFCWalk(walk=WALK)))


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (SFCLabels(), "bias", -0.1),
        (SFCLabels(), "low_share", 1.5),
        (SFCLabels(), "gain", 0.0),
        (SFCWalk(), "bias", -0.1),
        (SFCWalk(), "power", 0.0),
        (SFCWalk(), "all_power", -1.0),
    ],
)
def test_refused(config, field, value):
    with pytest.raises(ValueError, match=f"^{field} is "):
        replace(config, **{field: value})
