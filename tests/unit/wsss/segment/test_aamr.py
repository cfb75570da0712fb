import numpy as np
import pytest
import torch
from PIL import Image

from wsss.cam.scores import ScoreMap
from wsss.config.segment import AAMRTargets
from wsss.data.saliency import SaliencyMaps
from wsss.segment.aamr import aamr_proposed, aamr_target, aamr_targets

CONFIG = AAMRTargets()
SALIENT = np.zeros((6, 12), dtype=np.uint8)
SALIENT[1:5, 1:5] = 255  # a known object
SALIENT[1:5, 7:9] = 255  # a salient thing without a class
ACTIVE = torch.zeros(6, 12)
ACTIVE[2, 2] = 0.9  # 1 of 16 pixels of the object
ACTIVE[:, 11] = 0.5  # an object that is not salient


def test_the_target_by_hand():
    expected = np.zeros((6, 12), dtype=np.uint8)
    expected[1:5, 1:5] = 1
    expected[1:5, 7:9] = 255
    expected[:, 11] = 255
    target = aamr_target(SALIENT, ACTIVE, CONFIG)
    assert target.dtype == np.uint8
    np.testing.assert_array_equal(target, expected)


def test_both_thresholds_and_the_share_are_inclusive():
    saliency, active = np.array([[127, 128, 255]], dtype=np.uint8), torch.tensor([[0.3, 0.3, 0]])
    assert aamr_target(saliency, active, CONFIG).tolist() == [[255, 1, 1]]
    half = AAMRTargets(share=0.5)
    assert aamr_target(saliency, active, half).tolist() == [[255, 1, 1]]
    more = AAMRTargets(share=0.51, activation=0.31)
    assert aamr_target(saliency, active, more).tolist() == [[0, 255, 255]]


def test_regions_touch_by_their_sides_alone():
    saliency = np.array([[255, 0], [0, 255]], dtype=np.uint8)
    active = torch.tensor([[1.0, 0], [0, 0]])
    assert aamr_target(saliency, active, CONFIG).tolist() == [[1, 0], [0, 255]]


@pytest.mark.parametrize("level", [0, 255])
def test_an_image_all_of_one_kind(level):
    saliency = np.full((4, 5), level, dtype=np.uint8)
    target = aamr_target(saliency, torch.ones(4, 5), CONFIG)
    assert np.unique(target).tolist() == [1 if level else 255]
    target = aamr_target(saliency, torch.zeros(4, 5), CONFIG)
    assert np.unique(target).tolist() == [255 if level else 0]


def gradient(target, logits):
    """-dL/dz of each pixel: where the loss pulls the foreground logits and the background's."""
    logits = logits.clone().requires_grad_()
    aamr_proposed(logits, torch.from_numpy(target)[None]).backward()
    return -logits.grad[0]


def test_the_gradient_is_zero_on_what_is_left_alone_and_pulls_to_the_contour_elsewhere():
    target = aamr_target(SALIENT, ACTIVE, CONFIG)
    logits = torch.randn(1, 4, 6, 12, generator=torch.Generator().manual_seed(0))
    pull = gradient(target, logits)
    left_alone = torch.from_numpy(target == 255)
    assert not pull[:, left_alone].any()
    assert not pull[:, :, 11].any()  # above all, an active object is not pulled to background
    background, foreground = pull[0], pull[1:]
    inside, outside = torch.from_numpy(target == 1), torch.from_numpy(target == 0)
    assert (background[inside] < 0).all()
    assert (foreground[:, inside] > 0).all()
    assert (background[outside] > 0).all()
    assert (foreground[:, outside] < 0).all()


def test_the_loss_is_the_mean_of_bce_over_what_counts():
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0, 1, 255, 1, 0], dtype=torch.uint8).expand(2, 4, 5)
    p = 1 - logits.softmax(1)[:, 0]
    bce = (target == 1) * -p.log() + (target == 0) * -(1 - p).log()
    expected = bce.sum() / ((target != 255).sum() + 1e-5)
    torch.testing.assert_close(aamr_proposed(logits, target), expected)
    assert aamr_proposed(logits, torch.full_like(target, 255)) == 0


def test_logits_of_any_size_keep_the_loss_finite():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]]).view(1, 2, 1, 2).requires_grad_()
    loss = aamr_proposed(logits, torch.tensor([[[1, 0]]], dtype=torch.uint8))
    loss.backward()
    assert loss.isfinite()
    assert float(loss.detach()) == pytest.approx(400, rel=1e-4)
    assert logits.grad.isfinite().all()


def test_targets_come_from_saliency_and_score_maps(tmp_path):
    Image.fromarray(SALIENT).save(tmp_path / "b.png")
    planes = torch.zeros(2, 2, 3)
    planes[1, 0, 0] = 1
    scores = [ScoreMap("b", torch.tensor([3, 7]), planes, (6, 12))]
    [(name, target)] = aamr_targets(SaliencyMaps(tmp_path), scores, CONFIG)
    assert name == "b"
    assert target[1:5, 1:5].tolist() == [[1] * 4] * 4
    assert np.unique(target[1:5, 7:9]).tolist() == [255]
    without = [ScoreMap("b", torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, 3), (6, 12))]
    [(_, target)] = aamr_targets(SaliencyMaps(tmp_path), without, CONFIG)
    assert np.array_equal(target, np.where(SALIENT > 0, 255, 0))
