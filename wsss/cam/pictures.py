"""Pictures of seeds: what two methods' score maps look like, and what thresholds are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsss.cam.scores import ScoreMaps, upsample
from wsss.cam.seeds import best_index
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
    """One method: its maps, and their curve [T, K, K]."""

    name: str
    maps: ScoreMaps
    curve: Tensor


def seed_pictures(
    methods: Sequence[Drawn], masks: Samples, wanted: Sequence[str], images: int
) -> Iterator[tuple[str, bytes]]:
    """File names and PNGs: threshold curve, overlays, IoU of each class, confused classes.

    `wanted` names the classes that mIoU averages (background among them), () for all that occur.
    Each method is drawn at its best threshold, so that they are compared at their best.
    """
    only = class_ids(masks.classes, wanted)
    at = thresholds(len(methods[0].curve) - 1)
    best = {m.name: best_index(m.curve, only) for m in methods}
    chosen = {name: float(at[place]) for name, place in best.items()}
    curves = {m.name: mean_iou(m.curve, only).numpy()[None] for m in methods}
    yield "threshold_curve.png", png_bytes(threshold_curves(curves, at.numpy(), chosen))
    rows = [_row(masks, i, methods, chosen) for i in shown_images(masks, images)]
    yield "overlays.png", png_bytes(overlays(rows))
    cut = {m.name: m.curve[best[m.name]] for m in methods}
    per_class = {name: _restricted(iou(confusion), only) for name, confusion in cut.items()}
    yield "class_iou.png", png_bytes(class_bars(per_class, masks.classes, masks.labels.sum(0)))
    for name, confusion in cut.items():
        figure = confused_pairs(confusion.numpy(), masks.classes)
        yield f"confused_{name.lower()}.png", png_bytes(figure)


def _restricted(scores: Tensor, only: Sequence[int] | None) -> npt.NDArray[np.float64]:
    """Scores [K] of the classes `only`, NaN for the others."""
    kept = torch.full_like(scores, torch.nan)
    kept[only or ...] = scores[only or ...]
    return kept.numpy()


def shown_images(masks: Samples, images: int) -> list[int]:
    """Images spread over the split, such as show two classes or more where there are enough."""
    several = np.flatnonzero(masks.labels.sum(1) > 1)
    chosen = several if len(several) >= images else np.arange(len(masks))
    places = np.linspace(0, len(chosen) - 1, min(images, len(chosen))).round().astype(int)
    return [int(chosen[place]) for place in places]


def _row(masks: Samples, i: int, methods: Sequence[Drawn], chosen: Mapping[str, float]) -> Row:
    """The image with its panels: class by class, the methods side by side."""
    truth = torch.from_numpy(masks.mask(i))
    by_method = [_panels(m, chosen[m.name], masks.ids[i], truth, masks.classes) for m in methods]
    panels = [panel for same_class in zip(*by_method, strict=True) for panel in same_class]
    return Row(id=masks.ids[i], image=masks.image(i), truth=truth.numpy(), panels=tuple(panels))


def _panels(
    method: Drawn, threshold: float, name: str, truth: Tensor, classes: Sequence[str]
) -> Iterator[Panel]:
    scores = method.maps[method.maps.ids.index(name)]
    planes = upsample(scores.planes, scores.size)
    label = seed_label(planes, scores.keys, threshold)
    per_class = iou(confusion_matrix(truth, label, len(classes) + 1))
    for key, plane in zip(scores.keys.tolist(), planes, strict=True):
        yield Panel(
            method=method.name,
            name=classes[key],
            id=key + 1,
            scores=plane.numpy(),
            threshold=threshold,
            iou=float(per_class[key + 1]),
        )
