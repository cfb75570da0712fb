"""From score planes to label maps: what an affinity or a segmentation network is trained on.

IRN (arXiv 1904.05044) and ReCAM (arXiv 2203.00962) cut score planes with a constant plane t for the
background. A label map is *local* where it holds places among the image's own classes, 0 for
background and n for the n-th key, and holds class ids otherwise.

    seed    s_t = argmax [t, P_1, ..., P_n]                  the first of equals wins
    IR      hi = CRF(s_fg), lo = CRF(s_bg)                   what is sure, for affinities
            hi where hi > 0; 0 where hi = lo = 0; else 255
    pseudo  argmax [t, R_1, ..., R_n]                        R: planes after the walk

All are uint8 [H, W]: 0 background, class id, 255 for open. An image without a class is background.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsss.cam.scores import ScoreMap, upsample
from wsss.config.refine import CRF, Ignore, IRLabels, PseudoLabels
from wsss.data.label_maps import Labels
from wsss.data.samples import VOID, Samples
from wsss.metrics import confusion_matrix, seed_label, void_as_background
from wsss.refine.crf import crf_labels


def local_seed(planes: Tensor, threshold: float) -> Tensor:
    """The local label of score planes [n, H, W] cut at `threshold`, uint8 [H, W]."""
    return seed_label(planes, torch.arange(len(planes), device=planes.device), threshold)


def ir_label(hi: Tensor, lo: Tensor, keys: Tensor) -> Tensor:
    """What two local labels [H, W] agree on: hi's class; background where both say so; else 255.

    `keys` [n] are the image's classes, 0-based, without background.
    """
    ids = torch.cat([keys.new_zeros(1), keys + 1]).to(torch.uint8)
    return ids[hi.long()].masked_fill((hi == 0) & (lo != 0), VOID)


def refined_ir_label(
    image: npt.NDArray[np.uint8], hi: Tensor, lo: Tensor, keys: Tensor, crf: CRF
) -> Tensor:
    """`ir_label` of two local labels, each refined by the CRF on the image, uint8 [H, W, 3]."""
    n = len(keys) + 1
    return ir_label(crf_labels(image, hi, n, crf), crf_labels(image, lo, n, crf), keys)


def seed_ir_label(image: npt.NDArray[np.uint8], scores: ScoreMap, config: IRLabels) -> Tensor:
    """The IR label of an image, uint8 [H, W, 3], from the seeds of its score map."""
    planes = upsample(scores.planes, scores.size)
    hi, lo = (local_seed(planes, t) for t in (config.threshold_fg, config.threshold_bg))
    return settled(refined_ir_label(image, hi, lo, scores.keys, config.crf), config.ignore)


def pseudo_label(scores: ScoreMap, config: PseudoLabels) -> Tensor:
    """The label map of scores after the walk; it leaves nothing open."""
    return seed_label(upsample(scores.planes, scores.size), scores.keys, config.threshold)


def settled(label: Tensor, ignore: Ignore) -> Tensor:
    """A label map with its open pixels, 255, kept or made background."""
    return label if ignore == "keep" else void_as_background(label)


def label_confusion(labels: Labels, masks: Samples, progress: Callable[[int, int], None]) -> Tensor:
    """Confusion of label maps with `masks`, int64 [K, K], rows truth; open pixels are background.

    Raises ValueError where an image of `masks` has no label map, or one of another size.
    """
    labels.check(masks.ids)
    classes = len(masks.classes) + 1
    confusion = torch.zeros((classes, classes), dtype=torch.int64)
    for i, name in enumerate(masks.ids):
        truth, label = masks.mask(i), labels[name]
        if label.shape != truth.shape:
            raise ValueError(f"label map of {name} is {label.shape} but its mask {truth.shape}")
        found = void_as_background(torch.from_numpy(label))
        confusion += confusion_matrix(torch.from_numpy(truth), found, classes)
        progress(i + 1, len(masks))
    return confusion
