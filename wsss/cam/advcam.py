"""AdvCAM: class maps of an image that is changed so that its class shows more of itself.

Jungbeom Lee, Eunji Kim, Sungroh Yoon: Anti-Adversarially Manipulated Attributions for Weakly and
Semi-Supervised Semantic Segmentation, CVPR 2021, arXiv 2103.08896. An adversary lowers the score of
a class along the gradient of the image; here it is raised. With features F and a weight W [C, D],
for a class c and the pair x = (image, mirror image), of which b is one:

    z    = W * F(x)                                                  [2, C, h, w]
    G_b  = ReLU(sum_k a_bk F_bk)                                     Grad-CAM at the last layer
    a_bk = sum_hw dY/dF_bk / #{positive entries of dY/dF},           Y = sum_bhw ReLU(z_c)
    R    = G_0 + mirror(G_1)
    A_c += g R
    J    = sum_b mean_hw (ReLU(z_c) - sum_{k != c} ReLU(z_k)) - 7 sum_{R > max R / 2} |R - R_0|
    x   <- clamp(x + 0.08 dJ/dx / max |dJ/dx|)                       to the range of the first x

in 27 iterations; at scale 0.5 in 13, which count g = 2 each. R_0 is the first R. k runs over absent
classes too. The gradient of J takes a and the place where R is high as constants.

Between features and logits lies one linear layer, so Grad-CAM needs no backward pass: dY/dF_bk is
W_ck where z_bc > 0, and 0 elsewhere. With N_b = #{z_bc > 0},

    G_b  = ReLU(z_bc) N_b / ((N_0 + N_1) #{k: W_ck > 0})

Any weight will do; with the product w w' of ReCAM this is ReCAM x AdvCAM.

Where we differ from the release (github.com/jbeomlee93/AdvCAM), unless `compat` is "release":

- the release never resets g: all scales, which follow 0.5 there, count twice, as if none did;
- it clamps to the range of the x that it changes, which can shrink on the way, not of the first.

Everywhere: the gradient of the last iteration, which it computes and drops, is left out.

There are no recorded arrays of the release to test against. Its loop was compared once with ours,
"release", on small random networks: equal to 1e-15 in double precision. In float32 most climbs
agree to 1e-6, but some part ways and differ by some hundredths in the end, since rounding decides
on which side of 0 a ReLU falls; so will they between processors. Not compared: trained weights,
whole images, and the published 55.6 mIoU. The released tail raises the maps to the power 1.5 before
the random walk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.cam.classifier import CAMNet
from wsss.cam.scores import MapSource, Planes, Views, mirrored_sum, multiscale_maps, score_planes
from wsss.config.advcam import AdvCAM


def advcam_planes(
    net: CAMNet, weight: Tensor, config: AdvCAM, views: Views, precision: str = "float32"
) -> Planes:
    """The score planes of AdvCAM: a source for each scale, since they climb unequally long."""
    sources = {
        scale: advcam_source(net, weight, config, scale=scale, precision=precision)
        for scale in views.scales
    }

    def planes(image: npt.NDArray[np.uint8], keys: Tensor) -> Tensor:
        maps = [
            found
            for scale, source in sources.items()
            for found in multiscale_maps(image, source, keys, replace(views, scales=(scale,)))
        ]
        return score_planes(maps, (image.shape[0], image.shape[1]), views.stride)

    return planes


def advcam_source(
    net: CAMNet,
    weight: Tensor,
    config: AdvCAM,
    *,
    scale: float = 1.0,
    precision: str = "float32",
) -> MapSource:
    """A_c of `net`, in evaluation mode, under the `weight` [C, D, 1, 1], for views at `scale`.

    A source is not told the scale of what it sees. Where one is asked for views of several scales,
    as class-conditional response maps do, it climbs equally long at each; `advcam_planes` does not.
    A class costs as many forward passes as there are iterations, and one backward pass less.
    """
    small = scale < 1
    iterations = config.iterations_small if small else config.iterations
    gain = config.gain_small if small or config.compat == "release" else 1.0

    def source(pair: Tensor, keys: Tensor) -> Tensor:
        # Tensors made in inference mode know no gradient, but their copies do.
        with torch.inference_mode(mode=False), torch.enable_grad():
            start, filters = pair.clone(), weight.detach().clone()

            def look(view: Tensor) -> Tensor:
                return F.conv2d(net(view, precision=precision), filters)

            maps = [climbed(look, start, key, filters[key], iterations, config) for key in keys]
        return gain * torch.stack(maps)

    return source


def climbed(
    look: Callable[[Tensor], Tensor],
    pair: Tensor,
    key: Tensor,
    weight: Tensor,
    iterations: int,
    config: AdvCAM,
) -> Tensor:
    """The sum of R [h, w] over the iterations, from the `pair` [2, 3, H, W] on.

    `look` gives the logits z [2, C, h, w] of a pair; the class is `key`, and [D, 1, 1] its weight.
    """
    view = pair.clone().requires_grad_()
    z = look(view)
    seen = region(z[:, key], weight)
    first = total = seen.detach()
    for _ in range(iterations - 1):
        [gradient] = torch.autograd.grad(objective(z, key, seen, first, config), view)
        bounds = view if config.compat == "release" else pair
        view = stepped(view.detach(), gradient, config.step, bounds).requires_grad_()
        z = look(view)
        seen = region(z[:, key], weight)
        total = total + seen.detach()
    return total


def region(z: Tensor, weight: Tensor) -> Tensor:
    """R [h, w] of a class: its logits z [2, h, w] of a pair, and its weight [D, 1, 1].

    The gradient flows through z, not through the counts of its positive entries.
    """
    active = (z > 0).sum((1, 2)).to(z.dtype)
    share = active / (active.sum() * (weight > 0).sum() + 1e-12)
    return mirrored_sum(F.relu(z) * share[:, None, None])


def objective(z: Tensor, key: Tensor, seen: Tensor, first: Tensor, config: AdvCAM) -> Tensor:
    """J, to be raised: logits z [2, C, h, w] and the class's R now and at first, both [h, w]."""
    scores = F.relu(z).mean((2, 3)).sum(0)
    high = seen.detach() > config.high * seen.detach().max()
    moved = ((seen - first).abs() * high).sum()
    return 2 * scores[key] - scores.sum() - config.regularisation * moved


def stepped(view: Tensor, gradient: Tensor, step: float, bounds: Tensor) -> Tensor:
    """A pair [2, 3, H, W] moved along its gradient, by `step` at most; the range is of `bounds`."""
    low, high = bounds.detach().aminmax()
    return (view + step * gradient / (gradient.abs().max() + 1e-12)).clamp(low, high)
