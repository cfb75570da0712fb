import math

import numpy as np
import pytest
import torch

from wsss.cam.scores import ScoreMap, extract, upsample
from wsss.config.refine import Walk
from wsss.data import open_samples
from wsss.refine.affinity import paths
from wsss.refine.walk import ending_shares, random_walk, walk_planes, walked

CASES = [
    (1, 1, 5, 10.0, 256),
    (1, 7, 3, 10.0, 16),
    (9, 2, 5, 4.0, 256),
    (6, 5, 3, 1.0, 7),
    (10, 12, 5, 10.0, 256),
    (8, 9, 10, 2.5, 100),
    (11, 6, 2, 10.0, 1000),
    (5, 8, 5, 10.0, 1),
]
"""Height, width, radius, beta and steps; some grids are smaller than the radius."""


def drawn(height, width, n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, height, width, generator=generator)
    return x, torch.rand(height, width, generator=generator)


def dense(edge, beta, radius):
    """T, float64 [h w, h w], from the definition."""
    height, width = edge.shape
    links = np.eye(height * width)
    for i in range(height * width):
        for path in paths(radius):
            cells = [(i // width + dy, i % width + dx) for dy, dx in path.cells]
            y, x = cells[-1]
            if y < height and 0 <= x < width:
                highest = max(float(edge[cell]) for cell in cells)
                links[i, y * width + x] = links[y * width + x, i] = (1 - highest) ** beta
    return links / links.sum(0)


@pytest.mark.parametrize(("height", "width", "radius", "beta", "steps"), CASES)
def test_the_walk_is_the_power_of_the_dense_matrix(height, width, radius, beta, steps):
    x, edge = drawn(height, width)
    power = np.linalg.matrix_power(dense(edge.double(), beta, radius), steps)
    expected = ((x * (1 - edge)).double().flatten(1).numpy() @ power).reshape(x.shape)
    found = random_walk(x, edge[None], beta=beta, steps=steps, radius=radius)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 255, 256, 2048])
def test_shares_are_those_of_all_walks_on_the_line(steps):
    shares = ending_shares(steps)
    assert 1 - 1e-9 <= sum(shares) <= 1 + 1e-12
    ends = np.ones(1)
    for _ in range(steps):
        ends = (np.append(ends, 0) + np.append(0, ends)) / 2
    away = np.abs(np.arange(-steps, steps + 1, 2))
    expected = [ends[away == j].sum() for j in range(len(shares))]
    np.testing.assert_allclose(shares, expected, rtol=1e-9, atol=0)
    assert len(shares) <= 2 + 6.5 * math.sqrt(steps)


def test_a_long_walk_needs_a_share_of_the_products():
    assert len(ending_shares(256)) == 97


def test_edges_everywhere_leave_nothing():
    x, _ = drawn(6, 7)
    assert not random_walk(x, torch.ones(6, 7), beta=10, steps=256, radius=5).any()


def test_without_edges_all_cells_end_with_one_mean():
    x, edge = drawn(6, 7)[0], torch.zeros(6, 7)
    neighbours = (dense(edge, 10, 5) > 0).sum(0)
    expected = (x.flatten(1).numpy() * neighbours).sum(1) / neighbours.sum()
    found = random_walk(x, edge, beta=10, steps=5000, radius=5).flatten(1)
    np.testing.assert_allclose(found.numpy(), np.tile(expected[:, None], 42), rtol=0, atol=1e-6)


def test_scores_do_not_cross_a_wall():
    x, edge = torch.zeros(1, 9, 13), torch.zeros(9, 13)
    x[0, :, :4], edge[:, 6] = 1, 1
    found = random_walk(x, edge, beta=10, steps=256, radius=5)[0]
    assert found[:, :6].min() > 0.1
    assert not found[:, 6:].any()


def test_values_stay_between_those_at_the_start_and_classes_apart():
    x, edge = drawn(12, 15, n=3)
    found = random_walk(x, edge, beta=10, steps=256, radius=5)
    start = (x * (1 - edge)).flatten(1)
    assert (found.flatten(1).amax(1) <= start.amax(1) + 1e-6).all()
    assert (found.flatten(1).amin(1) >= start.amin(1) - 1e-6).all()
    alone = torch.cat([random_walk(p[None], edge, beta=10, steps=256, radius=5) for p in x])
    assert torch.equal(alone, found)
    assert random_walk(x[:0], edge, beta=10, steps=256, radius=5).shape == (0, 12, 15)


def test_edges_on_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"edges are \[6, 7\] but the scores \[7, 6\]"):
        random_walk(torch.zeros(2, 7, 6), torch.zeros(6, 7), beta=10, steps=1, radius=5)


def scene(planes, size):
    keys = torch.arange(len(planes)) + 2
    return ScoreMap(id="scene", keys=keys, planes=planes, size=size)


def test_planes_are_divided_by_the_highest_of_all_classes_at_full_resolution():
    x, edge = drawn(9, 11)
    x[1] *= 0.1
    size, config = (34, 43), Walk(steps=16, power=1.5)
    plain = random_walk(x**1.5, edge, beta=10, steps=16, radius=5)
    planes = walk_planes(scene(x, size), edge, config)
    expected = plain / upsample(plain, size).max()
    assert expected.max() > 1  # between samples, the peak is lower than the highest of them
    torch.testing.assert_close(planes, expected.clamp(max=1))
    assert 0 < planes[1].max() < 0.2


def test_nothing_stays_nothing():
    _, edge = drawn(9, 11)
    assert not walk_planes(scene(torch.zeros(2, 9, 11), (34, 43)), edge, Walk()).any()
    assert not walk_planes(scene(torch.ones(2, 9, 11), (34, 43)), torch.ones(9, 11), Walk()).any()
    assert walk_planes(scene(torch.zeros(0, 9, 11), (34, 43)), edge, Walk()).shape == (0, 9, 11)


def test_each_image_walks_on_its_own_edges():
    samples = open_samples("scenes:images=4", "train")
    seen = []

    def edges(image):
        seen.append(image)
        grid = [-(-side // 4) for side in image.shape[:2]]
        return torch.full(grid, image.mean() / 255)

    def planes(image, keys):
        return torch.rand(len(keys), *(-(-side // 4) for side in image.shape[:2]))

    maps = list(extract(samples, range(1, 4), planes))
    none = maps[1].planes[:0]
    maps[1] = maps[1]._replace(keys=maps[1].keys[:0], planes=none)
    found = list(walked(samples, range(1, 4), maps, edges, Walk()))
    assert [m.id for m in found] == [m.id for m in maps]
    assert found[1].planes is none
    assert len(seen) == 2
    expected = walk_planes(maps[2], edges(samples.image(3)), Walk())
    assert torch.equal(found[2].planes, expected)
    with pytest.raises(ValueError, match=f"score maps are of {maps[0].id} where"):
        next(walked(samples, [0], maps[:1], edges, Walk()))
