import math

import pytest
import torch

from wsss.cam.classifier import CAMNet, load_net, save_net
from wsss.cam.recam import (
    ReCAMNet,
    class_features,
    extraction_weight,
    recam_losses,
    sce,
    sce_accuracy,
    train_recam,
)
from wsss.config import ReCAMTraining
from wsss.data import open_samples
from wsss.nets.backbones import backbone
from wsss.training import Silent

SMALL = {"steps": 4, "epochs": 2, "batch": 4, "crop": 48, "long_side": (48, 64)}


class Reports(Silent):
    def __init__(self):
        super().__init__()
        self.reports = []

    def report(self, step, metrics):
        self.reports.append(metrics)


@pytest.fixture
def scenes():
    return open_samples("scenes:images=16", "train")


def test_class_features_equal_the_product_that_the_release_materialises():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 5, 3, 4, generator=generator)
    maps = torch.rand(2, 6, 3, 4, generator=generator)
    released = (maps[:, :, None] * features[:, None]).mean((3, 4))
    assert torch.allclose(class_features(features, maps), released, atol=1e-6)


def test_a_loss_done_by_hand():
    scores = torch.zeros(2, 3, 3)  # softmax says 1/3 for everything
    scores[0, 1] = torch.tensor([0.0, math.log(2), 0.0])  # and 1/2 for class 1 of image 0
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    expected = ((math.log(3) + math.log(2)) / 2 + math.log(3)) / 2
    assert sce(scores, labels).item() == pytest.approx(expected)


def test_an_image_without_a_class_counts_in_the_batch():
    scores, labels = torch.zeros(2, 3, 3), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert sce(scores, labels).item() == pytest.approx(math.log(3) / 2)


def test_a_batch_without_any_class_costs_nothing_and_gives_no_gradient():
    scores = torch.randn(2, 3, 3, requires_grad=True)
    loss = sce(scores, torch.zeros(2, 3))
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()
    assert sce_accuracy(scores, torch.zeros(2, 3)).item() == 0


def test_lambda_weighs_the_second_loss_and_the_gradient_reaches_everything():
    features = torch.rand(2, 4, 3, 3).requires_grad_()
    w, w_prime = (torch.randn(3, 4, 1, 1).requires_grad_() for _ in range(2))
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    terms = recam_losses(features, w, w_prime, labels, loss_weight=0.25)
    assert terms["loss"].item() == pytest.approx((terms["bce"] + 0.25 * terms["sce"]).item())
    for gradient in torch.autograd.grad(terms["sce"], (features, w, w_prime)):
        assert gradient.abs().max() > 0


def test_extraction_weights():
    net = ReCAMNet(backbone("tiny"), 3)
    w, w_prime = net.classifier.weight, net.recam.weight
    assert extraction_weight(net, "w") is w
    assert extraction_weight(net, "w_prime") is w_prime
    assert torch.equal(extraction_weight(net, "product"), w * w_prime)


def test_joint_training_starts_from_the_classifier_and_moves_all_of_it(scenes, tmp_path):
    start = CAMNet(backbone("tiny"), 8)
    before = {n: p.clone() for n, p in start.state_dict().items()}
    monitor = Reports()
    rates = {"lr_backbone": 0.01, "lr_head": 0.01, "lr_recam": 0.1}
    net = train_recam(scenes, start, ReCAMTraining(probe=3, **SMALL, **rates), monitor, scenes)
    assert net.backbone is start.backbone
    after = net.state_dict()
    for name, old in before.items():
        assert not torch.equal(after[name], old)
        assert (after[name] - old).norm() < 0.5
    expected = {"loss", "bce", "sce", "accuracy", "probe_miou"}
    probes = {"probe_miou_w", "probe_miou_w_prime", "probe_miou_product"}
    assert set(monitor.reports[-1]) == expected | probes
    best = max(monitor.reports[-1][name] for name in probes)
    assert monitor.reports[-1]["probe_miou"] == best
    save_net(net, tmp_path / "net.safetensors")
    back = load_net(tmp_path / "net.safetensors", ReCAMNet)
    assert torch.equal(back.recam.weight, net.recam.weight)


def test_without_the_second_loss_w_prime_keeps_its_first_weights(scenes):
    def trained(loss_weight, steps):
        torch.manual_seed(0)
        small = {**SMALL, "steps": steps, "epochs": 1}
        config = ReCAMTraining(loss_weight=loss_weight, weight_decay=0.0, **small)
        return train_recam(scenes, CAMNet(backbone("tiny"), 8), config, Silent()).recam.weight

    assert torch.equal(trained(0.0, steps=4), trained(0.0, steps=1))
    assert not torch.equal(trained(1.0, steps=4), trained(0.0, steps=1))


def test_a_classifier_of_other_classes_is_refused(scenes):
    with pytest.raises(ValueError, match="classifier knows 5 classes but the data set 8"):
        train_recam(scenes, CAMNet(backbone("tiny"), 5), ReCAMTraining(**SMALL), Silent())
