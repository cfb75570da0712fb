"""Golden unit 7: resizing, normalising and cropping as in IRN's and ReCAM's code, bit for bit.

Cubic resizing is Pillow's; the recording is the same for Pillow 12.3 and 13.0.
"""

import numpy as np
import pytest
import torch

from wsss.data.transforms import (
    crop,
    normalise,
    padded_size,
    rescale,
    rescaled_size,
    resize_long,
    strided_size,
    top_left_crop,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def unit(golden):
    return golden("unit07_image_ops")


@pytest.fixture(scope="module")
def normalised(unit) -> torch.Tensor:
    return normalise(unit["image"], MEAN, STD)


def channels_last(plane: torch.Tensor) -> np.ndarray:
    return plane.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("factor", [0.25, 0.5, 0.75, 1.0, 1.5, 2.0])
def test_rescale(unit, factor: float):
    name = str(factor).replace(".", "_")
    cubic = rescale(unit["image"], factor, "cubic")
    np.testing.assert_array_equal(cubic, unit[f"rescale_cubic_{name}"], strict=True)
    nearest = rescale(unit["label"], factor, "nearest")
    np.testing.assert_array_equal(nearest, unit[f"rescale_nearest_{name}"], strict=True)


def test_random_scale_at_its_recorded_factor(unit):
    factor = 0.5 + 0.37 * (1.5 - 0.5)
    image = rescale(unit["image"], factor, "cubic")
    np.testing.assert_array_equal(image, unit["random_scale_img"], strict=True)
    label = rescale(unit["label"], factor, "nearest")
    np.testing.assert_array_equal(label, unit["random_scale_label"], strict=True)


@pytest.mark.parametrize("side", [64, 33, 57])
def test_resize_long(unit, side: int):
    resized = resize_long(unit["image"], side)
    np.testing.assert_array_equal(resized, unit[f"resize_long_{side}"], strict=True)


def test_resize_long_of_a_tall_image(unit):
    tall = np.ascontiguousarray(unit["image"].transpose(1, 0, 2))
    np.testing.assert_array_equal(resize_long(tall, 80), unit["resize_long_tall_80"], strict=True)


def test_normalise(unit, normalised):
    np.testing.assert_array_equal(channels_last(normalised), unit["normalised"], strict=True)


def test_top_left_crop(unit, normalised):
    for size in (32, 64):
        cropped = channels_last(top_left_crop(normalised, size))
        np.testing.assert_array_equal(cropped, unit[f"tl_crop_{size}_norm"], strict=True)
    for size in (50, 64):
        cropped = top_left_crop(torch.from_numpy(unit["label"]), size, fill=255).numpy()
        np.testing.assert_array_equal(cropped, unit[f"tl_crop_{size}_label"], strict=True)


@pytest.mark.parametrize(("size", "across", "down"), [(32, 3, 5), (64, 4, 9), (50, 6, 2)])
def test_crop_at_recorded_draws(unit, normalised, size: int, across: int, down: int):
    name = f"crop{size}_off_{across}_{down}"
    image = channels_last(crop(normalised, size, across, down, fill=0))
    np.testing.assert_array_equal(image, unit[f"{name}_img"], strict=True)
    label = crop(torch.from_numpy(unit["label"]), size, across, down, fill=255).numpy()
    np.testing.assert_array_equal(label, unit[f"{name}_label"], strict=True)


def test_grid_sizes(unit):
    for n, (height, width) in enumerate(unit["sizes_hw"].tolist()):
        assert strided_size(height, width, 4) == tuple(unit["sizes_strided4"][n])
        assert strided_size(height, width, 16) == tuple(unit["sizes_strided16"][n])
        assert padded_size(height, width, 16) == tuple(unit["sizes_up16"][n])
        for m, factor in enumerate(unit["size_scales"].tolist()):
            assert rescaled_size(height, width, factor) == tuple(unit["sizes_rescaled"][n, m])
