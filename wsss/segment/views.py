"""What a segmentation network is shown of an image in training, with its label map.

As in kazuto1011/deeplab-pytorch: resized by one of a few factors, sides rounded down; placed at the
top left of a square of the mean colour and the label 255 where it is smaller; cut at random where
it is larger; mirrored with probability one half. Images are resized bilinearly between the pixels
at hand, without smoothing first, as OpenCV does; label maps by Pillow's nearest pixel.

Where we differ from the release: it draws from the global state of each of its workers, which
nobody seeds. The mean is subtracted before the image is resized, not behind, to the same effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from wsss.config.segment import SegmentationTraining
from wsss.data.samples import VOID, Samples
from wsss.data.transforms import crop, flip, normalise
from wsss.training import Example, Examples, drawn, view_rng

Bytes = npt.NDArray[np.uint8]

LabelOf = Callable[[int], Bytes]
"""Image number to its label map, uint8 [H, W] with 255 for open."""


def segmentation_view(
    image: Bytes,
    planes: Sequence[Bytes],
    config: SegmentationTraining,
    mean: Sequence[float],
    std: Sequence[float],
    rng: np.random.Generator,
) -> tuple[Tensor, ...]:
    """An augmented view, float32 [3, S, S], and each of the `planes` with it, uint8 [S, S].

    `image` is uint8 RGB [H, W, 3], planes are uint8 [H, W] of the same size.
    """
    scale = float(rng.choice(config.scales))
    height, width = (max(1, int(side * scale)) for side in image.shape[:2])
    whole = normalise(image, mean, std)[None]
    view = F.interpolate(whole, (height, width), mode="bilinear")[0]
    resized = [torch.from_numpy(_nearest(plane, height, width)) for plane in planes]
    down = int(rng.integers(max(height - config.crop, 0), endpoint=True))
    across = int(rng.integers(max(width - config.crop, 0), endpoint=True))
    placed = [crop(view, config.crop, across, down, 0)]
    placed += [crop(plane, config.crop, across, down, VOID) for plane in resized]
    return tuple(map(flip, placed)) if rng.random() < 0.5 else tuple(placed)


def _nearest(plane: Bytes, height: int, width: int) -> Bytes:
    return np.array(Image.fromarray(plane).resize((width, height), Image.Resampling.NEAREST))


def segmentation_examples(
    samples: Samples,
    labels: Sequence[LabelOf],
    config: SegmentationTraining,
    mean: Sequence[float],
    std: Sequence[float],
) -> Examples:
    """The examples of a step: `segmentation_view` of each image that `drawn` names.

    The first of `labels` holds class ids; any other is shown beside it. Raises ValueError where
    `samples` cannot fill a step, and in a step for a label map of another size than its image and
    for an id beyond the classes.
    """
    wanted = config.batch * config.accumulation
    if len(samples) < wanted:
        raise ValueError(
            f"batch {config.batch} times accumulation {config.accumulation} is {wanted}"
            f" but the split has {len(samples)} images"
        )

    def example(step: int, i: int) -> Example:
        image, planes = samples.image(i), [labels_of(i) for labels_of in labels]
        for plane in planes:
            if plane.shape != image.shape[:2]:
                raise ValueError(
                    f"label map of {samples.ids[i]} is {plane.shape}, not {image.shape[:2]}"
                )
        _check_ids(planes[0], samples, i)
        return segmentation_view(image, planes, config, mean, std, view_rng(config.seed, step, i))

    def examples(step: int) -> list[Callable[[], Example]]:
        return [partial(example, step, i) for i in drawn(len(samples), wanted, config.seed, step)]

    return examples


def _check_ids(label: Bytes, samples: Samples, i: int) -> None:
    """A CUDA kernel would die of an id beyond, without a word about the image."""
    beyond = label[(label > len(samples.classes)) & (label != VOID)]
    if beyond.size:
        raise ValueError(
            f"label map of {samples.ids[i]} holds the id {beyond[0]}"
            f" but there are {len(samples.classes)} classes"
        )
