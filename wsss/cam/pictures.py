"""Pictures of seeds: what two methods' score maps look like, and what thresholds are worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsss.cam.scores import ScoreMaps, upsample
from wsss.data.samples import Samples, class_ids
from wsss.figures import (
    Panel,
    Row,
    class_bars,
    confused_pairs,
    overlays,
    png_bytes,
    threshold_curves,
)
from wsss.metrics import confusion_matrix, iou, mean_iou, seed_label, thresholds


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """One method: its maps, their curve [T, K, K], and the threshold at which it is drawn."""

    name: str
    maps: ScoreMaps
    curve: Tensor
    threshold: float

    @property
    def confusion(self) -> Tensor:
        """Of the maps cut at the threshold, int64 [K, K]."""
        return self.curve[round(self.threshold * (len(self.curve) - 1))]


def seed_pictures(
    methods: Sequence[Drawn], masks: Samples, wanted: Sequence[str], images: int
) -> Iterator[tuple[str, bytes]]:
    """File names and PNGs: threshold curve, overlays, IoU of each class, confused classes.

    `wanted` names the classes of the curve's mIoU (background among them), () for all that occur.
    """
    only = class_ids(masks.classes, wanted)
    curves = {m.name: mean_iou(m.curve, only).numpy()[None] for m in methods}
    at = thresholds(len(methods[0].curve) - 1).numpy()
    chosen = {m.name: m.threshold for m in methods}
    yield "threshold_curve.png", png_bytes(threshold_curves(curves, at, chosen))
    rows = [_row(masks, i, methods) for i in _shown(masks, images)]
    yield "overlays.png", png_bytes(overlays(rows))
    per_class = {m.name: iou(m.confusion).numpy() for m in methods}
    counts = masks.labels.sum(0)
    yield "class_iou.png", png_bytes(class_bars(per_class, masks.classes, counts))
    for method in methods:
        figure = confused_pairs(method.confusion.numpy(), masks.classes)
        yield f"confused_{method.name.lower()}.png", png_bytes(figure)


def _shown(masks: Samples, images: int) -> list[int]:
    """Images spread over the split, such as show two classes or more where there are enough."""
    several = np.flatnonzero(masks.labels.sum(1) > 1)
    chosen = several if len(several) >= images else np.arange(len(masks))
    places = np.linspace(0, len(chosen) - 1, min(images, len(chosen))).round().astype(int)
    return [int(chosen[place]) for place in places]


def _row(masks: Samples, i: int, methods: Sequence[Drawn]) -> Row:
    """The image with its panels: class by class, the methods side by side."""
    truth = masks.mask(i)
    by_method = [
        _panels(method, masks.ids[i], torch.from_numpy(truth), masks) for method in methods
    ]
    panels = [panel for same_class in zip(*by_method, strict=True) for panel in same_class]
    return Row(id=masks.ids[i], image=masks.image(i), truth=truth, panels=tuple(panels))


def _panels(method: Drawn, name: str, truth: Tensor, masks: Samples) -> Iterator[Panel]:
    scores = method.maps[method.maps.ids.index(name)]
    planes = upsample(scores.planes, scores.size)
    label = seed_label(planes, scores.keys, method.threshold)
    per_class = iou(confusion_matrix(truth, label, len(masks.classes) + 1))
    for key, plane in zip(scores.keys.tolist(), planes, strict=True):
        yield Panel(
            method=method.name,
            name=masks.classes[key],
            id=key + 1,
            scores=plane.numpy(),
            threshold=method.threshold,
            iou=float(per_class[key + 1]),
        )
