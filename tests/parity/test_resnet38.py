"""Golden unit 18: psa's Wide ResNet-38 and its class maps."""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsss.cam.classifier import CAMNet, cam, logits
from wsss.nets.backbones import backbone


@pytest.fixture(scope="module")
def net(fill) -> CAMNet:
    net = CAMNet(backbone("resnet38"), 20)
    fill(recorded(net))
    with torch.no_grad():
        for name, tensor in recorded(net).state_dict().items():
            if ends_a_branch(name):  # what `fill` does not know of this network
                tensor.mul_(0.5)
    return net.eval()


def recorded(net: CAMNet) -> nn.Module:
    """The same tensors under the names of the recording, which are psa's."""
    named = nn.Module()
    for stage in net.backbone.children():
        for name, part in stage.named_children():
            named.add_module(name, part)
    named.add_module("fc8", net.classifier)
    return named


def ends_a_branch(name: str) -> bool:
    block, _, rest = name.partition(".")
    last = "conv_branch2b2" if block in ("b6", "b7") else "conv_branch2b1"
    return rest == f"{last}.weight"


def test_names_shapes_and_values_are_those_of_the_recorded_network(golden, net):
    unit, state = golden("unit18_resnet38"), recorded(net).state_dict()
    names = sorted(name for name in state if not name.endswith("num_batches_tracked"))
    assert names == sorted(str(name) for name in unit["weights_names"])
    assert sum(state[name].numel() for name in names) == unit["weights_count"]
    digest = hashlib.sha256()
    for name in names:
        digest.update(state[name].numpy().astype("<f4").tobytes())
    assert digest.hexdigest() == str(unit["weights_sha256"])


def test_features_maps_and_logits_equal_the_release(golden, net, close):
    unit = golden("unit18_resnet38")
    trunk, found = net.backbone, {}
    with torch.no_grad():
        x = torch.from_numpy(unit["x"])
        found["conv1a"] = trunk.stem.conv1a(x)
        found["b2_2"] = trunk.stem(x)
        found["b3_2"], second, third, features = trunk(x)
        found["conv4"] = F.relu(trunk.layer3.b5.bn_branch2a(second))
        found["conv5"] = F.relu(trunk.layer4.b6.bn_branch2a(third))
        found["conv6"] = features
        close(features[:, ::64], unit["conv6_slice"])
        close(cam(features, net.classifier.weight), unit["cam"])
        close(logits(features, net.classifier.weight), unit["logits"])
    for name, value in found.items():
        statistics = [value.double().mean(), value.double().std(correction=0), value.abs().max()]
        expected = unit[f"{name}_stat"].tolist()
        assert [float(s) for s in statistics] == pytest.approx(expected, rel=1e-4, abs=1e-6)
