from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.cam.scores import (
    ScoreMap,
    ScoreMaps,
    at_stride4,
    best_class,
    fused,
    max_normalised,
    multiscale_maps,
    present,
    upsample,
)
from wsss.cam.sfc import SFCNet
from wsss.cam.sfc_maps import (
    SFCScores,
    extract_sfc,
    fused_both,
    mixture,
    plain_scores,
    sfc_maps,
    sfc_source,
    write_sfc,
)
from wsss.config.sfc import SFCFusion, SFCMaps
from wsss.data import open_samples
from wsss.data.transforms import flip
from wsss.metrics import mean_iou, seed_label, threshold_curve, threshold_histogram
from wsss.nets.backbones import backbone
from wsss.training import seeded

CONFIG = SFCMaps(scales=(1.0, 0.5))
KEYS = torch.tensor([-1, 2, 5, 6])
SIZE = (10, 13)


@pytest.fixture(scope="module")
def net():
    with seeded(0):
        return SFCNet(backbone("tiny"), 8).eval()


@pytest.fixture
def scenes():
    drawn = open_samples("scenes:images=5", "train")
    labels = drawn.labels.copy()
    labels[2] = False
    return replace(drawn, labels=labels)


def read(folder):
    """What `write_sfc` wrote."""
    parts = [ScoreMaps(folder / name) for name in SFCScores._fields]
    return [SFCScores(*maps) for maps in zip(*parts, strict=True)]


def random_maps(seed, size=SIZE, decimals=None):
    """M and P at full resolution."""
    rng = np.random.default_rng(seed)
    planes = rng.random((2, 4, *size))
    planes = planes if decimals is None else planes.round(decimals)
    return [ScoreMap("a", KEYS, torch.from_numpy(p).float(), size) for p in planes]


@pytest.mark.parametrize("bias", [-0.2, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 1.0), (1.0, 0.7)])
def test_a_bias_is_a_threshold_on_plain_scores(weights, bias):
    m, p = weights
    fusion = SFCFusion(classifier_weight=m, prototype_weight=p)
    for seed in range(3):
        classifier, prototype = random_maps(seed, (40, 50))
        released = [  # as it is stored and added up in the release
            torch.cat([maps.planes[:1] + bias, 2 * maps.planes[1:]])
            for maps in (classifier, prototype)
        ]
        expected = (KEYS + 1)[(m * released[0] + p * released[1]).argmax(0)]
        scores = plain_scores(classifier, prototype, fusion)
        assert scores.keys.tolist() == [2, 5, 6]
        assert (scores.planes >= 0).all()
        assert (scores.planes <= 1).all()
        found = seed_label(scores.planes, scores.keys, fusion.threshold(bias))
        assert torch.equal(found.long(), expected)
        assert 0 < (expected == 0).float().mean() < 1


def test_ties_go_to_background_and_then_to_the_first_class():
    planes = torch.tensor([[0.5, 0.5], [0.75, 0.875], [0.75, 0.875]]).view(3, 1, 2)
    maps = ScoreMap("a", torch.tensor([-1, 3, 7]), planes, (1, 2))
    scores = plain_scores(maps, maps, SFCFusion())
    assert seed_label(scores.planes, scores.keys, SFCFusion().threshold(1.0)).tolist() == [[0, 4]]


def test_the_published_bias_is_a_threshold_of_a_curve_with_300_bins():
    assert SFCFusion().threshold(0.4) == pytest.approx(140 / 300)
    assert SFCFusion().threshold(-1.0) == 0
    assert SFCFusion().threshold(2.0) == 1
    for bias in (-1.1, 2.5, float("nan")):
        with pytest.raises(ValueError, match="bias is"):
            SFCFusion().threshold(bias)


def test_mixtures_are_weighted_means_of_two_maps_of_one_image():
    classifier, prototype = random_maps(0)
    found = mixture(classifier, prototype, SFCFusion(classifier_weight=1.0, prototype_weight=3.0))
    assert torch.allclose(found, (classifier.planes + 3 * prototype.planes) / 4)
    assert torch.equal(mixture(classifier, prototype, SFCFusion()), prototype.planes)
    with pytest.raises(ValueError, match="maps of a and b are not of one image"):
        mixture(classifier, prototype._replace(id="b"), SFCFusion())
    bare = prototype._replace(keys=KEYS[1:], planes=prototype.planes[1:])
    with pytest.raises(ValueError, match="the prototype map of a has no background plane first"):
        mixture(classifier, bare, SFCFusion())


def test_stored_maps_cost_less_than_a_twentieth_of_a_point(tmp_path, voc_mini):
    """Real masks, made into maps of stride 16 that leak and miss as those of a network do."""
    samples = open_samples(f"voc2012:{voc_mini}", "train")
    chosen = range(0, len(samples), 9)
    rng = np.random.default_rng(0)
    histograms = torch.zeros((2, 152, 20, 21), dtype=torch.int64)

    def fuzzy(i):
        truth, keys = torch.from_numpy(samples.mask(i)), present(samples, i)
        planes = (truth == (keys + 1).view(-1, 1, 1)).float()[None]
        coarse = [-(-side // 32) for side in truth.shape]
        noise = torch.from_numpy(rng.random((1, len(keys), *coarse), dtype=np.float32))
        for scale in (1.0, 0.5, 1.5, 2.0):
            grid = tuple(-(-round(side * scale) // 16) for side in truth.shape)
            cells = F.interpolate(planes, grid, mode="area")[0]
            maps = F.avg_pool2d(cells, 3, 1, 1)
            maps = maps * (0.4 + F.interpolate(noise, grid, mode="bilinear")[0])
            background = 1.4 - maps.amax(0, keepdim=True)
            yield torch.cat([background, maps, background, maps.square()])

    def counted(histogram, i, planes):
        size = planes[0].shape[-2:]
        keys = F.pad(present(samples, i), (1, 0), value=-1)
        fusion = SFCFusion(classifier_weight=1.0)
        scores = plain_scores(*(ScoreMap("a", keys, p, size) for p in planes), fusion)
        score, best = best_class(scores.planes, scores.keys)
        histogram += threshold_histogram(score, best, torch.from_numpy(samples.mask(i)), 150, 21)

    stored = []
    for i in chosen:
        size, keys = samples.mask(i).shape, F.pad(present(samples, i), (1, 0), value=-1)
        whole = fused_both(fuzzy(i), size)
        counted(histograms[0], i, whole)
        maps = (ScoreMap(samples.ids[i], keys, at_stride4(planes), size) for planes in whole)
        stored.append(SFCScores(*maps))
    write_sfc(tmp_path, stored, first=0, config=SFCMaps())
    for i, back in zip(chosen, read(tmp_path), strict=True):
        counted(histograms[1], i, [upsample(maps.planes, maps.size) for maps in back])
    exact, kept = (100 * mean_iou(threshold_curve(h)) for h in histograms)
    assert 40 < exact[70] < 90
    assert abs(exact.max() - kept.max()) < 0.05
    assert abs(exact[70] - kept[70]) < 0.05  # at the published bias


@pytest.mark.parametrize("compat", ["release", "none"])
def test_maps_of_an_image_have_their_maximum_at_1_or_are_nothing(net, scenes, compat):
    image, keys = scenes.image(0), torch.tensor([1, 4])
    for planes in sfc_maps(net, image, keys, replace(CONFIG, bg_factor=0.0, compat=compat)):
        assert planes.shape == (3, *image.shape[:2])
        assert (planes >= 0).all()
        assert all(top in (0, pytest.approx(1, abs=1e-3)) for top in planes.amax((1, 2)).tolist())
        assert planes[1:].any() or compat == "release"  # there, absent classes win every pixel


def test_maps_come_back_from_disk_with_their_background(net, scenes, tmp_path):
    found = list(extract_sfc(scenes, range(5), net, CONFIG))
    for part in (range(3), range(3, 5)):  # as two workers would
        maps = (found[i] for i in part)
        write_sfc(tmp_path, maps, first=part[0], config=CONFIG, per_shard=2)
    for i, (one, back) in enumerate(zip(found, read(tmp_path), strict=True)):
        expected = [-1, *np.flatnonzero(scenes.labels[i])]
        for ours, theirs in zip(one, back, strict=True):
            assert theirs.id == scenes.ids[i]
            assert theirs.keys.tolist() == expected
            assert theirs.size == scenes.image(i).shape[:2]
            assert (ours.planes - theirs.planes).abs().max() < 1e-5
        plain = plain_scores(*back, SFCFusion())
        score, best = best_class(upsample(plain.planes, plain.size), plain.keys)
        assert score.shape == best.shape == plain.size
    empty = SFCScores(*found[2])
    assert empty.classifier.planes.min() > 0.99
    assert len(plain_scores(*empty, SFCFusion()).keys) == 0


def test_a_source_gives_foreground_maps_of_the_classes_asked_for(net, scenes):
    keys = torch.tensor([3, 0])
    pair = torch.randn(1, 3, 24, 32)
    pair = torch.cat([pair, flip(pair)])
    fusion = SFCFusion(classifier_weight=0.5, prototype_weight=1.0)
    maps = sfc_source(net, CONFIG, fusion)(pair, keys)
    assert maps.shape == (2, 6, 8)
    assert (maps >= 0).all()
    assert maps.amax((1, 2)).max() <= 1.5
    swapped = sfc_source(net, CONFIG, fusion)(pair.flip(0), keys.flip(0))
    assert torch.allclose(maps, flip(swapped.flip(0)), atol=1e-4)


def test_the_source_of_the_prototype_map_alone_gives_it(net, scenes):
    image, keys = scenes.image(0), torch.tensor([1, 4])
    config = replace(CONFIG, scales=(1.0,), compat="none", bg_factor=0.0)
    [maps] = multiscale_maps(image, sfc_source(net, config, SFCFusion()), keys, net.views((1.0,)))
    _, prototype = sfc_maps(net, image, keys, config)
    assert prototype[1:].any()
    assert torch.allclose(max_normalised(fused([maps], image.shape[:2])), prototype[1:], atol=1e-4)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: SFCMaps(compat="paper"), "compat"),
        (lambda: SFCMaps(bg_factor=-1.0), "bg_factor"),
        (lambda: SFCMaps(scales=()), "scales"),
        (lambda: SFCFusion(classifier_weight=-1.0), "classifier_weight"),
        (lambda: SFCFusion(prototype_weight=0.0), "prototype_weight"),
        (lambda: SFCFusion(gain=0.0), "gain"),
    ],
)
def test_refused(build, field):
    with pytest.raises(ValueError, match=f"^{field} is "):
        build()
