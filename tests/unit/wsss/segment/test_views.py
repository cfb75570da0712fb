from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.config.segment import SegmentationTraining
from wsss.data import open_samples
from wsss.data.transforms import normalise
from wsss.segment.views import segmentation_examples, segmentation_view
from wsss.training import drawn

CONFIG = SegmentationTraining(crop=48, batch=3, accumulation=2, scales=(0.5, 1.0, 1.5), seed=4)
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def scenes():
    return open_samples("scenes:images=9", "train")


def grid(height, width):
    """An image whose red and green say where a pixel lies, and a label map that says it too."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1)
    return image, rows, columns


def shown(size, scale, seed, crop=48):
    image, rows, columns = grid(*size)
    config = replace(CONFIG, scales=(scale,), crop=crop)
    rng = np.random.default_rng(seed)
    return segmentation_view(image, [rows, columns], config, (0.0,) * 3, (1 / 255,) * 3, rng)


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.5])
@pytest.mark.parametrize("size", [(60, 90), (200, 33)])
def test_image_and_labels_stay_together(size, scale):
    for seed in range(6):
        view, rows, columns = shown(size, scale, seed)
        assert view.shape == (3, 48, 48)
        assert view.dtype == torch.float32
        assert rows.shape == columns.shape == (48, 48)
        assert rows.dtype == torch.uint8
        inside = rows != 255
        assert torch.equal(inside, columns != 255)
        assert not view[:, ~inside].any()
        apart = view[:2, inside] - torch.stack([rows[inside], columns[inside]])
        assert apart.abs().max() <= 0.5 / scale + 0.5


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.25])
def test_what_is_missing_is_filled_on_the_right_and_below(scale):
    height, width = int(30 * scale), int(41 * scale)
    mirrored = set()
    for seed in range(8):
        _, rows, columns = shown((30, 41), scale, seed, crop=64)
        flipped = bool(columns[0, 0] == 255)
        columns, rows = (p.flip(-1) if flipped else p for p in (columns, rows))
        assert (rows[:height, :width] != 255).all()
        assert (rows[height:] == 255).all()
        assert (rows[:, width:] == 255).all()
        mirrored.add(flipped)
    assert mirrored == {True, False}


def test_an_image_is_resized_without_smoothing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    config = replace(CONFIG, scales=(0.5,), crop=20)
    view, _ = segmentation_view(
        image, [image[..., 0]], config, (0.0,) * 3, (1.0,) * 3, np.random.default_rng(3)
    )
    halved = F.avg_pool2d(torch.from_numpy(image / 255).permute(2, 0, 1), 2).float()
    best = min((view - seen).abs().max() for seen in (halved, halved.flip(-1)))
    assert best < 1e-6


def test_every_place_is_drawn():
    image, rows, columns = grid(54, 54)
    config = replace(CONFIG, scales=(1.0,))
    corners = set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        _, down, across = segmentation_view(image, [rows, columns], config, HALF, HALF, rng)
        corners.add((int(down.min()), int(across.min())))
    assert {row for row, _ in corners} == {column for _, column in corners} == set(range(7))
    assert len(corners) > 40


def test_every_scale_is_drawn():
    image, rows, _ = grid(20, 20)
    heights = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        _, down = segmentation_view(image, [rows], CONFIG, HALF, HALF, rng)
        heights.add(int((down.amin(1) != 255).sum()))
    assert heights == {10, 20, 30}


def test_examples_are_a_function_of_seed_and_step(scenes):
    examples = segmentation_examples(scenes, [scenes.mask], CONFIG, HALF, HALF)
    step = [make() for make in examples(3)]
    again = [make() for make in segmentation_examples(scenes, [scenes.mask], CONFIG, HALF, HALF)(3)]
    assert len(step) == 6
    for one, other in zip(step, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    other = segmentation_examples(scenes, [scenes.mask], replace(CONFIG, seed=5), HALF, HALF)(3)
    assert any(not torch.equal(a[0], make()[0]) for a, make in zip(step, other, strict=True))


def test_examples_show_the_images_that_are_drawn_with_every_label_map(scenes):
    config = replace(CONFIG, scales=(1.0,), crop=128)
    asked = []

    def labels(i):
        asked.append(i)
        return scenes.mask(i)

    examples = segmentation_examples(scenes, [labels, scenes.mask], config, HALF, HALF)
    for make, i in zip(examples(1), drawn(9, 6, config.seed, 1), strict=True):
        view, label, target = make()
        assert asked.pop() == i
        assert torch.equal(label, target)
        whole = normalise(scenes.image(i), HALF, HALF)
        assert float(view.sum()) == pytest.approx(float(whole.sum()), abs=0.5)


def test_what_does_not_fit_is_named(scenes):
    def examples(labels, config=CONFIG):
        return segmentation_examples(scenes, [labels], config, HALF, HALF)

    with pytest.raises(ValueError, match="batch 5 times accumulation 2 is 10 but the split has 9"):
        examples(scenes.mask, replace(CONFIG, batch=5))
    with pytest.raises(ValueError, match=r"label map of .* is \(2, 2\), not \("):
        examples(lambda i: np.zeros((2, 2), dtype=np.uint8))(0)[0]()
    with pytest.raises(ValueError, match="holds the id 30 but there are 8 classes"):
        examples(lambda i: scenes.mask(i) * 0 + 30)(0)[0]()
