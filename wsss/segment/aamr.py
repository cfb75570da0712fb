"""A mask refinement loss that knows where classes are active: our reading, not the published one.

Sun, Zhang, Barnes: Inferring the Class Conditional Response Map for Weakly Supervised Semantic
Segmentation, WACV 2022, arXiv 2110.14309, trains its segmentation network with an "activation-aware
mask refinement loss": saliency refines foreground masks without suppressing objects that are not
salient. The formula is in neither the released code nor anything that we could read, so what
stands here is our own proposal and could not be verified. It is off by default.

With p the softmax of the logits, S a saliency map in [0, 1], M_c the score maps of the classes of
the image, and void pixels left out:

    b = [S >= t_s]                                           salient
    a = [max_c M_c >= t_a]                                   activated
    v = 0 where b = 0 and a = 1                              an object that is not salient
        0 in regions of b of which less than r is activated  a salient thing of no known class
        1 elsewhere
    L = sum v BCE(1 - p_0, b) / (sum v + e)                  e = 1e-5

So background is pulled to the salient contour only where no class speaks against it. b and v make
one map, the *target*: 0 pulls to background, 1 to foreground, 255 leaves alone. Regions are
connected by their sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from wsss.cam.scores import ScoreMap, best_class, upsample
from wsss.config.segment import AAMRTargets
from wsss.data.saliency import SaliencyMaps
from wsss.data.samples import VOID
from wsss.ranks import ranks, summed

Bytes = npt.NDArray[np.uint8]
EPSILON = 1e-5


def aamr_target(saliency: Bytes, activation: Tensor, config: AAMRTargets) -> Bytes:
    """The target, uint8 [H, W] in {0, 1, 255}.

    `saliency` is uint8 [H, W], 255 for the most salient; `activation` [H, W] in [0, 1] the best
    class score.
    """
    salient = saliency / 255.0 >= config.saliency
    activated = (activation >= config.activation).numpy()
    regions, count = ndimage.label(salient)
    pixels = np.bincount(regions.ravel(), minlength=count + 1)
    hits = np.bincount(regions.ravel(), activated.ravel(), minlength=count + 1)
    known = hits >= config.share * pixels
    open_ = np.where(salient, ~known[regions], activated)
    return np.where(open_, VOID, salient).astype(np.uint8)


def aamr_targets(
    saliency: SaliencyMaps, scores: Iterable[ScoreMap], config: AAMRTargets
) -> Iterator[tuple[str, Bytes]]:
    """The id and target of each image that has score maps, for `write_labels`.

    Raises ValueError, naming the file, for a saliency map that is absent or of another size.
    """
    for found in scores:
        activation, _ = best_class(upsample(found.planes, found.size), found.keys)
        yield found.id, aamr_target(saliency.of(found.id, found.size), activation, config)


def aamr_proposed(logits: Tensor, target: Tensor) -> Tensor:
    """L of logits [B, K, h, w] and the target on their grid, uint8 [B, h, w]; 0 without any v.

    Of a part of the batch, a value whose mean over all ranks is L.
    """
    foreground = logits[:, 1:].logsumexp(1) - logits[:, 0]  # the logit of 1 - p_0
    valid = target != VOID
    pull = (target == 1).to(foreground.dtype)
    losses = F.binary_cross_entropy_with_logits(foreground, pull, reduction="none")
    return ranks() * (losses * valid).sum() / (summed(valid.sum()) + EPSILON)
