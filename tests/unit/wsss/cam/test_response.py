from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.cam.advcam import advcam_source
from wsss.cam.classifier import CAMNet, cam_source
from wsss.cam.response import (
    Box,
    crop_boxes,
    erased,
    erased_pairs,
    mass_centres,
    merged,
    mirrored,
    response_maps,
    response_planes,
    responses,
    rounds,
    scaled,
)
from wsss.cam.scores import Views, max_normalised, mirrored_sum
from wsss.config.advcam import AdvCAM
from wsss.config.response import Response
from wsss.nets.backbones import backbone

VIEWS = Views(scales=(1.0, 0.5, 2.0), mean=(0.0,) * 3, std=(1.0,) * 3, stride=4)
RELEASE = Response(compat="release")


def image(*discs, size=(48, 72), noise=0):
    """Black, with discs (row, column, radius, colour channel, brightness)."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = np.random.default_rng(0).integers(0, noise + 1, (*size, 3)).astype(np.uint8)
    for row, column, radius, channel, brightness in discs:
        disc = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        pixels[disc, channel] = brightness
    return pixels


class Channels:
    """Sees class c where channel c is bright, but nothing half as bright as the brightest."""

    def __init__(self):
        self.seen = []

    def __call__(self, pair, keys):
        self.seen.append((tuple(pair.shape[2:]), keys.tolist()))
        levels = F.avg_pool2d(pair, 4, ceil_mode=True)[:, keys]
        brightest = levels.amax((0, 2, 3), keepdim=True)
        return mirrored_sum(levels * (levels > brightest / 2))


TWO_DISCS = image((14, 16, 7, 0, 240), (32, 52, 7, 0, 100))
THREE_CLASSES = image((12, 12, 6, 0, 200), (30, 40, 8, 1, 200), (20, 60, 6, 2, 200))
NOISY = image((24, 36, 5, 0, 250), noise=60)
KEYS = {1: torch.tensor([0]), 2: torch.tensor([0, 1]), 3: torch.tensor([0, 1, 2])}


def test_a_centre_of_mass_is_rounded_down_and_without_mass_it_is_the_middle():
    maps = torch.zeros(3, 9, 12)
    maps[0, 3, 7] = 0.25
    maps[1, 2, 4], maps[1, 5, 5] = 1.0, 3.0  # row 4.25, column 4.75
    assert mass_centres(maps).tolist() == [[3, 7], [4, 4], [4, 6]]


@pytest.mark.parametrize(
    ("centres", "config", "rows", "columns"),
    [
        ([[30, 20]], Response(), [(0, 40), (20, 60)], [(0, 30), (10, 80)]),
        ([[25, 30], [40, 50]], Response(), [(0, 60), (5, 60)], [(0, 70), (10, 80)]),
        ([[4, 75]], Response(), [(0, 14), (0, 60)], [(0, 80), (65, 80)]),
        ([[4, 75]], RELEASE, [(0, 14), (54, 60)], [(0, 80), (65, 80)]),
        ([[30, 20]], Response(margins=(4, 9)), [(0, 34), (26, 60)], [(0, 24), (16, 80)]),
        ([[1, 1], [2, 2], [3, 3]], Response(), [(0, 60)] * 2, [(0, 80)] * 2),
    ],
)
def test_crops_reach_beyond_the_centres(centres, config, rows, columns):
    top_left, top_right, bottom_left, bottom_right = crop_boxes(
        torch.tensor(centres), (60, 80), config
    )
    assert top_left == (*rows[0], *columns[0])
    assert top_right == (*rows[0], *columns[1])
    assert bottom_left == (*rows[1], *columns[0])
    assert bottom_right == (*rows[1], *columns[1])


def test_what_is_erased_takes_the_mean_of_its_view():
    view = torch.rand(3, 5, 6)
    keep = torch.rand(5, 6) > 0.5
    found = erased(view, keep)
    assert torch.equal(found[:, keep], view[:, keep])
    assert torch.equal(found[:, ~keep], view.mean((1, 2))[:, None].expand(3, int((~keep).sum())))


def gone(pairs, views):
    """Where each pair was erased: the mask of the view and of its mirror image."""
    seen = mirrored(views)
    return [(pair != whole).all(1) for pair, whole in zip(pairs, seen, strict=True)]


def test_a_mirrored_view_is_erased_by_the_mirrored_mask_unlike_in_the_release():
    views = [torch.rand(3, h, w) + torch.arange(w) for h, w in ((8, 12), (4, 6), (16, 24))]
    keep = torch.ones(8, 12, dtype=torch.bool)
    keep[0, 1:4] = False
    ours = gone(erased_pairs(views, keep, Response()), views)
    theirs = gone(erased_pairs(views, keep, RELEASE), views)
    assert torch.equal(ours[0][0], ~keep)
    assert all(torch.equal(mirror, mask.flip(-1)) for mask, mirror in ours)
    assert all(torch.equal(mirror, mask) for mask, mirror in theirs)
    # Half the size sees one of the three columns; the release hands that on to twice the size.
    assert [int(mask.sum()) for mask, _ in ours] == [3, 1, 12]
    assert [int(mask.sum()) for mask, _ in theirs] == [3, 1, 16]
    assert not torch.equal(ours[2][0], theirs[2][0])


def shown(pixels, keys=KEYS[1]):
    """Views of an image, and what `Channels` sees in them."""
    views = scaled(pixels, VIEWS)
    return views, responses(Channels(), mirrored(views), keys, pixels.shape[:2])


def found_in(pixels, config, keys=KEYS[1], source=None):
    return response_maps(pixels, source or Channels(), keys, VIEWS, config)


def test_what_was_in_the_shadow_of_the_brightest_is_drawn_out():
    _, first = shown(TWO_DISCS)
    whole = max_normalised(first)
    assert whole[0, 14, 16] > 0.9
    assert whole[0, 32, 52] == 0
    found = found_in(TWO_DISCS, Response(threshold=0.3))
    assert found[0, 14, 16] > 0.9
    assert found[0, 32, 52] > 0.8
    assert found[0, 40, 8] < 0.1
    assert found.max() < 1


def test_fewer_rounds_are_a_prefix_of_more():
    views, first = shown(TWO_DISCS)

    def maps(iterations):
        config = Response(iterations=iterations, growth=0.0)
        return [found.maps for found in rounds(Channels(), views, first, KEYS[1], config)]

    every = maps(5)
    assert len(every) == 5
    assert torch.equal(every[0], max_normalised(first))
    assert not torch.equal(every[1], every[0])
    for n in (1, 2, 4):
        assert all(torch.equal(a, b) for a, b in zip(maps(n), every, strict=False))
    assert all((later >= sooner).all() for sooner, later in pairwise(every))


@pytest.mark.parametrize("growth", [0.5, 0.1, 0.02])
def test_a_crop_is_left_when_too_little_is_newly_erased(growth):
    views, first = shown(TWO_DISCS)

    def gains(growth):
        found = rounds(Channels(), views, first, KEYS[1], Response(threshold=0.5, growth=growth))
        return np.diff([0.0, *((~one.keep).double().mean().item() for one in found)])

    every = gains(0.0)
    assert len(every) == 5
    too_little = np.flatnonzero(every < growth)
    assert gains(growth).tolist() == every[: too_little[0] + 1].tolist()


def test_three_classes_cost_no_crops_and_nothing_is_looked_at_twice():
    source = Channels()
    found = found_in(THREE_CLASSES, Response(iterations=3, growth=0.0), KEYS[3], source)
    assert found.shape == (3, 48, 72)
    assert len(source.seen) == len(VIEWS.scales) * 3
    assert all(keys == [0, 1, 2] for _, keys in source.seen)


def test_the_image_and_each_different_crop_cost_their_rounds():
    source = Channels()
    found_in(TWO_DISCS, Response(iterations=2, growth=0.0), KEYS[1], source)
    scales = len(VIEWS.scales)
    assert len(source.seen) == scales * (1 + 4 * 2)
    source = Channels()  # all four crops are the image, which has been seen
    found_in(TWO_DISCS, Response(iterations=2, growth=0.0, margins=(80, 80)), KEYS[1], source)
    assert len(source.seen) == scales * 2


def test_classes_that_are_erased_alone_share_what_is_seen_before():
    source = Channels()
    config = Response(iterations=2, growth=0.0, erase="per_class")
    found = found_in(THREE_CLASSES, config, KEYS[3], source)
    asked = [keys for _, keys in source.seen]
    scales = len(VIEWS.scales)
    assert asked == [[0, 1, 2]] * scales + [[0]] * scales + [[1]] * scales + [[2]] * scales
    views, first = shown(THREE_CLASSES, KEYS[3])
    for n in range(3):
        *_, alone = rounds(Channels(), views, first[n : n + 1], KEYS[3][n : n + 1], config)
        assert torch.allclose(found[n], alone.maps[0])


def test_erasing_alone_leaves_the_other_classes_in_the_image():
    pixels = image((14, 16, 7, 0, 240), (32, 52, 7, 1, 200))
    views, first = shown(pixels, KEYS[2])
    both = next(rounds(Channels(), views, first, KEYS[2], Response())).keep
    alone = next(rounds(Channels(), views, first[1:], KEYS[2][1:], Response())).keep
    assert [bool(both[14, 16]), bool(both[32, 52])] == [False, False]
    assert [bool(alone[14, 16]), bool(alone[32, 52])] == [True, False]


def test_noise_becomes_an_object_unless_a_least_score_is_asked_for():
    every = {"margins": (80, 80), "threshold": 0.3, "growth": 0.0}
    free = found_in(NOISY, Response(**every))
    held = found_in(NOISY, Response(**every, least_score=0.3))
    corner = (slice(None), slice(0, 8), slice(0, 8))
    assert free[corner].max() > 0.5
    assert held[corner].max() < 0.2
    assert held[0, 24, 36] > 0.9


def test_a_least_score_ends_the_rounds_when_all_classes_are_gone():
    views, first = shown(NOISY)
    config = Response(threshold=0.3, growth=0.0, least_score=0.3)
    found = list(rounds(Channels(), views, first, KEYS[1], config))
    assert 1 <= len(found) < config.iterations


def test_crops_are_merged_by_their_maximum_at_their_place():
    crops = [
        (Box(0, 2, 0, 3), torch.full((1, 2, 3), 0.5)),
        (Box(1, 4, 2, 5), torch.full((1, 3, 3), 0.75)),
    ]
    found = merged(crops, (4, 6))
    assert found[0].tolist() == [
        [0.5, 0.5, 0.5, 0, 0, 0],
        [0.5, 0.5, 0.75, 0.75, 0.75, 0],
        [0, 0, 0.75, 0.75, 0.75, 0],
        [0, 0, 0.75, 0.75, 0.75, 0],
    ]


@pytest.fixture(scope="module")
def net() -> CAMNet:
    torch.manual_seed(0)
    return CAMNet(backbone("tiny"), 4).eval()


@pytest.mark.parametrize("kind", ["cam", "advcam"])
@pytest.mark.parametrize("keys", [[2], [0, 3], [0, 1, 3]])
def test_any_source_of_maps_will_do(net, kind, keys):
    weight = net.classifier.weight
    climb = AdvCAM(iterations=2, iterations_small=2)
    source = cam_source(net, weight) if kind == "cam" else advcam_source(net, weight, climb)
    planes = response_planes(source, net.views((1.0, 0.5)), Response(iterations=2))
    pixels = np.random.default_rng(0).integers(0, 256, (50, 61, 3), dtype=np.uint8)
    found = planes(pixels, torch.tensor(keys))
    assert found.shape == (len(keys), 13, 16)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert ((found >= 0) & (found <= 1)).all()
    assert (found.amax((1, 2)) > 0.5).all()
    assert torch.equal(found, planes(pixels, torch.tensor(keys)))


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: Response(threshold=1.2), "threshold"),
        (lambda: Response(growth=-0.1), "growth"),
        (lambda: Response(iterations=0), "iterations"),
        (lambda: Response(margins=(10, 0)), "margins"),
        (lambda: Response(margins=(10,)), "margins"),
        (lambda: Response(erase="apart"), "erase"),
        (lambda: Response(least_score=float("nan")), "least_score"),
        (lambda: Response(compat="exact"), "compat"),
    ],
)
def test_settings_without_sense_are_refused(build, field):
    with pytest.raises(ValueError, match=f"^{field} is "):
        build()
