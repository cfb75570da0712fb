"""Scores spread over the image by a random walk that boundaries stop.

Ahn, Cho, Kwak: IRN, CVPR 2019, arXiv 1904.05044 (after Ahn and Kwak, AffinityNet, CVPR 2018,
arXiv 1803.10464). With the affinities a of neighbours, see `wsss.refine.affinity`,

    A    = a^beta, symmetric, with 1 on the diagonal         stride-4 grid, radius 5
    T_ij = A_ij / sum_k A_kj                                 columns sum to 1
    x'   = (x (1 - E)) T^t                                   t = 2^8, for each class

The scores after it are divided by the highest of all classes, at full resolution.

Where we differ from the release, which squares the dense [h w, h w] matrix T eight times: T is kept
as 34 numbers a cell, since a pair's offset is a shift of the flattened grid, and x is multiplied
by it. T has real eigenvalues in [-1, 1], so that its power is a mean of its Chebyshev polynomials C

    T^t  = sum_j p_j C_j(T)                                  C_j = 2 T C_j-1 - C_j-2
    p_j  = share of the 2^t walks on the line of t steps of 1 or -1 that end j away

of which those beyond j = 96 weigh below 1e-9 together for t = 256 (Sachdeva, Vishnoi: Faster
Algorithms via Approximation Theory, 2014): 96 products do for 256, and t may be any number. All in
float64: in float32, 256 products lose 1e-4. `tests/benchmarks/random_walk.py` measures time and
memory.

What the walk starts from differs a little: the release sums the maps of all scales on the stride-4
grid, which squeezes those of an image whose sides are no multiples of 16. We take the stored
planes, samples of the maps at full resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.cam.scores import ScoreMap, upsample
from wsss.config.refine import Walk
from wsss.data.samples import Samples
from wsss.refine.affinity import affinity, paths

Edges = Callable[[npt.NDArray[np.uint8]], Tensor]
"""An image [H, W, 3] to how likely its stride-4 cells are on a boundary, [h, w] in [0, 1]."""

NEGLIGIBLE = 1e-9
"""Weight of the polynomials that are left out, in all."""


def random_walk(x: Tensor, edge: Tensor, *, beta: float, steps: int, radius: int) -> Tensor:
    """(x (1 - E)) T^steps: scores >= 0 [n, h, w] and edges [h, w] or [1, h, w] to [n, h, w].

    Float32, computed in float64. Each value is a weighted mean of those at the start. Raises
    ValueError where the edges are not on the scores' grid.
    """
    edge = edge.reshape(edge.shape[-2:])
    if edge.shape != x.shape[1:]:
        raise ValueError(f"edges are {[*edge.shape]} but the scores {[*x.shape[1:]]}")
    links = _links(edge, beta, radius)
    weight = _gathered(torch.ones_like(edge, dtype=torch.float64).flatten(), links)
    before = (x * (1 - edge)).double().flatten(1)
    now = _gathered(before, links).div_(weight)
    first, second, *others = ending_shares(steps)
    total = first * before + second * now
    for share in others:
        before, now = now, _gathered(now, links).div_(weight).mul_(2).sub_(before)
        total.add_(now, alpha=share)
    return total.clamp(min=0).float().view_as(x)


def ending_shares(steps: int) -> list[float]:
    """p_j of `steps` for j = 0, 1, ..., without the last that are negligible together."""
    j = steps % 2  # no walk ends between two places of this parity
    share = (1 + j) * (math.comb(steps, steps // 2) / 2**steps)
    shares, beyond = [0.0] * j, 1.0
    while beyond > NEGLIGIBLE:
        shares += [share, 0.0]
        beyond -= share
        share *= (1 if j else 2) * (steps - j) / (steps + j + 2)
        j += 2
    return shares[:-1]


def _links(edge: Tensor, beta: float, radius: int) -> list[tuple[int, Tensor]]:
    """a^beta of each cell and the one that is so many places on in the flattened grid.

    A link out of the grid is 0: the edge is 1 there.
    """
    height, width = edge.shape
    margin = radius - 1
    walled = F.pad(edge, (margin, margin, 0, margin), value=1.0)
    strengths = affinity(walled[None], radius)[0].double() ** beta
    links = []
    for path, strength in zip(paths(radius), strengths, strict=True):
        down, right = path.offset
        if down < height and abs(right) < width:
            places = down * width + right
            links.append((places, strength[:-places]))
    return links


def _gathered(scores: Tensor, links: list[tuple[int, Tensor]]) -> Tensor:
    """x A: scores [..., h w], and what the links bring to each, there and back."""
    total = scores.clone()
    for places, strength in links:
        total[..., :-places].addcmul_(scores[..., places:], strength)
        total[..., places:].addcmul_(scores[..., :-places], strength)
    return total


def walk_planes(scores: ScoreMap, edge: Tensor, config: Walk) -> Tensor:
    """The score planes of an image after the walk, [n, h, w] in [0, 1], on the CPU.

    `edge` [h, w] is on their grid; the walk runs where it lies. Divided by the maximum of all
    classes at full resolution; what is 0 everywhere stays so. Resized by 4 they give the published
    maps, but for peaks between two samples.
    """
    if not len(scores.planes):
        return scores.planes
    start = scores.planes.to(edge.device) ** config.power
    found = random_walk(start, edge, beta=config.beta, steps=config.steps, radius=config.radius)
    highest = upsample(found, scores.size).max()
    return (found / highest.clamp(min=torch.finfo(found.dtype).tiny)).clamp(max=1).cpu()


def walked(
    samples: Samples, indices: Iterable[int], maps: Iterable[ScoreMap], edges: Edges, config: Walk
) -> Iterator[ScoreMap]:
    """The score maps of the images at `indices` after the walk; `maps` are theirs, in that order.

    An image without a class is not looked at. Raises ValueError where maps are of another image.
    """
    for i, scores in zip(indices, maps, strict=True):
        if scores.id != samples.ids[i]:
            raise ValueError(f"score maps are of {scores.id} where {samples.ids[i]} is walked on")
        if len(scores.keys):
            planes = walk_planes(scores, edges(samples.image(i)), config)
            scores = scores._replace(planes=planes)
        yield scores
