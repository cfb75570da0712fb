"""Golden unit 15b: SFC's losses, the second scale, the distribution coefficient and the bank."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.cam.sfc import Maps, bank_images, distribution_coefficient, label_mask, sfc_losses
from wsss.cam.sfc_bank import last_with
from wsss.cam.sfc_training import halved
from wsss.config.sfc import SFCTraining

VOC = [0.8065, 0.9025, 0.7726, 0.9809, 0.7732, 1.2084, 0.8725, 0.8318, 0.9068, 1.7694,
       0.7929, 0.8870, 1.0424, 0.9259, 1.5451, 0.8765, 1.5955, 0.7801, 0.9042, 0.8257]  # fmt: skip


@pytest.fixture(scope="module")
def unit(golden):
    return golden("unit15b_sfc_losses")


def test_losses_and_gradients_equal_the_release(unit):
    inputs = {
        name: torch.from_numpy(unit[name]).requires_grad_()
        for name in ("M1", "P1", "M2", "score1", "score2")
    }
    m1, p1, m2, score1, score2 = inputs.values()
    whole, half = Maps(score1.flatten(1), m1, p1, m1), Maps(score2.flatten(1), m2, m2, m2)
    labels, d = torch.from_numpy(unit["labels"]), torch.from_numpy(unit["dc"])
    config = SFCTraining()
    terms = sfc_losses(whole, half, labels, d, config.p_weight, config.w_weight)
    recorded = dict(zip(unit["loss_names"].tolist(), unit["losses"].tolist(), strict=True))
    names = {"bce": "cls", "l_p": "gsc_P", "l_w": "consistency_W", "loss": "total"}
    assert set(terms) == set(names)
    for ours, theirs in names.items():
        assert terms[ours].item() == pytest.approx(recorded[theirs], rel=1e-5)
    gradients = torch.autograd.grad(terms["loss"], list(inputs.values()))
    for name, gradient in zip(inputs, gradients, strict=True):
        assert np.abs(gradient.numpy() - unit[f"grad_{name}"]).max() <= 1e-6


def test_the_coefficient_of_voc_equals_the_released_table(unit):
    extra = bank_images(10582, 20, SFCTraining())
    assert extra == float(unit["dc_extra"]) == 396
    found = distribution_coefficient(torch.from_numpy(unit["class_counts"]), extra)
    assert found.tolist() == pytest.approx(VOC, abs=5e-5)
    assert np.abs(found.numpy() - unit["dc"]).max() < 2e-7


def test_the_second_scale_and_its_masks_equal_the_release(unit):
    images, valid = torch.from_numpy(unit["prep_img1"]), torch.from_numpy(unit["prep_valid"])
    assert torch.equal(halved(images), torch.from_numpy(unit["prep_img2"]))
    by_label = label_mask(torch.from_numpy(unit["prep_labels"]))
    for name in ("prep_valid_low0", "prep_valid_low1"):
        recorded = torch.from_numpy(unit[name]).float()
        grid = recorded.shape[-2:]
        mask = by_label * F.interpolate(valid[:, None].float(), grid, mode="nearest")
        assert torch.equal(mask, recorded)


@pytest.mark.parametrize("part", ["img", "label", "valid"])
def test_the_bank_s_slots_equal_the_release(unit, part):
    places = last_with(unit["bank_in_label"] > 0)
    views = unit[f"bank_in_{part}"]
    slots = np.stack([views[p] if p >= 0 else np.zeros_like(views[0]) for p in places])
    assert (places >= 0).sum() < len(places)
    np.testing.assert_array_equal(slots, unit[f"bank_{part}"])
