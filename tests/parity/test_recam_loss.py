import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.cam.recam import recam_losses, sce, sce_accuracy


def near(actual, recorded):
    """Gradients: 1e-3 relative to the largest entry."""
    assert tuple(actual.shape) == recorded.shape
    assert np.abs(actual.numpy() - recorded).max() <= 1e-3 * np.abs(recorded).max()


@pytest.mark.parametrize("variant", ["a", "b"])
def test_softmax_loss_and_gradients_equal_the_release(golden, w_prime, variant):
    unit = golden("unit03_recam_sce")
    features = torch.from_numpy(unit["class_features"]).requires_grad_()
    labels = torch.from_numpy(unit[f"labels_{variant}"])
    weight = w_prime.clone().requires_grad_()
    scores = F.linear(features, weight.flatten(1))
    loss = sce(scores, labels)
    to_features, to_weight = torch.autograd.grad(loss, (features, weight))
    assert loss.item() == pytest.approx(float(unit[f"loss_{variant}"]), rel=1e-5)
    assert float(sce_accuracy(scores, labels)) == pytest.approx(float(unit[f"acc_{variant}"]))
    near(to_features[labels == 1], unit[f"grad_features_{variant}"])
    assert not to_features[labels == 0].any()
    if variant == "a":
        near(to_weight, unit["grad_weight_a"])


def test_joint_training_loss_and_gradients_equal_the_release(golden, cam_net, w_prime):
    # In double precision: in float32 a few ReLUs of layer1 fall to the other side of zero on some
    # processors, which moves an entry of its gradient by 5e-3 of the largest.
    unit, net = golden("unit03_recam_sce"), copy.deepcopy(cam_net).double()
    x = torch.from_numpy(golden("unit02_recam_features")["x"]).double()
    named = dict(net.named_parameters())
    w, second = named["classifier.weight"], w_prime.double().requires_grad_()
    labels = torch.from_numpy(unit["joint_labels"])
    terms = recam_losses(net.backbone(x)[-1], w, second, labels, 1.0)
    for ours, theirs in (("bce", "joint_bce"), ("sce", "joint_sce"), ("loss", "joint_total")):
        assert terms[ours].item() == pytest.approx(float(unit[theirs]), rel=1e-5)
    names = [str(name) for name in unit["joint_grad_names"]]
    inputs = [named[n if n.startswith("classifier") else f"backbone.{n}"] for n in names]
    *gradients, to_second = torch.autograd.grad(terms["loss"], [*inputs, second])
    found = dict(zip(names, gradients, strict=True))
    norms = [gradient.norm().item() for gradient in gradients]
    assert norms == pytest.approx(unit["joint_grad_norms"].tolist(), rel=1e-3)
    near(to_second, unit["joint_grad_recam_weight"])
    near(found["classifier.weight"], unit["joint_grad_classifier_weight"])
    near(found["layer4.2.bn3.weight"], unit["joint_grad_layer4_2_bn3_weight"])
    near(found["layer1.0.bn1.weight"], unit["joint_grad_layer1_0_bn1_weight"])


def test_the_stem_takes_no_part_in_joint_training(cam_net):
    frozen = [n for n, p in cam_net.named_parameters() if not p.requires_grad]
    assert frozen == [
        "backbone.stem.conv1.weight",
        "backbone.stem.bn1.weight",
        "backbone.stem.bn1.bias",
    ]
