"""How good score maps are as seeds: their confusion with the masks at every threshold.

Published seed numbers are best-threshold numbers found with the masks of the training images (the
appendix of ReCAM says so). One pass gives the whole curve, so both readings are look-ups: the
oracle, and a threshold that was fixed before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsss.cam.scores import ScoreMaps, best_class, upsample
from wsss.config import LabelScore, SeedScore
from wsss.data.samples import Samples, class_ids
from wsss.metrics import (
    background_share,
    false_negatives,
    false_positives,
    iou,
    mean_iou,
    threshold_curve,
    threshold_histogram,
    threshold_index,
)


def seed_curve(
    maps: ScoreMaps, masks: Samples, bins: int, progress: Callable[[int, int], None]
) -> Tensor:
    """Confusion of `maps` with `masks` at thresholds k / bins, int64 [bins + 1, K, K].

    Raises ValueError where an image of `masks` has no maps.
    """
    classes = len(masks.classes) + 1
    histogram = torch.zeros((bins + 2, classes - 1, classes), dtype=torch.int64)
    for i, found in enumerate(maps.of(masks.ids)):
        score, best = best_class(upsample(found.planes, found.size), found.keys)
        truth = torch.from_numpy(masks.mask(i))
        histogram += threshold_histogram(score, best, truth, bins, classes)
        progress(i + 1, len(masks))
    return threshold_curve(histogram)


def write_curve(path: Path, curve: Tensor, classes: Sequence[str]) -> None:
    """Keep a curve with the names of its classes (without background)."""
    np.savez(path, allow_pickle=False, confusion=curve.numpy(), classes=np.array(classes))


def read_curve(path: Path) -> tuple[Tensor, tuple[str, ...]]:
    """The curve and its class names, background first."""
    with np.load(path, allow_pickle=False) as data:
        return torch.from_numpy(data["confusion"]), ("background", *data["classes"].tolist())


def seed_scores(curve: Tensor, names: Sequence[str], config: SeedScore) -> dict[str, float]:
    """What the curve says at one of its thresholds, or at the best for None.

    Returns "miou" (over the wanted classes), "threshold", and what `label_scores` says. Raises
    ValueError for a threshold between two, and for an unknown class.
    """
    bins, only = len(curve) - 1, class_ids(names[1:], config.classes)
    fixed = config.threshold
    at = best_index(curve, only) if fixed is None else threshold_index(fixed, bins)
    return {**label_scores(curve[at], names, config), "threshold": at / bins}


def label_scores(
    confusion: Tensor, names: Sequence[str], config: LabelScore
) -> dict[str, float]:
    """What the confusion [K, K] of label maps with masks says, under class `names`.

    Returns "miou" (over the wanted classes), "background_share" (of the pixels predicted as
    foreground, those that are background), "fp/..." and "fn/..." (wrong and missed pixels as shares
    of the union) of the background and as the mean over the other classes, "iou/NAME" for every
    class that occurs; "tail_miou" and "pair_confusion" where their classes are named. Raises
    ValueError for an unknown class.
    """
    wrong, missed = false_positives(confusion), false_negatives(confusion)
    found = {
        "miou": mean_iou(confusion, class_ids(names[1:], config.classes)),
        "background_share": background_share(confusion),
        "fp/background": wrong[0],
        "fn/background": missed[0],
        "fp/foreground": wrong[1:].nanmean(),
        "fn/foreground": missed[1:].nanmean(),
        **{f"iou/{name}": value for name, value in zip(names, iou(confusion), strict=True)},
    }
    if config.tail:
        found["tail_miou"] = mean_iou(confusion, class_ids(names[1:], config.tail))
    if config.pairs:
        found["pair_confusion"] = pair_confusion(confusion, names, config.pairs)
    return {name: float(value) for name, value in found.items() if not value.isnan()}


def pair_confusion(
    confusion: Tensor, names: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> Tensor:
    """Of all pixels of the classes in `pairs`, the share that was taken for its partner."""
    ids = [class_ids(names[1:], pair) or [] for pair in pairs]
    swapped = sum(confusion[a, b] + confusion[b, a] for a, b in ids)
    return torch.as_tensor(swapped).double() / sum(confusion[pair].sum() for pair in ids)


def best_threshold(curve: Tensor, names: Sequence[str], classes: Sequence[str]) -> float:
    """The threshold with the highest mIoU over `classes` (none: all); `names` as `read_curve`."""
    return best_index(curve, class_ids(names[1:], classes)) / (len(curve) - 1)


def best_index(curve: Tensor, only: Sequence[int] | None) -> int:
    """Place of the threshold with the highest mIoU over the class ids `only` (None: all)."""
    return int(mean_iou(curve, only).nan_to_num(-1).argmax())
