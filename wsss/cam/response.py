"""Class-conditional response maps: what a classifier's maps leave out, by cropping and erasing.

Weixuan Sun, Jing Zhang, Nick Barnes: Inferring the Class Conditional Response Map for Weakly
Supervised Semantic Segmentation, WACV 2022, arXiv 2110.14309. Nothing is trained, and any source of
class maps will do. M_c(x) is what it makes of an image x, over four scales and their mirror images,
summed at the size of x.

    A.  (r_c, q_c) = centre of mass of M_c(image), rounded down      for the classes c present
        four crops: rows up to max r + b or from min r - b on, columns likewise by q;
        b is 10 pixels for one class and 20 for two; of three or more, each crop is the whole image
    B.  in each crop x, for t = 0, 1, ..., at most 5 rounds:
        N_c    = M_c(x_t) / (max + 1e-5)
        S_c    = max(S_c, N_c)
        keep   = max_c S_c < 0.7
        x_t+1  = keep x + (1 - keep) mean(x)                         mean of each view and channel
        until a round erases less than 0.02 of the crop anew
    C.  P_c    = max over the crops of S_c, each at its place

Each class is said to be inferred "separately"; in the released code only the crops of step A set
classes apart, and all are erased by one mask. `erase` "per_class" gives each class its own.

Where we differ from the release (github.com/weixuansun/InferCam), unless `compat` is "release":

- a crop that begins before row or column 0 begins there; the release wraps, to a sliver at the end;
- a mirrored view is erased by the mirrored mask, and each view by the mask resized from the crop's;
  the release does not mirror it, and hands it on from one scale's size to the next.

Everywhere: crops stay in memory, where the release writes JPEG; equal crops are looked at once, and
the whole image never again; what becomes of absent classes is not computed.

A round is normalised whatever is left of the object, so that noise reaches 1 in the end, and only
the rule of 0.02 prevents it. `least_score` (ours) leaves a class out whose peak has fallen below a
share of what it was in the crop before anything was erased, and ends when all have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.cam.scores import MapSource, Planes, Views, at_stride4, fused, max_normalised
from wsss.config.response import Response
from wsss.data.transforms import flip, normalise, rescale


class Box(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right` of an image, the ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


class Round(NamedTuple):
    """What a crop has shown after a round of erasing."""

    maps: Tensor
    """Running maxima S, float32 [n, h, w] in [0, 1)."""
    keep: Tensor
    """The pixels that the next round still shows, bool [h, w]."""


def response_planes(source: MapSource, views: Views, config: Response) -> Planes:
    """The score planes that cropping and erasing make of a `source`.

    They are not divided by their maximum again: each was in some round.
    """

    def planes(image: npt.NDArray[np.uint8], keys: Tensor) -> Tensor:
        return at_stride4(response_maps(image, source, keys, views, config).cpu())

    return planes


@torch.no_grad()
def response_maps(
    image: npt.NDArray[np.uint8], source: MapSource, keys: Tensor, views: Views, config: Response
) -> Tensor:
    """Steps A to C: uint8 [H, W, 3] and its classes [n], n > 0, to maps [n, H, W] in [0, 1)."""
    height, width = image.shape[:2]
    keys = keys.to(views.device)
    whole = Box(0, height, 0, width)
    shown = scaled(image, views)
    first = responses(source, mirrored(shown), keys, (height, width))
    found = []
    for box in dict.fromkeys(crop_boxes(mass_centres(first), (height, width), config)):
        crop, start = shown, first
        if box != whole:
            crop = scaled(image[box.top : box.bottom, box.left : box.right], views)
            size = (box.bottom - box.top, box.right - box.left)
            start = responses(source, mirrored(crop), keys, size)
        found.append((box, drawn_out(source, crop, start, keys, config)))
    return merged(found, (height, width))


def scaled(image: npt.NDArray[np.uint8], views: Views) -> list[Tensor]:
    """An image [H, W, 3] at each scale, normalised, [3, h_s, w_s]."""
    sizes = (rescale(image, scale, "cubic") for scale in views.scales)
    return [normalise(view, views.mean, views.std).to(views.device) for view in sizes]


def mirrored(views: Iterable[Tensor]) -> Iterator[Tensor]:
    """Each view [3, h, w] with its mirror image, [2, 3, h, w]."""
    return (torch.stack([view, flip(view)]) for view in views)


def responses(
    source: MapSource, pairs: Iterable[Tensor], keys: Tensor, size: tuple[int, int]
) -> Tensor:
    """M_c: the maps of all `pairs`, each resized to the `size`, summed: float32 [n, *size]."""
    return fused((source(pair, keys).float() for pair in pairs), size)


def mass_centres(maps: Tensor) -> Tensor:
    """Step A: row and column of the centre of mass of maps [n, H, W], rounded down, int64 [n, 2].

    A map without mass has its centre in the middle.
    """
    height, width = maps.shape[1:]
    mass = maps.double()
    total = mass.sum((1, 2))
    rows = mass.sum(2) @ torch.arange(height, device=mass.device).double() / total
    columns = mass.sum(1) @ torch.arange(width, device=mass.device).double() / total
    middle = mass.new_tensor([height // 2, width // 2])
    return torch.where(total[:, None] > 0, torch.stack([rows, columns], 1), middle).long()


def crop_boxes(centres: Tensor, size: tuple[int, int], config: Response) -> list[Box]:
    """Step A: the top left, top right, bottom left and bottom right crop, by the centres [n, 2]."""
    height, width = size
    if len(centres) > len(config.margins):
        return [Box(0, height, 0, width)] * 4
    margin = config.margins[len(centres) - 1]
    rows = _parts(centres[:, 0], height, margin, wrap=config.compat == "release")
    columns = _parts(centres[:, 1], width, margin, wrap=config.compat == "release")
    return [Box(*down, *across) for down in rows for across in columns]


def _parts(centres: Tensor, length: int, margin: int, wrap: bool) -> list[tuple[int, int]]:
    """What lies before the last centre and behind the first one, with a margin."""
    first, last = (int(end) for end in centres.aminmax())
    start = first - margin if wrap else max(first - margin, 0)
    parts = (slice(0, last + margin), slice(start, length))
    return [part.indices(length)[:2] for part in parts]  # a negative start counts from the end


def drawn_out(
    source: MapSource, crop: Sequence[Tensor], first: Tensor, keys: Tensor, config: Response
) -> Tensor:
    """Step B: S of a crop, [n, h, w], whose views are `crop` and whose first responses `first`."""
    if config.erase == "joint":
        return _last(rounds(source, crop, first, keys, config))
    alone = zip(first.chunk(len(keys)), keys.chunk(len(keys)), strict=True)
    return torch.cat([_last(rounds(source, crop, one, key, config)) for one, key in alone])


def _last(found: Iterator[Round]) -> Tensor:
    *_, last = found
    return last.maps


def rounds(
    source: MapSource, crop: Sequence[Tensor], first: Tensor, keys: Tensor, config: Response
) -> Iterator[Round]:
    """Step B, round after round; with fewer iterations it ends earlier, and is the same until then.

    `first` [n, h, w] are the responses of the crop as it is; `crop` holds a view of it for each
    scale, [3, h_s, w_s].
    """
    size = (first.shape[1], first.shape[2])
    keep = first.new_ones(size, dtype=torch.bool)
    least = config.least_score * first.amax((1, 2))
    found, raw = torch.zeros_like(first), first
    for done in range(config.iterations):
        if done:
            raw = responses(source, erased_pairs(crop, keep, config), keys, size)
        there = raw.amax((1, 2)) >= least
        if not there.any():
            return
        found = torch.maximum(found, max_normalised(raw) * there[:, None, None])
        last, keep = keep, found.amax(0) < config.threshold
        yield Round(found, keep)
        if int(last.sum() - keep.sum()) / keep.numel() < config.growth:
            return


def erased_pairs(views: Iterable[Tensor], keep: Tensor, config: Response) -> Iterator[Tensor]:
    """Views [3, h, w] and their mirror images, [2, 3, h, w], without what `keep` [H, W] erases."""
    for view in views:
        mask = F.interpolate(keep[None, None].float(), view.shape[1:])[0, 0] > 0.5  # nearest
        mirror = flip(mask)
        if config.compat == "release":
            keep, mirror = mask, mask
        yield torch.stack([erased(view, mask), erased(flip(view), mirror)])


def erased(view: Tensor, keep: Tensor) -> Tensor:
    """A view [3, h, w] with each channel's mean where `keep` [h, w] is false."""
    return torch.where(keep, view, view.mean((1, 2), keepdim=True))


def merged(crops: Iterable[tuple[Box, Tensor]], size: tuple[int, int]) -> Tensor:
    """Step C: the highest of the crops' maps [n, h, w] at each pixel, [n, *size]; 0 where none."""
    height, width = size
    placed = [
        F.pad(maps, (box.left, width - box.right, box.top, height - box.bottom))
        for box, maps in crops
    ]
    return torch.stack(placed).amax(0)
