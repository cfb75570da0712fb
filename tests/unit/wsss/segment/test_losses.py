from math import exp, log

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from wsss.config.segment import SegmentationTraining
from wsss.segment.aamr import aamr_proposed
from wsss.segment.losses import (
    balanced_cross_entropy,
    cross_entropy,
    label_at,
    segmentation_losses,
)

CONFIG = SegmentationTraining()


def logits_and_label(seed=0, size=(5, 7), ids=(0, 1, 2, 255)):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, *size, generator=generator)
    places = torch.randint(0, len(ids), (2, *size), generator=generator)
    return logits, torch.tensor(ids, dtype=torch.uint8)[places]


@pytest.mark.parametrize(("was", "now"), [(321, 41), (321, 21), (321, 31), (96, 13), (40, 56)])
def test_labels_are_resized_as_pillow_does(was, now):
    label = torch.randint(0, 256, (2, was, was - 20), dtype=torch.uint8)
    found = label_at(label, (now, now + 3))
    for ours, whole in zip(found, label, strict=True):
        picture = Image.fromarray(whole.numpy()).resize((now + 3, now), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(ours.numpy(), np.array(picture))


def test_a_label_on_its_own_grid_stays():
    label = torch.zeros((1, 4, 5), dtype=torch.uint8)
    assert label_at(label, (4, 5)) is label


def test_cross_entropy_is_the_mean_over_labelled_pixels():
    logits, label = logits_and_label()
    expected = F.cross_entropy(logits, label.long(), ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, label), expected)


def test_the_balanced_loss_by_hand():
    # One foreground pixel among three of background; the last is open.
    logits = torch.tensor([[0.0, 0.0, 1.0, 2.0, 9.0], [0.0, 3.0, 0.0, 0.0, 0.0]]).view(1, 2, 1, 5)
    label = torch.tensor([[[1, 0, 0, 0, 255]]], dtype=torch.uint8)
    foreground = log(2)
    background = (log(1 + exp(3)) + log(1 + exp(-1)) + log(1 + exp(-2))) / 3
    found = balanced_cross_entropy(logits, label)
    assert float(found) == pytest.approx(foreground + background)
    alone = balanced_cross_entropy(logits[..., 1:], label[..., 1:])
    assert float(alone) == pytest.approx(background)


@pytest.mark.parametrize("loss", ["ce", "balanced"])
def test_without_a_labelled_pixel_nothing_is_learned(loss):
    logits, label = logits_and_label(ids=(255,))
    logits.requires_grad_()
    found = segmentation_losses([logits], label, SegmentationTraining(loss=loss))["loss"]
    found.backward()
    assert found == 0
    assert not logits.grad.any()


def test_open_pixels_have_no_gradient():
    logits, label = logits_and_label()
    logits.requires_grad_()
    (cross_entropy(logits, label) + balanced_cross_entropy(logits, label)).backward()
    moved = logits.grad.abs().sum(1) > 0
    assert torch.equal(moved, label != 255)


def test_the_loss_of_a_step_is_the_sum_over_its_outputs():
    label = logits_and_label(size=(32, 32))[1]
    outputs = [torch.randn(2, 3, size, size) for size in (8, 4, 6, 8)]
    found = segmentation_losses(outputs, label, CONFIG)
    expected = 0.0
    for logits in outputs:
        small = label_at(label, (logits.shape[-2], logits.shape[-1]))
        expected += float(F.cross_entropy(logits, small.long(), ignore_index=255))
    assert set(found) == {"loss"}
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-6)


def test_a_target_adds_the_mask_refinement_loss_but_not_where_the_label_is_open():
    logits, label = logits_and_label()
    target = torch.ones_like(label)
    config = SegmentationTraining(aamr_weight=0.5)
    found = segmentation_losses([logits, logits], label, config, target)
    expected = 2 * aamr_proposed(logits, target.masked_fill(label == 255, 255))
    torch.testing.assert_close(found["aamr"], expected)
    torch.testing.assert_close(found["pixels"], 2 * cross_entropy(logits, label))
    torch.testing.assert_close(found["loss"], found["pixels"] + 0.5 * found["aamr"])
    assert found["aamr"] != 2 * aamr_proposed(logits, target)
