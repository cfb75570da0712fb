"""What SFC's maps become: label maps for affinity learning, and the scores of its two walks.

With the mixture F of `wsss.cam.sfc_maps` (weights 1 and 0.7) and B = F_0 + bias, the release takes
two label maps at full resolution, whose agreement after a CRF teaches IRN:

    hi = argmax [B, gain F_1, ...]          lo = argmax [B / 2, gain F_1, ...]

Its pseudo labels come from two random walks from Q = [B, gain F_1, ...] (weights 1 and 0.3)

    R1 = walk(Q_1.. ^ 1.3) / max            foreground alone, against a plane of 0.25
    R2 = walk((Q ^ 1.3) ^ 1.3) / max        with background

    label = argmax [0.25 + R2_0, R1_1 + R2_1, ...]

so s_c = R1_c + R2_c - R2_0 is what 0.25 is compared with: (s + 1) / 3 are plain scores in [0, 1],
and a plane t is the threshold (t + 1) / 3 on them. That is exact, because resizing is linear. The
maxima are those at full resolution. The release resizes Q from full resolution to the walk's grid,
and squeezes it a little where sides are no multiples of 4; ours is made of the stored planes, which
lie where the grid's cells do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsss.cam.scores import ScoreMap, upsample
from wsss.cam.sfc_maps import SFCScores, mixture
from wsss.config.sfc import SFCLabels, SFCWalk
from wsss.data.samples import Samples
from wsss.labels import refined_ir_label, settled
from wsss.refine.walk import Edges, random_walk


def sfc_seed_labels(
    classifier: ScoreMap, prototype: ScoreMap, config: SFCLabels
) -> tuple[Tensor, Tensor]:
    """The local labels hi and lo at full resolution: uint8 [H, W], 0 for background.

    n > 0 stands for the n-th class of the maps.
    """
    planes = upsample(mixture(classifier, prototype, config), classifier.size)
    return cut(planes, config)


def cut(planes: Tensor, config: SFCLabels) -> tuple[Tensor, Tensor]:
    """The local labels hi and lo of a mixture F [1 + n, H, W]: uint8 [H, W]."""
    background, classes = planes[:1] + config.bias, config.gain * planes[1:]
    hi = torch.cat([background, classes]).argmax(0)
    lo = torch.cat([config.low_share * background, classes]).argmax(0)
    return hi.to(torch.uint8), lo.to(torch.uint8)


def sfc_ir_label(
    image: npt.NDArray[np.uint8], classifier: ScoreMap, prototype: ScoreMap, config: SFCLabels
) -> Tensor:
    """The label map of an image, uint8 [H, W, 3], that teaches IRN; uint8 [H, W], 255 for open."""
    hi, lo = sfc_seed_labels(classifier, prototype, config)
    label = refined_ir_label(image, hi, lo, classifier.keys[1:], config.crf)
    return settled(label, config.ignore)


def sfc_walk_planes(
    classifier: ScoreMap, prototype: ScoreMap, edge: Tensor, config: SFCWalk
) -> Tensor:
    """The plain score planes of the two walks, [n, h, w] in [0, 1], on the CPU.

    `edge` [h, w] is on the maps' grid; the walks run where it lies. `SFCWalk.plane_threshold` says
    where the planes are cut.
    """
    planes, size = mixture(classifier, prototype, config).to(edge.device), classifier.size
    start = torch.cat([planes[:1] + config.bias, config.gain * planes[1:]]) ** config.power

    def spread(x: Tensor) -> Tensor:
        walk = config.walk
        found = random_walk(x, edge, beta=walk.beta, steps=walk.steps, radius=walk.radius)
        return found / upsample(found, size).max().clamp(min=torch.finfo(found.dtype).tiny)

    alone, together = spread(start[1:]), spread(start**config.all_power)
    return ((alone + together[1:] - together[:1] + 1) / 3).clamp(0, 1).cpu()


def sfc_walked(
    samples: Samples,
    indices: Iterable[int],
    maps: Iterable[SFCScores],
    edges: Edges,
    config: SFCWalk,
) -> Iterator[ScoreMap]:
    """The score maps of the images at `indices` after the walks; `maps` are theirs, in that order.

    An image without a class is not looked at. Raises ValueError where maps are of another image.
    """
    for i, (classifier, prototype) in zip(indices, maps, strict=True):
        if classifier.id != samples.ids[i]:
            raise ValueError(f"maps are of {classifier.id} where {samples.ids[i]} is walked on")
        scores = ScoreMap(
            classifier.id, classifier.keys[1:], classifier.planes[1:], classifier.size
        )
        if len(scores.keys):
            edge = edges(samples.image(i))
            planes = sfc_walk_planes(classifier, prototype, edge, config)
            scores = scores._replace(planes=planes)
        yield scores
