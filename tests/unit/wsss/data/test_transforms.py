"""The training view and its parts beyond the recorded operations of tests/parity."""

import numpy as np
import pytest
import torch

from wsss.data.transforms import (
    flip,
    normalise,
    padded_size,
    random_crop,
    rescaled_size,
    strided_size,
    training_view,
)

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def view(image: np.ndarray, seed: int, long_side=(48, 80), crop: int = 64) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return training_view(image, long_side=long_side, crop=crop, mean=MEAN, std=STD, rng=rng)[0]


def test_sizes_of_the_papers():
    assert strided_size(281, 500, 4) == (71, 125)
    assert strided_size(281, 500, 16) == (18, 32)
    assert padded_size(281, 500, 16) == (288, 512)
    assert rescaled_size(281, 375, 0.5) == (140, 188)


def test_normalise_by_hand():
    pixel = np.array([[[255, 0, 153]]], dtype=np.uint8)
    expected = torch.tensor([(1 - 0.5) / 0.2, -0.4 / 0.25, (0.6 - 0.3) / 0.5])
    assert torch.allclose(normalise(pixel, MEAN, STD).flatten(), expected)


def test_flip_mirrors_columns():
    plane = torch.arange(6).view(1, 2, 3)
    assert flip(plane).tolist() == [[[2, 1, 0], [5, 4, 3]]]


def test_random_crop_reaches_every_offset_of_a_larger_and_a_smaller_plane():
    rng = np.random.default_rng(0)
    plane = torch.arange(1.0, 6).expand(2, 5)  # 2 x 5 on a 3 x 3 canvas
    crops = {tuple(random_crop(plane, 3, rng).flatten().tolist()) for _ in range(100)}
    windows = [(1.0, 2.0, 3.0), (2.0, 3.0, 4.0), (3.0, 4.0, 5.0)]
    zeros = (0.0, 0.0, 0.0)
    assert crops == {c for w in windows for c in (w + w + zeros, zeros + w + w)}


def test_a_view_is_float32_of_the_crop_size_and_repeats_with_its_generator():
    image = np.random.default_rng(1).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    views = [view(image, seed) for seed in range(8)]
    assert all(v.shape == (3, 64, 64) and v.dtype == torch.float32 for v in views)
    assert torch.equal(views[3], view(image, 3))
    assert len({float(v.sum()) for v in views}) == 8


def test_a_view_pads_with_the_mean_colour_and_keeps_the_aspect():
    image = np.full((40, 80, 3), 255, dtype=np.uint8)
    padded = view(image, 0, long_side=(60, 60))
    inside = padded[0] != 0
    assert int(inside.any(1).sum()) == 30
    assert int(inside.any(0).sum()) == 60


def test_half_of_the_views_are_mirrored():
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[:, :32] = 255
    left_is_bright = [bool(view(image, s, (64, 64))[0, 0, 0] > 0) for s in range(200)]
    assert 70 < sum(left_is_bright) < 130


def test_the_longer_side_covers_the_inclusive_range():
    image = np.full((10, 10, 3), 255, dtype=np.uint8)
    sides = {int((view(image, s, (20, 22))[0] != 0).any(0).sum()) for s in range(40)}
    assert sides == {20, 21, 22}


@pytest.mark.parametrize("crop", [32, 100])
def test_global_random_state_is_left_alone(crop: int):
    image = np.zeros((50, 40, 3), dtype=np.uint8)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    view(image, 5, crop=crop)
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])
