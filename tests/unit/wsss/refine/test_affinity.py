import math

import pytest
import torch

from wsss.refine.affinity import affinity, affinity_labels, paths, sources, targets

GRIDS = [(3, 5, 3), (6, 9, 3), (2, 3, 2), (11, 13, 5), (12, 21, 10)]
"""Height, width and radius; some have a single source in a row or a column."""


def on_line(cell, end):
    """Whether a cell is nearer than 1 to the segment from (0, 0) to `end`, within their box."""
    (y, x), (dy, dx) = cell, end
    if not (min(0, dx) <= x <= max(0, dx) and 0 <= y <= dy):
        return False
    along = (y * dy + x * dx) / (dy**2 + dx**2)
    return math.hypot(y - along * dy, x - along * dx) < 1 - 1e-9


def naive_pairs(height, width, radius):
    """Sources in rows, and what each offset leads to."""
    inside = range(radius - 1, width - radius + 1)
    starts = [(y, x) for y in range(height - radius + 1) for x in inside]
    return [[(s, (s[0] + p.offset[0], s[1] + p.offset[1])) for s in starts] for p in paths(radius)]


def test_numbers_of_offsets_and_cells():
    assert [len(paths(r)) for r in (2, 3, 5, 10)] == [4, 12, 34, 152]
    lengths = [len(path.cells) for path in paths(5)]
    assert (min(lengths), max(lengths)) == (2, 11)


@pytest.mark.parametrize("radius", [2, 3, 5, 10])
def test_each_two_near_cells_are_one_pair(radius):
    offsets = [path.offset for path in paths(radius)]
    near = {
        (y, x)
        for y in range(-radius, radius + 1)
        for x in range(-radius, radius + 1)
        if 0 < math.hypot(y, x) < radius
    }
    assert {*offsets, *((-y, -x) for y, x in offsets)} == near
    assert len(near) == 2 * len(offsets)


@pytest.mark.parametrize("radius", [3, 5, 10])
def test_lines_hold_the_cells_near_the_segment(radius):
    reach = range(-radius, radius + 1)
    for path in paths(radius):
        expected = {(y, x) for y in range(radius) for x in reach if on_line((y, x), path.offset)}
        assert set(path.cells) == expected
        assert path.cells[0] == (0, 0)
        assert path.cells[-1] == path.offset


@pytest.mark.parametrize(("height", "width", "radius"), GRIDS)
def test_affinities_equal_a_loop_over_all_lines(height, width, radius):
    edge = torch.rand(2, height, width, generator=torch.Generator().manual_seed(height))
    found = affinity(edge, radius)
    for b in range(2):
        for p, pairs in enumerate(naive_pairs(height, width, radius)):
            for s, ((y, x), _) in enumerate(pairs):
                highest = max(edge[b, y + dy, x + dx] for dy, dx in paths(radius)[p].cells)
                assert found[b, p, s] == 1 - highest
    assert found.shape == (2, len(paths(radius)), len(naive_pairs(height, width, radius)[0]))


@pytest.mark.parametrize(("height", "width", "radius"), GRIDS)
def test_sources_and_targets_are_the_ends(height, width, radius):
    plane = torch.arange(2 * height * width).view(2, height, width)
    one, other = sources(plane, radius), targets(plane, radius)
    for p, pairs in enumerate(naive_pairs(height, width, radius)):
        for s, (start, end) in enumerate(pairs):
            assert torch.equal(one[:, 0, s], plane[:, *start])
            assert torch.equal(other[:, p, s], plane[:, *end])


def test_the_gradient_goes_to_the_strongest_cell_of_each_line():
    generator = torch.Generator().manual_seed(3)
    edge = torch.rand(2, 7, 11, generator=generator, requires_grad=True)
    cost = torch.rand(2, 12, 5 * 7, generator=generator)
    (found,) = torch.autograd.grad((affinity(edge, 3) * cost).sum(), edge)
    expected = torch.zeros_like(edge)
    for b in range(2):
        for p, pairs in enumerate(naive_pairs(7, 11, 3)):
            for s, ((y, x), _) in enumerate(pairs):
                cells = [(y + dy, x + dx) for dy, dx in paths(3)[p].cells]
                expected[b, *max(cells, key=lambda cell: edge[b, *cell])] -= cost[b, p, s]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("height", "width", "radius"), GRIDS)
def test_labels_of_pairs_equal_a_loop(height, width, radius):
    generator = torch.Generator().manual_seed(width)
    drawn = torch.randint(0, 4, (3, height, width), generator=generator)
    label = torch.tensor([0, 2, 80, 255])[drawn].to(torch.uint8)
    found = affinity_labels(label, radius)
    for b in range(3):
        for p, pairs in enumerate(naive_pairs(height, width, radius)):
            for s, (start, end) in enumerate(pairs):
                ends = {int(label[b, *start]), int(label[b, *end])}
                same = len(ends) == 1
                expected = (
                    same and ends == {0},
                    same and not ends & {0, 255},
                    not same and 255 not in ends,
                )
                assert tuple(bool(part[b, p, s]) for part in found) == expected


@pytest.mark.parametrize(("height", "width"), [(4, 30), (30, 8)])
def test_a_grid_without_any_pair_is_refused(height, width):
    message = rf"grid of {height} x {width} has no pair: radius 5 needs 5 x 9 or more"
    with pytest.raises(ValueError, match=message):
        affinity(torch.zeros(1, height, width), 5)
    with pytest.raises(ValueError, match=message):
        affinity_labels(torch.zeros(1, height, width, dtype=torch.uint8), 5)
