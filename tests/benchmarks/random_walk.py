"""The random walk: Chebyshev polynomials of the linked grid against squaring the dense matrix.

    python tests/benchmarks/random_walk.py

Prints the time and the memory of ours for a VOC image on one core, and on a smaller grid the ratio
of times, which holds on a noisy machine. The dense form takes the cube of the cells in time and the
square in memory; its numbers for the VOC image are extrapolated so.
"""

import resource
import statistics
import time

import torch
from torch import Tensor

from wsss.refine.affinity import affinity, paths
from wsss.refine.walk import random_walk

BETA, SQUARINGS, RADIUS, CLASSES, ROUNDS = 10, 8, 5, 3, 3
VOC, SMALL = (94, 125), (40, 50)  # the stride-4 grids of 375 x 500 and 160 x 200 pixels


def released(x: Tensor, edge: Tensor) -> Tensor:
    """The published form: A and T as dense matrices, T squared eight times."""
    (height, width), margin = edge.shape, RADIUS - 1
    walled = torch.nn.functional.pad(edge, (margin, margin, 0, margin), value=1.0)
    links = torch.eye(height * width)
    cells = torch.arange(height * width)
    for path, strength in zip(paths(RADIUS), affinity(walled[None], RADIUS)[0], strict=True):
        down, right = path.offset
        column = cells % width + right
        inside = (column >= 0) & (column < width) & (cells // width + down < height)
        one, other = cells[inside], cells[inside] + down * width + right
        links[one, other] = links[other, one] = strength[inside]
    matrix = links**BETA
    matrix /= matrix.sum(0)
    for _ in range(SQUARINGS):
        matrix = matrix @ matrix
    return ((x * (1 - edge)).flatten(1) @ matrix).view_as(x)


def ours(x: Tensor, edge: Tensor) -> Tensor:
    """`random_walk` with the published settings."""
    return random_walk(x, edge, beta=BETA, steps=2**SQUARINGS, radius=RADIUS)


def clocked(method, x: Tensor, edge: Tensor) -> tuple[float, Tensor]:
    """Seconds, and the result."""
    start = time.perf_counter()
    found = method(x, edge)
    return time.perf_counter() - start, found


def peak() -> float:
    """The most memory that the process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Time ours for a VOC image, then both in turn on the small grid."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    large, small = ((torch.rand(CLASSES, *grid), torch.rand(grid)) for grid in (VOC, SMALL))
    ours(*small)
    before = peak()
    seconds = statistics.median(clocked(ours, *large)[0] for _ in range(ROUNDS))
    print(f"ours, {VOC[0]} x {VOC[1]} x {CLASSES}: {seconds:.2f} s, {peak() - before:.0f} MiB more")
    ratios, dense = [], []
    for _ in range(ROUNDS):
        theirs, expected = clocked(released, *small)
        mine, found = clocked(ours, *small)
        assert torch.allclose(found, expected, atol=1e-4)
        ratios.append(theirs / mine)
        dense.append(theirs)
    growth = (VOC[0] * VOC[1]) / (SMALL[0] * SMALL[1])
    ratio = statistics.median(ratios)
    print(f"released / ours, {SMALL[0]} x {SMALL[1]}: {ratio:.0f} times as long")
    print(
        f"released, {VOC[0]} x {VOC[1]}, extrapolated: {min(dense) * growth**3:.0f} s, two matrices"
        f" of {(VOC[0] * VOC[1]) ** 2 * 4 / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
