"""Golden unit 12: the random walk, to 5e-5 of the release's float32, and its label maps."""

import numpy as np
import pytest
import torch

from wsss.cam.scores import ScoreMap
from wsss.config.refine import PseudoLabels, Walk
from wsss.labels import pseudo_label
from wsss.refine.walk import random_walk, walk_planes

WALKS = {
    "rw_b10_t8": {"beta": 10, "steps": 256, "radius": 5},
    "rw_b6_t4": {"beta": 6, "steps": 16, "radius": 5},
    "rw_b10_t0": {"beta": 10, "steps": 1, "radius": 5},
    "rw_b10_t4_radius3": {"beta": 10, "steps": 16, "radius": 3},
}


@pytest.mark.parametrize("name", WALKS)
def test_walks_equal_the_release(golden, name):
    unit = golden("unit12_random_walk")
    x, edge = torch.from_numpy(unit["x"]), torch.from_numpy(unit["edge"])
    found = random_walk(x, edge, **WALKS[name])
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), unit[name], rtol=0, atol=5e-5)


@pytest.mark.parametrize("threshold", [0.25, 0.28])
def test_label_maps_equal_the_release(golden, threshold):
    unit = golden("unit12_random_walk")
    height, width = unit["sem_size"].tolist()
    scores = ScoreMap(
        id="scene",
        keys=torch.from_numpy(unit["sem_keys"]),
        planes=torch.from_numpy(unit["x"]),
        size=(height, width),
    )
    planes = walk_planes(scores, torch.from_numpy(unit["edge"])[0], Walk())
    found = pseudo_label(scores._replace(planes=planes), PseudoLabels(threshold=threshold))
    recorded = unit[f"sem_label_t{str(threshold).replace('.', '_')}"]
    np.testing.assert_array_equal(found.numpy(), recorded)
    assert set(np.unique(recorded)) == {0, 7, 15}
