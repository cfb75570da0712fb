"""Golden unit 13: what pairs should be, exactly."""

import numpy as np
import pytest
import torch

from wsss.data.transforms import rescale
from wsss.refine.affinity import affinity_labels, paths


def recorded_order(unit, name: str) -> list[int]:
    place = {path.offset: i for i, path in enumerate(paths(10 if name == "r10" else 5))}
    return [place[y, x] for y, x in unit[f"{name}_offsets"].tolist()]


@pytest.mark.parametrize("name", ["r5", "r10"])
def test_labels_of_pairs_equal_the_release(golden, name):
    unit = golden("unit13_affinity_labels")
    found = affinity_labels(torch.from_numpy(unit[f"{name}_label"])[None], int(name[1:]))
    order = recorded_order(unit, name)
    for ours, theirs in zip(found, ("bg_pos", "fg_pos", "neg"), strict=True):
        np.testing.assert_array_equal(ours[0, order].numpy(), unit[f"{name}_{theirs}"] == 1)


def test_a_label_of_the_published_size_equals_the_release(golden):
    unit = golden("unit13_affinity_labels")
    small = rescale(unit["full_label_512"], 1 / 4, "nearest")
    np.testing.assert_array_equal(small, unit["full_label_128"])
    found = affinity_labels(torch.from_numpy(small)[None], 10)
    assert found.negative.shape == (1, 152, int(unit["full_n_src"]))
    sums = torch.stack([part[0].sum(-1) for part in found], dim=-1)
    np.testing.assert_array_equal(sums[recorded_order(unit, "r10")], unit["full_sums_per_offset"])
