"""ReCAM's class features: one batched matrix product against the released product of all with all.

    python tests/benchmarks/class_features.py

Prints the ratio of times, which holds on a noisy machine, and the largest tensor of each.
"""

import statistics
import time

import torch
from torch import Tensor

from wsss.cam.recam import class_features

BATCH, CLASSES, CHANNELS, GRID, ROUNDS = 4, 20, 2048, 32, 5


def released(features: Tensor, maps: Tensor) -> Tensor:
    """The B x C x D x h x w tensor, averaged: what the released code makes."""
    return (maps.unsqueeze(2) * features.unsqueeze(1)).mean((3, 4))


def main() -> None:
    """Time both in turn, forward only."""
    features = torch.randn(BATCH, CHANNELS, GRID, GRID)
    maps = torch.rand(BATCH, CLASSES, GRID, GRID)
    assert torch.allclose(class_features(features, maps), released(features, maps), atol=1e-5)
    ratios = []
    for _ in range(ROUNDS):
        clocks = [time.perf_counter()]
        for method in (released, class_features):
            method(features, maps)
            clocks.append(time.perf_counter())
        ratios.append((clocks[1] - clocks[0]) / (clocks[2] - clocks[1]))
    large = BATCH * CLASSES * CHANNELS * GRID**2 * 4 / 2**20
    print(f"released / ours: {statistics.median(ratios):.0f} times as long (median of {ROUNDS})")
    print(f"largest tensor: {large:.0f} MiB against {features.numel() * 4 / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
