"""Pictures of labels: what the seeds, the CRF and the walk make of an image, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from wsss.cam.pictures import shown_images
from wsss.cam.scores import ScoreMap, upsample
from wsss.data.samples import Samples
from wsss.figures import Step, Strip, film_strips, png_bytes
from wsss.metrics import confusion_matrix, mean_iou, seed_label, void_as_background

LabelOf = Callable[[int], Tensor]
"""Image number to a label map, uint8 [H, W] with 255 for open."""


def label_pictures(
    stages: Sequence[tuple[str, LabelOf]], masks: Samples, images: int
) -> Iterator[tuple[str, bytes]]:
    """File name and PNG of the film strips of some images; `stages` are named in their order."""
    strips = [_strip(masks, i, stages) for i in shown_images(masks, images)]
    yield "strips.png", png_bytes(film_strips(strips))


def cut_at(maps: Sequence[ScoreMap], threshold: float) -> LabelOf:
    """The labels of score maps at a `threshold`; the maps are those of the images, in order."""

    def label(i: int) -> Tensor:
        found = maps[i]
        return seed_label(upsample(found.planes, found.size), found.keys, threshold)

    return label


def _strip(masks: Samples, i: int, stages: Sequence[tuple[str, LabelOf]]) -> Strip:
    truth = torch.from_numpy(masks.mask(i))
    steps = []
    for name, label_of in stages:
        label = label_of(i)
        confusion = confusion_matrix(truth, void_as_background(label), len(masks.classes) + 1)
        steps.append(Step(name=name, label=label.numpy(), iou=float(mean_iou(confusion))))
    return Strip(id=masks.ids[i], image=masks.image(i), truth=truth.numpy(), steps=tuple(steps))
