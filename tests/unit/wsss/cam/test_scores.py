import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.cam.scores import (
    ScoreMap,
    ScoreMaps,
    Views,
    at_stride4,
    best_class,
    extract,
    fused_high_res,
    max_normalised,
    mirrored_sum,
    multiscale_maps,
    multiscale_planes,
    present,
    score_planes,
    upsample,
    write_scores,
)
from wsss.data import open_samples
from wsss.metrics import mean_iou, threshold_curve, threshold_histogram

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def score_map(name, keys, size=(30, 41), seed=0):
    rng = np.random.default_rng(seed)
    planes = rng.random((len(keys), (size[0] + 3) // 4, (size[1] + 3) // 4), dtype=np.float32)
    return ScoreMap(name, torch.tensor(keys, dtype=torch.int64), torch.from_numpy(planes), size)


@pytest.fixture
def maps():
    sizes = [(30, 41), (64, 64), (33, 20), (8, 9), (75, 100)]
    keys = [[0, 7], [3], [], [19, 1, 2], []]
    return [
        score_map(f"2007_00000{i}", k, size, i)
        for i, (k, size) in enumerate(zip(keys, sizes, strict=True))
    ]


@pytest.mark.parametrize(("bits", "error"), [(8, 0.5 / 255), (16, 0.5 / 65535)])
def test_maps_come_back_in_order_within_half_a_step(tmp_path, maps, bits, error):
    write_scores(tmp_path, maps, bits=bits, per_shard=2)
    back = ScoreMaps(tmp_path)
    assert len(list(tmp_path.glob("maps_*"))) == 3
    assert len(back) == 5
    assert back.ids == tuple(m.id for m in maps)
    for found, given in zip(back, maps, strict=True):
        assert (found.id, found.size) == (given.id, given.size)
        assert torch.equal(found.keys, given.keys)
        assert found.planes.dtype == torch.float32
        assert found.planes.shape == given.planes.shape
        if given.planes.numel():
            assert (found.planes - given.planes).abs().max() <= error + 1e-7


def test_shards_of_several_writers_make_one_folder(tmp_path, maps):
    write_scores(tmp_path / "b", maps[3:], first=3)
    write_scores(tmp_path / "a", maps[:3], first=0)
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    assert ScoreMaps(tmp_path / "a").ids == tuple(m.id for m in maps)
    assert ScoreMaps(tmp_path / "a")[-2].keys.tolist() == [19, 1, 2]


def test_a_lost_shard_is_told(tmp_path, maps):
    write_scores(tmp_path, maps, per_shard=2)
    (tmp_path / "maps_0000002.npz").unlink()
    with pytest.raises(ValueError, match=r"lacks the score maps from 2 to maps_0000004\.npz"):
        ScoreMaps(tmp_path)


def test_a_broken_shard_and_an_empty_folder_are_told(tmp_path, maps):
    with pytest.raises(ValueError, match="holds no score maps"):
        ScoreMaps(tmp_path)
    write_scores(tmp_path, maps)
    shard = tmp_path / "maps_0000000.npz"
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"maps_0000000\.npz cannot be read"):
        ScoreMaps(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_scores_that_are_none_are_refused(tmp_path, value):
    bad = score_map("a", [2])
    bad.planes[0, 3, 4] = value
    with pytest.raises(ValueError, match=r"leave \[0, 1\] or are NaN"):
        write_scores(tmp_path, [bad])
    assert not list(tmp_path.glob("maps_*"))


def test_planes_of_another_grid_are_refused(tmp_path):
    wrong = score_map("a", [2])._replace(size=(90, 90))
    with pytest.raises(ValueError, match="planes of a are"):
        write_scores(tmp_path, [wrong])


def test_the_mirror_image_counts_at_its_true_place():
    maps = torch.zeros(2, 1, 2, 5)
    maps[0, 0, 0, 1] = 1
    maps[1, 0, 0, 3] = 2
    assert mirrored_sum(maps)[0].nonzero().tolist() == [[0, 1]]


def test_normalised_maps_peak_just_below_one_and_nothing_stays_nothing():
    maps = torch.tensor([[[0.0, 4.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    found = max_normalised(maps)
    assert torch.allclose(found[0] * 4.00001, maps[0], atol=1e-6)
    assert found[0].max() < 1
    assert not found[1].any()


def test_the_best_class_is_the_first_of_equals():
    planes = torch.tensor([[[0.2, 0.9, 0.5]], [[0.7, 0.9, 0.1]]])
    score, best = best_class(planes, torch.tensor([4, 11]))
    assert score.tolist() == [[pytest.approx(0.7), pytest.approx(0.9), pytest.approx(0.5)]]
    assert best.tolist() == [[11, 4, 4]]


def test_each_scale_is_seen_in_its_own_size_and_mirrored():
    seen = []

    def source(pair, keys):
        seen.append(tuple(pair.shape))
        assert torch.equal(pair[1], pair[0].flip(-1))
        return pair[0, keys].abs()

    image = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    views = Views(scales=(1.0, 0.5, 2.0), mean=MEAN, std=STD, stride=1)
    found = multiscale_maps(image, source, torch.tensor([0, 2]), views)
    assert seen == [(2, 3, 21, 34), (2, 3, 10, 17), (2, 3, 42, 68)]
    assert [tuple(m.shape) for m in found] == [(2, 21, 34), (2, 10, 17), (2, 42, 68)]


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_cells_stay_over_their_pixels_at_any_stride(stride):
    """A source that knows the mask: its cells, stored and resized again, lie where they were."""
    mask = torch.zeros(65, 70)
    mask[20:44, 30:62] = 1
    padded = F.pad(mask, (0, -70 % stride, 0, -65 % stride))
    cells = F.avg_pool2d(padded[None], stride)
    whole = upsample(score_planes([cells], (65, 70), stride), (65, 70))[0] > 0.5
    overlap = (whole & (mask > 0)).sum() / (whole | (mask > 0)).sum()
    assert overlap > {4: 0.93, 8: 0.85, 16: 0.75}[stride]


def test_planes_at_stride_4_give_back_what_they_can():
    rng = np.random.default_rng(0)
    planes = torch.from_numpy(rng.random((3, 9, 12), dtype=np.float32))
    assert torch.allclose(at_stride4(upsample(planes, (36, 48))), planes, atol=1e-5)
    assert torch.allclose(at_stride4(upsample(planes, (34, 45))), planes, atol=1e-4)
    rows, columns = torch.meshgrid(torch.arange(34.0), torch.arange(45.0), indexing="ij")
    ramp = torch.stack([rows / 34, columns / 45])
    kept = at_stride4(ramp)
    assert kept.shape == (2, 9, 12)
    assert torch.allclose(upsample(kept, (34, 45)), ramp, atol=0.03)
    assert torch.allclose(upsample(kept, (34, 45))[:, 8:-8, 8:-8], ramp[:, 8:-8, 8:-8], atol=2e-3)
    step = (columns > 20).float()[None]
    nearest = at_stride4(step)
    assert (nearest >= 0).all()
    assert (nearest <= 1).all()
    shifted = (nearest + 0.01).clamp(0, 1)
    errors = [(upsample(p, (34, 45)) - step).square().mean() for p in (nearest, shifted)]
    assert errors[0] < errors[1]
    for length in (1, 2, 5):
        assert torch.allclose(at_stride4(torch.full((1, length, 3), 0.5)), torch.tensor(0.5))


def test_extraction_keeps_present_classes_and_images_without_any(tmp_path):
    drawn = open_samples("scenes:images=6", "train")
    labels = drawn.labels.copy()
    labels[2] = False
    scenes = replace(drawn, labels=labels)

    def brightness(pair, keys):
        level = F.avg_pool2d(pair[0].mean(0)[None], 8, ceil_mode=True)
        return level.abs() * torch.arange(1, 9).view(8, 1, 1)[keys]

    views = Views(scales=(1.0, 0.5), mean=MEAN, std=STD, stride=8)
    write_scores(tmp_path, extract(scenes, range(6), multiscale_planes(brightness, views)))
    for i, scores in enumerate(ScoreMaps(tmp_path)):
        assert scores.keys.tolist() == np.flatnonzero(labels[i]).tolist()
        whole = upsample(scores.planes, scores.size)
        assert whole.shape == (len(scores.keys), *scenes.image(i).shape[:2])
        assert (whole.amax((1, 2)) > 0.9).all()
    assert len(ScoreMaps(tmp_path)[2].keys) == 0
    score, best = best_class(whole[:0], scores.keys[:0])
    assert score.shape == best.shape == whole.shape[1:]
    assert not score.any()


def test_compact_maps_cost_less_than_a_twentieth_of_a_point(tmp_path, voc_mini):
    """Real masks, made into maps of stride 16 that leak and miss as those of a classifier do."""
    samples = open_samples(f"voc2012:{voc_mini}", "train")
    chosen = range(0, len(samples), 9)
    rng = np.random.default_rng(0)
    histograms = {name: torch.zeros((102, 20, 21), dtype=torch.int64) for name in ("float", "8bit")}

    def fuzzy(i):
        mask, keys = torch.from_numpy(samples.mask(i)), present(samples, i)
        planes = (mask == (keys + 1).view(-1, 1, 1)).float()[None]
        grids = [tuple(-(-side // stride) for side in mask.shape) for stride in (16, 32)]
        noise = [torch.from_numpy(rng.random((len(keys), *g), dtype=np.float32)) for g in grids]
        cells = [F.interpolate(planes, g, mode="area")[0] for g in grids]
        return [F.avg_pool2d(c, 3, 1, 1) * (0.4 + n) for c, n in zip(cells, noise, strict=True)]

    def truth(i):
        return torch.from_numpy(samples.mask(i))

    def counted(name, i, planes):
        score, best = best_class(planes, present(samples, i))
        histograms[name] += threshold_histogram(score, best, truth(i), 100, 21)

    stored = []
    for i in chosen:
        maps, size = fuzzy(i), tuple(truth(i).shape)
        counted("float", i, fused_high_res(maps, size))
        planes = score_planes(maps, size, 16)
        stored.append(ScoreMap(samples.ids[i], present(samples, i), planes, size))
    write_scores(tmp_path, stored, bits=8)
    for i, scores in zip(chosen, ScoreMaps(tmp_path), strict=True):
        counted("8bit", i, upsample(scores.planes, scores.size))
    curves = {name: 100 * mean_iou(threshold_curve(h)) for name, h in histograms.items()}
    assert 40 < curves["float"].max() < 90
    assert abs(curves["float"].max() - curves["8bit"].max()) < 0.05
    assert abs(curves["float"][21] - curves["8bit"][21]) < 0.05
