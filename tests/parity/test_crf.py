"""Golden units 9 and 9s: the CRF on label maps, exactly with pydensecrf2 1.1."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wsss.config.refine import CRF
from wsss.refine.crf import crf_labels, crf_probabilities

UNITS = ("unit09s_crf_labels_synthetic", "unit09_crf_labels")
CASES = {
    "n2": ("n2", 2, CRF()),
    "n3": ("n3", 3, CRF()),
    "n5": ("n3", 5, CRF()),  # two of the labels occur nowhere
    "n3_t1": ("n3", 3, CRF(iterations=1)),
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("case", CASES)
def test_labels_and_marginals_equal_the_release(golden, unit, case):
    arrays, (given, n, config) = golden(unit), CASES[case]
    label = torch.from_numpy(arrays[f"small_label_{given}"])
    found = crf_labels(arrays["small_image"], label, n, config)
    np.testing.assert_array_equal(found.numpy(), arrays[f"small_{case}_out"])
    probs = torch.full((n, *label.shape), (1 - config.gt_prob) / (n - 1))
    probs.scatter_(0, label[None].long(), config.gt_prob)
    q = crf_probabilities(arrays["small_image"], probs, config)
    np.testing.assert_allclose(q.numpy(), arrays[f"small_{case}_q"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("unit", UNITS)
def test_labels_that_are_trusted_more_equal_the_release(golden, unit):
    arrays, config = golden(unit), replace(CRF(), gt_prob=0.9)
    label = torch.from_numpy(arrays["small_label_n3"])
    found = crf_labels(arrays["small_image"], label, 3, config)
    np.testing.assert_array_equal(found.numpy(), arrays["small_n3_p09_out"])
    assert not np.array_equal(found.numpy(), arrays["small_n3_out"])


def test_a_whole_photo_equals_the_release(golden):
    arrays = golden("unit09_crf_labels")
    label, n = torch.from_numpy(arrays["full_label"]), int(arrays["full_n"])
    found = crf_labels(arrays["full_image"], label, n, CRF())
    np.testing.assert_array_equal(found.numpy(), arrays["full_out"])
