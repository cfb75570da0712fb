import pytest
import torch
import torch.nn.functional as F

from wsss.cam.classifier import cam_source
from wsss.cam.recam import ReCAMNet, extraction_weight
from wsss.data.transforms import flip


@pytest.fixture
def net(cam_net, w_prime):
    net = ReCAMNet(cam_net.backbone, 20)
    net.classifier = cam_net.classifier
    with torch.no_grad():
        net.recam.weight.copy_(w_prime)
    return net.eval()


@pytest.mark.parametrize("which", ["w", "w_prime", "product"])
def test_each_extraction_weight_equals_the_release(golden, net, close, which):
    unit = golden("unit04_cam_inference")
    x = torch.from_numpy(unit["x"])
    source = cam_source(net, extraction_weight(net, which))
    close(source(torch.cat([x, flip(x)]), torch.arange(20)), unit[f"cam_{which}"])


def test_raw_maps_of_the_product_equal_the_release(golden, net, close):
    unit = golden("unit04_cam_inference")
    x = torch.from_numpy(unit["x"])
    with torch.no_grad():
        features = net(torch.cat([x, flip(x)]))
        raw = F.conv2d(features, extraction_weight(net, "product"))
    close(raw, unit["raw_product_pair"])


def test_the_network_is_filled_like_the_recorded_one(golden, net, fill):
    assert fill(net) == str(golden("unit04_cam_inference")["weights_sha256"])
