"""Which pixels belong together: affinities of pairs from class boundaries, and their labels.

Jiwoon Ahn, Sunghyun Cho, Suha Kwak: Weakly Supervised Learning of Instance Segmentation with
Inter-pixel Relations (IRN), CVPR 2019, arXiv 1904.05044. Cells i and j of a grid that lie within a
radius are a pair; if E says how likely each cell is on a boundary,

    a_ij = 1 - max of E over the cells on the line from i to j, both ends included
    pairs of one class are positive, of background or of an object; others are negative

A pair is its source i and its offset j - i = (dy, dx), which points down, or right within the row:
each two cells are paired once. The line holds the cells of the offset's bounding box whose distance
from the segment is below 1. A grid [h, w] has the sources that all offsets fit on: not the last
radius - 1 rows, nor as many columns on either side. Pairs are laid out as [offsets, sources].

Where we differ from the release, without changing a number: for the gradient it keeps the edges
along all lines, 2134 numbers a source for radius 10, and pools them; we look for the strongest cell
of each line and keep that one, 152 numbers. Labels lie on the device of the training.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from wsss.data.samples import VOID

Cell = tuple[int, int]
"""Rows down and columns to the right."""


class Path(NamedTuple):
    """The line from a source cell to the cell at an offset."""

    offset: Cell
    cells: tuple[Cell, ...]
    """Relative to the source; the first is (0, 0), the last is the offset."""


class PairLabels(NamedTuple):
    """What each pair should be, bool [B, P, S]; a pair with an open end (255) is nothing."""

    background: Tensor
    """Both ends are background."""
    foreground: Tensor
    """Both ends are of one class of objects."""
    negative: Tensor
    """The ends are of two classes."""


@cache
def paths(radius: int) -> tuple[Path, ...]:
    """The lines to all offsets shorter than `radius`: 34 for radius 5, 152 for 10."""
    reach = range(1 - radius, radius)
    near = [(dy, dx) for dy in range(radius) for dx in reach if dy**2 + dx**2 < radius**2]
    return tuple(Path(offset, _line(*offset)) for offset in near if offset > (0, 0))


def _line(dy: int, dx: int) -> tuple[Cell, ...]:
    """Cells of the bounding box at a squared distance below 1 from the segment to (dy, dx)."""
    rows = range(dy + 1)
    columns = range(dx + 1) if dx >= 0 else range(0, dx - 1, -1)
    length = dy**2 + dx**2
    return tuple((a, b) for a in rows for b in columns if (dy * b - dx * a) ** 2 < length)


def sources(plane: Tensor, radius: int) -> Tensor:
    """The value at the source of each pair, [..., 1, S], of a plane [..., h, w].

    Raises ValueError for a grid that the offsets do not fit on.
    """
    return _window(plane, radius, (0, 0)).flatten(-2).unsqueeze(-2)


def targets(plane: Tensor, radius: int) -> Tensor:
    """The value at the other end of each pair, [..., P, S], of a plane [..., h, w]."""
    ends = [_window(plane, radius, path.offset) for path in paths(radius)]
    return torch.stack(ends, dim=-3).flatten(-2)


def affinity(edge: Tensor, radius: int) -> Tensor:
    """a_ij = 1 - max E over the line: edges in [0, 1], [B, h, w], to [B, P, S].

    The gradient goes to the strongest cell of each line, the first of equals.
    """
    with torch.no_grad():
        strongest = torch.stack([_strongest(edge, path, radius) for path in paths(radius)], 1)
    return 1 - edge.flatten(1).gather(1, strongest.flatten(1)).view_as(strongest)


def affinity_labels(label: Tensor, radius: int) -> PairLabels:
    """What the pairs of a label map, integer [B, h, w] with 255 for open, should be."""
    one, other = sources(label, radius), targets(label, radius)
    known = (one != VOID) & (other != VOID)
    same = one == other
    return PairLabels(known & same & (one == 0), known & same & (one > 0), known & ~same)


def _strongest(edge: Tensor, path: Path, radius: int) -> Tensor:
    """The cell with the highest edge on the line from each source: int64 [B, S], row-major."""
    height, width = edge.shape[-2:]
    highest = _window(edge, radius, path.cells[0]).clone()
    place = torch.zeros_like(highest, dtype=torch.uint8)
    for k, cell in enumerate(path.cells[1:], start=1):  # five times as fast as argmax over a stack
        candidate = _window(edge, radius, cell)
        place.masked_fill_(candidate > highest, k)
        torch.maximum(highest, candidate, out=highest)
    ahead = torch.tensor([dy * width + dx for dy, dx in path.cells], device=edge.device)
    cells = torch.arange(height * width, device=edge.device).view(height, width)
    return (_window(cells, radius, (0, 0)) + ahead[place.int()]).flatten(1)


def _window(plane: Tensor, radius: int, cell: Cell) -> Tensor:
    """The plane at `cell` from each source, [..., rows, columns]; a view."""
    (height, width), margin = plane.shape[-2:], radius - 1
    rows, columns = height - margin, width - 2 * margin
    if rows < 1 or columns < 1:
        raise ValueError(
            f"grid of {height} x {width} has no pair: radius {radius} needs {radius} x"
            f" {2 * radius - 1} or more"
        )
    down, right = cell[0], margin + cell[1]
    return plane[..., down : down + rows, right : right + columns]
