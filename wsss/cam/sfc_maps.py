"""SFC's two maps of an image: extraction, storage, and how they become plain score maps.

For each scale s, `pair_maps` gives M_s and P_s of an image and its mirror image, each with a
background plane 0 and the planes c of the present classes. As released:

    M = sum_s resize(M_s, H x W)      each plane / (max + 1e-5)       bilinear, corners not aligned

and P likewise. The release stores M_0 + 0.4 and 2 M_c at full resolution; we store M as it is, at
stride 4, from where it comes back to within 0.05 mIoU. Decisions are an argmax over planes

    F = (m M + p P) / (m + p)         label = argmax [F_0 + bias, gain F_1, gain F_2, ...]

with (m, p) = (0, 1) in its evaluation, (1, 0.7) for labels of IRN, (1, 0.3) for the walk, (1, 1) in
the paper. A class beats background where gain F_c - F_0 > bias, and another class where it has the
higher of these; so

    s_c = (gain F_c - F_0 + 1) / (gain + 1)      in [0, 1]

are plain scores, and a bias is a threshold (bias + 1) / (gain + 1) on them: the same labels, ties
to background included, and the curve over all biases is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.cam.scores import (
    MapSource,
    ScoreMap,
    at_stride4,
    fused,
    max_normalised,
    multiscale_maps,
    present,
    write_scores,
)
from wsss.cam.sfc import SFCNet, pair_maps
from wsss.config.sfc import SFCFusion, SFCMaps
from wsss.data.samples import Samples

BACKGROUND = -1
"""The key, first of all, of a background plane."""


class SFCScores(NamedTuple):
    """One image's two maps, each with the key `BACKGROUND` first; not shifted."""

    classifier: ScoreMap
    """M."""
    prototype: ScoreMap
    """P."""


def both_maps(net: SFCNet, config: SFCMaps) -> MapSource:
    """M above P of an image with the classes `keys` [n]: [2 + 2 n, h, w], background first."""

    def source(pair: Tensor, keys: Tensor) -> Tensor:
        labels = torch.zeros(1, net.classifier.out_channels, device=pair.device)
        labels[0, keys] = 1
        with torch.inference_mode():
            maps = pair_maps(
                net,
                pair,
                labels,
                bg_factor=config.bg_factor,
                compat=config.compat,
                precision=config.precision,
            )
        rows = F.pad(keys + 1, (1, 0))
        return torch.cat([maps.classifier[0, rows], maps.prototype[0, rows]])

    return source


def sfc_maps(
    net: SFCNet, image: npt.NDArray[np.uint8], keys: Tensor, config: SFCMaps
) -> tuple[Tensor, Tensor]:
    """M and P of uint8 [H, W, 3] with the classes `keys` [n], each [1 + n, H, W], background first.

    They are multi-scale and mirrored, at full resolution, in [0, 1].
    """
    maps = multiscale_maps(image, both_maps(net, config), keys, net.views(config.scales))
    height, width = image.shape[:2]
    classifier, prototype = fused_both(maps, (height, width))
    return classifier, prototype


def fused_both(maps: Iterable[Tensor], size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Maps [2 k, h_s, w_s] of several scales to the two halves at the `size`, [k, H, W] each."""
    return max_normalised(fused(maps, size)).chunk(2)


def extract_sfc(
    samples: Samples, indices: Iterable[int], net: SFCNet, config: SFCMaps
) -> Iterator[SFCScores]:
    """Both maps of the images at `indices`, each for the classes of its image-level label.

    An image without a class is all background, and no network looks at it.
    """
    for i in indices:
        image, keys = samples.image(i), present(samples, i)
        size = (image.shape[0], image.shape[1])
        blank = torch.ones(1, *size)
        found = sfc_maps(net, image, keys, config) if len(keys) else (blank, blank)
        rows = F.pad(keys, (1, 0), value=BACKGROUND)
        yield SFCScores(*(ScoreMap(samples.ids[i], rows, at_stride4(m), size) for m in found))


def write_sfc(
    folder: Path, maps: Iterable[SFCScores], *, first: int, config: SFCMaps, per_shard: int = 256
) -> None:
    """Write both maps as they come, into the folders "classifier" and "prototype" of `folder`.

    `first` is the place of the first image among all of the split, see `write_scores`.
    """
    remaining = iter(maps)
    while shard := list(islice(remaining, per_shard)):
        for name, part in zip(SFCScores._fields, zip(*shard, strict=True), strict=True):
            write_scores(folder / name, part, first=first, bits=config.bits, per_shard=per_shard)
        first += len(shard)


def mixture(classifier: ScoreMap, prototype: ScoreMap, config: SFCFusion) -> Tensor:
    """F [1 + n, h, w], background first, of the two maps of an image.

    Raises ValueError where they are of two images, or lack the background.
    """
    for name, found in zip(SFCScores._fields, (classifier, prototype), strict=True):
        if not len(found.keys) or found.keys[0] != BACKGROUND:
            raise ValueError(f"the {name} map of {found.id} has no background plane first")
    if classifier.id != prototype.id or not torch.equal(classifier.keys, prototype.keys):
        raise ValueError(f"the maps of {classifier.id} and {prototype.id} are not of one image")
    m, p = config.classifier_weight, config.prototype_weight
    return (m * classifier.planes + p * prototype.planes) / (m + p)


def plain_scores(classifier: ScoreMap, prototype: ScoreMap, config: SFCFusion) -> ScoreMap:
    """The plain score map that the two make: above `SFCFusion.threshold` is its best class."""
    background, *_ = planes = mixture(classifier, prototype, config)
    scores = (config.gain * planes[1:] - background + 1) / (config.gain + 1)
    return ScoreMap(classifier.id, classifier.keys[1:], scores.clamp(0, 1), classifier.size)


def sfc_source(net: SFCNet, config: SFCMaps, fusion: SFCFusion) -> MapSource:
    """SFC's foreground maps of the classes asked for, as any classifier's.

    They are mixed with the weights of `fusion`, each divided by its own maximum before, because M
    is low after its smoothing. Background takes part only in how they were made.
    """

    def source(pair: Tensor, keys: Tensor) -> Tensor:
        m, p = max_normalised(both_maps(net, config)(pair, keys)).chunk(2)
        return fusion.classifier_weight * m[1:] + fusion.prototype_weight * p[1:]

    return source
