"""Golden unit 15a: SFC's network in training, and at inference on an image and its mirror image."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.cam.scores import max_normalised, mirrored_sum
from wsss.cam.sfc import SFCNet, pair_maps, training_maps
from wsss.config.sfc import SFCTraining
from wsss.data.transforms import flip
from wsss.nets.backbones import backbone


@pytest.fixture(scope="module")
def unit(golden):
    return golden("unit15a_sfc_forward")


@pytest.fixture(scope="module")
def net(fill, unit):
    net = SFCNet(backbone("resnet50"), 20)
    assert fill(net) == str(unit["weights_sha256"])
    return net.eval()


@pytest.fixture(scope="module")
def inputs(unit):
    """Images, labels and valid pixels; the mask was recorded on the grid, times the label."""
    images, labels = torch.from_numpy(unit["x"]), torch.from_numpy(unit["labels"])
    mask = torch.from_numpy(unit["valid_mask"])
    assert torch.equal(mask[:, 1:], mask[:, :1] * labels[:, :, None, None])
    return images, labels, F.interpolate(mask[:, :1], images.shape[-2:], mode="nearest")


@pytest.fixture(scope="module")
def pair(unit):
    x = torch.from_numpy(unit["infer_x"])
    return torch.cat([x, flip(x)])


def test_the_network_has_the_published_number_of_weights(net):
    assert sum(p.numel() for p in net.parameters()) == 28_634_176


def test_training_maps_equal_the_release(unit, net, inputs, close):
    with torch.no_grad():
        found = training_maps(net, *inputs, SFCTraining())
    close(found.score, unit["score"])
    close(found.classifier, unit["cam1"])
    close(found.prototype, unit["cam2"])
    close(found.original, unit["orignal_cam"])


def test_gradients_equal_the_release_and_stop_where_it_stops_them(unit, net, inputs):
    # In double precision: in float32 a few ReLUs fall to the other side of zero elsewhere.
    double = copy.deepcopy(net).double()
    images, labels, valid = (part.double() for part in inputs)
    maps = training_maps(double, images, labels, valid, SFCTraining())
    bce = F.multilabel_soft_margin_loss(maps.score, labels)
    loss = bce + (maps.classifier - max_normalised(maps.prototype)).abs().mean()
    assert loss.item() == pytest.approx(float(unit["loss_for_grad"]), rel=1e-5)
    loss.backward()
    named = {
        name.removeprefix("backbone.").removeprefix("stem."): parameter.grad
        for name, parameter in double.named_parameters()
    }
    untrained = sorted(name for name, gradient in named.items() if gradient is None)
    assert untrained == unit["params_without_grad"].tolist()
    norms = [named[name].norm().item() for name in unit["grad_names"]]
    assert norms == pytest.approx(unit["grad_norms"].tolist(), rel=1e-3)
    recorded = unit["grad_classifier_weight"]
    error = np.abs(named["classifier.weight"][:, ::16].numpy() - recorded).max()
    assert error <= 1e-3 * np.abs(recorded).max()


def test_inference_equals_the_release(unit, net, pair, close):
    labels = torch.from_numpy(unit["infer_label21"])[None, 1:]
    with torch.no_grad():
        found = pair_maps(net, pair, labels, bg_factor=0.3, compat="release")
    close(found.classifier[0], unit["infer_M"])
    close(found.prototype[0], unit["infer_P"])
    close(found.original[0], unit["infer_A"])


def test_features_of_the_sides_equal_the_release(unit, net, pair):
    with torch.no_grad():
        hierarchy = mirrored_sum(net.shared(pair).hierarchy)
        last = net(torch.from_numpy(unit["x"]))
    for found, recorded in ((hierarchy, "hier_stat"), (last, "layer4_stat")):
        stat = [found.mean(), found.std(correction=0), found.abs().max()]
        assert [float(s) for s in stat] == pytest.approx(unit[recorded].tolist(), rel=1e-4)
