"""What is done to an image before a network sees it: resizing, normalising, flipping, cropping.

As in the released code of IRN and ReCAM: Pillow's bicubic (nearest for masks), sizes rounded half
to even, and normalising *before* any padding, so that the padding value 0 is the mean colour.
Random numbers come from the generator that is handed in, never from global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

_RESAMPLING = {"cubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}


def rescaled_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """Height and width times `factor`, each rounded half to even: 281 * 0.5 is 140."""
    return round(height * factor), round(width * factor)


def strided_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """Size of the grid that a network of this stride makes: ceil(height / stride), likewise."""
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def padded_size(height: int, width: int, multiple: int) -> tuple[int, int]:
    """The smallest size that is not smaller and a multiple of `multiple` on both sides."""
    rows, columns = strided_size(height, width, multiple)
    return rows * multiple, columns * multiple


def rescale(
    image: npt.NDArray[np.uint8], factor: float, order: Literal["cubic", "nearest"]
) -> npt.NDArray[np.uint8]:
    """Resize uint8 [H, W] or [H, W, 3] by `factor`: "cubic" for images, "nearest" for masks."""
    height, width = rescaled_size(image.shape[0], image.shape[1], factor)
    return np.array(Image.fromarray(image).resize((width, height), _RESAMPLING[order]))


def resize_long(image: npt.NDArray[np.uint8], long_side: int) -> npt.NDArray[np.uint8]:
    """Resize uint8 [H, W, 3] so that its longer side has `long_side` pixels; keeps the aspect."""
    return rescale(image, long_side / max(image.shape[:2]), "cubic")


def normalise(image: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(image / 255 - mean) / std for each channel: uint8 [H, W, 3] to float32 [3, H, W]."""
    levels = np.arange(256) / 255.0
    # One table a channel: computed in float64 and rounded once, as the published code does.
    tables = [((levels - m) / s).astype(np.float32) for m, s in zip(mean, std, strict=True)]
    return torch.from_numpy(np.stack([t[image[..., c]] for c, t in enumerate(tables)]))


def flip(plane: Tensor) -> Tensor:
    """Mirror [..., H, W] left to right."""
    return plane.flip(-1)


def crop(plane: Tensor, size: int, across: int, down: int, fill: float) -> Tensor:
    """Cut or place [..., H, W] on a `size` x `size` canvas of `fill`, each axis by itself.

    Along an axis where the plane is larger than the canvas the draw (`across`: horizontal, `down`:
    vertical) is where the window starts; otherwise it is where the plane is pasted. A draw lies in
    0..|length - size|.
    """
    height, width = plane.shape[-2:]
    read_rows, write_rows = _spans(height, size, down)
    read_columns, write_columns = _spans(width, size, across)
    canvas = plane.new_full((*plane.shape[:-2], size, size), fill)
    canvas[..., write_rows, write_columns] = plane[..., read_rows, read_columns]
    return canvas


def random_crop(plane: Tensor, size: int, rng: np.random.Generator, fill: float = 0.0) -> Tensor:
    """`crop` at a uniformly drawn place; draws the horizontal offset first."""
    height, width = plane.shape[-2:]
    across = int(rng.integers(abs(width - size), endpoint=True))
    down = int(rng.integers(abs(height - size), endpoint=True))
    return crop(plane, size, across, down, fill)


def top_left_crop(plane: Tensor, size: int, fill: float = 0.0) -> Tensor:
    """`crop` of the top left corner: cuts what is beyond `size`, fills what is missing."""
    return crop(plane, size, 0, 0, fill)


def training_view(
    image: npt.NDArray[np.uint8],
    *,
    long_side: tuple[int, int],
    crop: int,
    mean: Sequence[float],
    std: Sequence[float],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """One augmented view of uint8 [H, W, 3] for classifier training, float32 [3, crop, crop].

    The longer side becomes a uniform integer of the inclusive range `long_side`; normalised;
    mirrored with probability one half; cropped at random. With it comes where it is valid, float32
    [1, crop, crop]: 1 on the image and 0 on the canvas around it.
    """
    resized = resize_long(image, int(rng.integers(*long_side, endpoint=True)))
    view = normalise(resized, mean, std)
    if rng.random() < 0.5:
        view = flip(view)
    placed = random_crop(torch.cat([view, torch.ones_like(view[:1])]), crop, rng)
    return placed[:3], placed[3:]


def _spans(length: int, size: int, draw: int) -> tuple[slice, slice]:
    """Where to read in the plane and where to write on the canvas, along one axis."""
    extent = min(length, size)
    read, write = (draw, 0) if length > size else (0, draw)
    return slice(read, read + extent), slice(write, write + extent)
