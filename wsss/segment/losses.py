"""What a segmentation network is trained with: cross entropy on every grid that it answers on.

As in kazuto1011/deeplab-pytorch, logits are not enlarged: the label map is resized to the grid of
each of them by Pillow's nearest pixel, and pixels labelled 255 count for nothing.

    L = sum over the outputs o of CE(o, label at o)          mean over the labelled pixels

"balanced" is AdvCAM's cure for a training that ends in background, after DSRG (Huang et al., CVPR
2018): the mean over foreground pixels plus the mean over background pixels, of the whole batch.

Pixels are counted over all ranks (`wsss.ranks`): of its part of a batch, each returns a value whose
mean over the ranks is the loss of the whole.

Where we differ from the release: a batch without a labelled pixel has loss 0, where it divides 0 by
0 and all weights become NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from wsss.config.segment import SegmentationTraining
from wsss.data.samples import VOID
from wsss.ranks import ranks, summed
from wsss.segment.aamr import aamr_proposed


def label_at(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Label maps [B, H, W] on a grid of this size, by the nearest pixel: [B, *size]."""
    if tuple(label.shape[-2:]) == size:
        return label
    places = (_nearest(was, now) for was, now in zip(label.shape[-2:], size, strict=True))
    rows, columns = (torch.tensor(place, device=label.device) for place in places)
    return label[:, rows[:, None], columns]


@cache
def _nearest(length: int, size: int) -> list[int]:
    """Which of `length` pixels Pillow takes for each of `size`; its rounding is its own."""
    line = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    taken: list[int] = np.array(line.resize((size, 1), Image.Resampling.NEAREST))[0].tolist()
    return taken


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean of -log softmax over the labelled pixels; 0 where there are none.

    Logits [B, K, h, w], and the label map on their grid, uint8 [B, h, w] with 255 for open.
    """
    return _mean(_surprise(logits, label), label != VOID)


def balanced_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """The mean over foreground pixels plus that over background pixels, each 0 without any."""
    surprise, background = _surprise(logits, label), label == 0
    return _mean(surprise, ~background & (label != VOID)) + _mean(surprise, background)


def segmentation_losses(
    outputs: Sequence[Tensor], label: Tensor, config: SegmentationTraining, *target: Tensor
) -> dict[str, Tensor]:
    """The terms of a step: "loss", and where it has two parts "pixels" and "aamr".

    Outputs [B, K, h, w], each on a grid of its own, and the label map uint8 [B, H, W]; with a mask
    refinement loss its `target` too, uint8 [B, H, W], see `wsss.segment.aamr`.
    """
    of = cross_entropy if config.loss == "ce" else balanced_cross_entropy
    sizes = [(logits.shape[-2], logits.shape[-1]) for logits in outputs]
    pairs = list(zip(outputs, sizes, strict=True))
    pixels = torch.stack([of(logits, label_at(label, size)) for logits, size in pairs]).sum()
    if not target:
        return {"loss": pixels}
    settled = target[0].masked_fill(label == VOID, VOID)
    pulls = [aamr_proposed(logits, label_at(settled, size)) for logits, size in pairs]
    aamr = torch.stack(pulls).sum()
    return {"loss": pixels + config.aamr_weight * aamr, "pixels": pixels, "aamr": aamr}


def _surprise(logits: Tensor, label: Tensor) -> Tensor:
    """-log softmax of each pixel's label [B, h, w]; 0 where it is open."""
    return F.cross_entropy(logits, label.long(), ignore_index=VOID, reduction="none")


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return ranks() * (values * where).sum() / summed(where.sum()).clamp(min=1)
