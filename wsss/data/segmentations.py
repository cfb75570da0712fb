"""COCO's ways to write down where an object is, kept small and drawn as the COCO API draws them.

    [[x, y, x, y, ...], ...]                polygons: the object is all that they enclose
    {"size": [H, W], "counts": [n, ...]}    pixels of 0 and of 1 in turn, column by column
    {"size": [H, W], "counts": "..."}       the same, compressed: from the third count on, the
                                            difference to the count before last; base 32, lowest
                                            digit first, chr(48 + digit + 32 where more follow)

Polygons go through pycocotools, whose rule for pixels on an edge is part of every published mask.
Counts are expanded here: its own `decode` is at odds with NumPy 2, and takes at their word files
that ask for more pixels than there are. Needs numpy only, and pycocotools once a polygon is drawn.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Polygons:
    """What these outlines enclose, each the float64 x, y, x, y, ... of its corners."""

    outlines: tuple[array[float], ...]

    def drawn(self, height: int, width: int) -> npt.NDArray[np.bool_]:
        """The object's pixels, bool [H, W].

        Fewer than three corners enclose nothing. Raises ValueError for corners that are not finite
        or far outside the image, and without pycocotools.
        """
        outlines = [list(outline) for outline in self.outlines if len(outline) >= 6]
        reach = max(height, width)
        for outline in outlines:
            if not all(-reach <= corner <= 2 * reach for corner in outline):
                raise ValueError(f"a polygon leaves the image, {width} x {height}, by far")
        if not outlines:
            return np.zeros((height, width), dtype=np.bool_)
        counts = _rasterised(outlines, height, width)
        return Runs((height, width), array("q", _expanded(counts))).drawn(height, width)


@dataclass(frozen=True, slots=True)
class Runs:
    """So many pixels outside, so many inside, and so on, down each column of [H, W] = `size`."""

    size: tuple[int, int]
    lengths: array[int]

    def drawn(self, height: int, width: int) -> npt.NDArray[np.bool_]:
        """The object's pixels, bool [H, W]. Raises ValueError for runs of another image."""
        if self.size != (height, width):
            its_height, its_width = self.size
            raise ValueError(f"it is of {its_width} x {its_height}, its image {width} x {height}")
        lengths = np.frombuffer(self.lengths, dtype=np.int64)
        if (lengths < 0).any() or lengths.sum() != height * width:
            raise ValueError(f"its counts do not fill {width} x {height} pixels")
        inside: npt.NDArray[np.bool_] = np.arange(len(lengths)) % 2 == 1
        return inside.repeat(lengths).reshape(width, height).T


Segmentation = Polygons | Runs


def segmentation(given: Any) -> Segmentation | None:
    """What an annotation's field `segmentation` says; None where it says nothing.

    Raises ValueError for anything that is not one of the three forms.
    """
    if not given:
        return None
    try:
        if isinstance(given, list):
            return _polygons(given)
        return _runs(given["size"], given["counts"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError("its segmentation is neither polygons nor a size with counts") from error


def _polygons(outlines: list[list[float]]) -> Polygons:
    if any(len(outline) % 2 for outline in outlines):
        raise ValueError("a polygon has an x without its y")
    return Polygons(tuple(array("d", outline) for outline in outlines))


def _runs(size: list[int], counts: str | list[int]) -> Runs:
    height, width = size
    lengths = _expanded(counts.encode("ascii")) if isinstance(counts, str) else counts
    return Runs((height, width), array("q", lengths))


def _rasterised(outlines: list[list[float]], height: int, width: int) -> bytes:
    """The compressed counts of all that the outlines enclose."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ValueError("polygons need pycocotools: pip install pycocotools") from error
    counts: bytes = mask.merge(mask.frPyObjects(outlines, height, width))["counts"]
    return counts


def _expanded(counts: bytes) -> list[int]:
    """Run lengths from their compressed form; ValueError where a character has no place in it."""
    digits = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - ord("0")
    last = digits & 32 == 0
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or not last[-1]:
        raise ValueError("its compressed counts are broken")
    ends = np.flatnonzero(last)
    starts = np.append(0, ends[:-1] + 1)
    place = 5 * (np.arange(len(digits)) - starts.repeat(ends - starts + 1))
    if place.max() > 35:  # beyond any image, and soon beyond 64 bits
        raise ValueError("its compressed counts are broken")
    runs = np.add.reduceat((digits & 31) << place, starts)
    runs -= np.where(digits[ends] & 16, np.int64(32) << place[ends], 0)  # two's complement
    for first in (1, 2):
        runs[first::2] = runs[first::2].cumsum()
    lengths: list[int] = runs.tolist()
    return lengths
