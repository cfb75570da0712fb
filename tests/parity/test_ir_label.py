"""Golden units 10 and 10s: seeds, their CRFs, and what is sure of them, exactly."""

import numpy as np
import pytest
import torch

from wsss.cam.scores import ScoreMap
from wsss.config.refine import CRF, IRLabels
from wsss.labels import ir_label, local_seed, seed_ir_label
from wsss.refine.crf import crf_labels


@pytest.mark.parametrize("unit", ["unit10s_ir_label_synthetic", "unit10_ir_label"])
@pytest.mark.parametrize("rule", ["irn", "recam"])
def test_each_step_equals_the_release(golden, unit, rule):
    arrays = golden(unit)
    keys = torch.from_numpy(arrays["keys"])
    refined = []
    for threshold, side in zip(arrays[f"{rule}_thresholds"].tolist(), ("fg", "bg"), strict=True):
        seed = local_seed(torch.from_numpy(arrays["cams"]), threshold)
        np.testing.assert_array_equal(seed.numpy(), arrays[f"{rule}_{side}_seed"])
        refined.append(crf_labels(arrays["image"], seed, len(keys) + 1, CRF()))
        np.testing.assert_array_equal(refined[-1].numpy(), arrays[f"{rule}_{side}_crf"])
    found = ir_label(*refined, keys)
    np.testing.assert_array_equal(found.numpy(), arrays[f"{rule}_label"])
    assert set(found.unique().tolist()) == {0, 255, *(keys + 1).tolist()}


def test_published_thresholds(golden):
    arrays = golden("unit10s_ir_label_synthetic")
    defaults = IRLabels()
    thresholds = [defaults.threshold_fg, defaults.threshold_bg]
    assert thresholds == arrays["recam_thresholds"].tolist()


def test_from_stored_planes_nearly_all_pixels_are_the_same(golden):
    # What is stored has a quarter of the rows and columns, so that the seeds' outlines move.
    arrays = golden("unit10s_ir_label_synthetic")
    whole = torch.from_numpy(arrays["cams"])
    height, width = whole.shape[1:]
    grid = (-(-height // 4), -(-width // 4))
    planes = torch.nn.functional.interpolate(whole[None], grid, mode="bilinear")[0]
    keys = torch.from_numpy(arrays["keys"])
    scores = ScoreMap(id="scene", keys=keys, planes=planes, size=(height, width))
    found = seed_ir_label(arrays["image"], scores, IRLabels())
    assert (found.numpy() != arrays["recam_label"]).mean() < 0.05
