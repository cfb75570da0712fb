"""Golden unit 11: offsets, lines, pairs and affinities, exactly."""

import numpy as np
import pytest
import torch

from wsss.refine.affinity import affinity, paths, sources, targets


def rows(table) -> list[tuple[int, ...]]:
    return sorted(tuple(int(number) for number in row) for row in table)


@pytest.mark.parametrize("radius", [5, 10])
def test_offsets_and_lines_equal_the_release(golden, radius):
    unit = golden("unit11_paths_affinity")
    found = paths(radius)
    assert rows(path.offset for path in found) == rows(unit[f"r{radius}_offsets"])
    lines = [(*path.offset, *cell) for path in found for cell in path.cells]
    assert rows(lines) == rows(unit[f"r{radius}_path_cells"])


@pytest.mark.parametrize("radius", [5, 10])
def test_sources_and_pairs_equal_the_release(golden, radius):
    unit = golden("unit11_paths_affinity")
    height, width = unit[f"r{radius}_grid"].tolist()
    cells = torch.stack(
        torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    )  # [2, h, w]
    one, other = sources(cells, radius), targets(cells, radius)
    assert rows(one[:, 0].T) == rows(unit[f"r{radius}_src_cells"])
    pairs = torch.cat([one.expand_as(other), other]).flatten(1).T
    assert rows(pairs) == rows(unit[f"r{radius}_pairs"])


@pytest.mark.parametrize("radius", [5, 10])
def test_affinities_equal_the_release(golden, radius):
    unit = golden("unit11_paths_affinity")
    order = [[path.offset for path in paths(radius)].index((y, x)) for y, x in
             unit[f"r{radius}_offsets"].tolist()]  # fmt: skip
    [found] = affinity(torch.from_numpy(unit[f"r{radius}_edge"]), radius)
    np.testing.assert_array_equal(found[order].numpy(), unit[f"r{radius}_affinity"])
