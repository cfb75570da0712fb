import pytest
import torch
from torch import nn

from wsss.cam.classifier import CAMNet, cam, cam_source, load_net, logits, save_net, train_cam
from wsss.cam.recam import ReCAMNet
from wsss.config import CAMTraining
from wsss.data import open_samples
from wsss.nets.backbones import backbone
from wsss.training import Silent

SMALL = {
    "backbone": "tiny",
    "weights": "random",
    "batch": 8,
    "crop": 64,
    "long_side": (64, 80),
    "momentum": 0.9,
    "lr_backbone": 0.02,
    "lr_head": 0.2,
}


class Reports(Silent):
    def __init__(self):
        super().__init__()
        self.reports = []

    def report(self, step, metrics):
        self.reports.append(metrics)


@pytest.fixture
def scenes():
    return open_samples("scenes:images=32", "train")


def test_logits_and_maps_of_a_case_done_by_hand():
    features = torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]])  # 1 image, 2 channels, 1 x 2 cells
    weight = torch.tensor([[1.0, -1.0], [0.5, 2.0], [-1.0, -1.0]]).view(3, 2, 1, 1)
    assert logits(features, weight).tolist() == [[1.0, 3.0, -3.0]]
    assert cam(features, weight)[0, :, 0].tolist() == [[0.0, 3.0], [4.5, 1.5], [0.0, 0.0]]


def test_a_source_adds_the_mirror_image_after_the_relu():
    net = CAMNet(backbone("tiny"), 3).eval()
    pair = torch.randn(2, 3, 32, 48)
    pair[1] = pair[0].flip(-1)
    source, keys = cam_source(net, net.classifier.weight), torch.tensor([2, 0])
    maps, swapped = source(pair, torch.arange(3)), source(pair.flip(0), torch.arange(3))
    assert maps.shape == (3, 8, 12)
    assert maps.min() >= 0
    assert torch.allclose(maps, swapped.flip(-1), atol=1e-5)
    assert torch.allclose(source(pair, keys), maps[keys])


def test_training_lowers_the_loss_and_reports_the_probe(scenes):
    monitor = Reports()
    config = CAMTraining(steps=24, epochs=2, probe=4, **SMALL)
    net = train_cam(scenes, config, monitor, masks=scenes)
    first, last = monitor.reports
    assert last["loss"] < first["loss"] < 0.75
    assert 0 < last["probe_miou"] == last["probe_miou_w"] < 1
    assert not net.training


def test_the_probe_changes_no_weight(scenes):
    nets = [
        train_cam(scenes, CAMTraining(steps=2, epochs=2, probe=n, **SMALL), Silent(), scenes)
        for n in (0, 3)
    ]
    one, two = (net.state_dict() for net in nets)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_probe_without_masks_is_refused(scenes):
    with pytest.raises(ValueError, match="probe is 5 but there is no split with masks"):
        train_cam(scenes, CAMTraining(steps=2, epochs=1, probe=5, **SMALL), Silent())


def test_training_behind_a_cut_leaves_what_precedes_it(scenes):
    config = CAMTraining(steps=2, epochs=1, detach_after=2, **SMALL)
    start = train_cam(scenes, CAMTraining(steps=1, epochs=1, **{**SMALL, "lr_backbone": 0.0,
                      "lr_head": 0.0}), Silent()).state_dict()  # fmt: skip
    end = train_cam(scenes, config, Silent()).state_dict()
    moved = {name.split(".")[1] for name in end if not torch.equal(start[name], end[name])}
    assert moved == {"layer3", "layer4", "weight"}


def test_features_are_float32_whatever_the_precision():
    net = CAMNet(backbone("tiny"), 3).eval()
    x = torch.randn(1, 3, 32, 32)
    exact, rounded = net(x), net(x, precision="bfloat16")
    assert exact.dtype == rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.1 * exact.abs().max()


def test_a_network_comes_back_from_its_file_alone(tmp_path):
    net = CAMNet(backbone("tiny"), 5).eval()
    save_net(net, tmp_path / "net.safetensors")
    back = load_net(tmp_path / "net.safetensors", CAMNet)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(back(x), net(x))
    assert torch.equal(back.classifier.weight, net.classifier.weight)
    assert back.backbone.name == "tiny"
    assert not back.training


def test_a_file_of_another_kind_is_named(tmp_path):
    path = tmp_path / "net.safetensors"
    save_net(CAMNet(backbone("tiny"), 5), path)
    with pytest.raises(ValueError, match=r"net\.safetensors does not fit .* lacks recam\.weight$"):
        load_net(path, ReCAMNet)
    with pytest.raises(ValueError, match=r"absent\.safetensors does not exist"):
        load_net(tmp_path / "absent.safetensors", CAMNet)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth cannot be read"):
        load_net(tmp_path / "other.pth", CAMNet)


def test_maps_made_in_bfloat16_are_close_to_those_in_float32():
    net = CAMNet(backbone("tiny"), 3).eval()
    pair, weight = torch.randn(2, 3, 32, 48), net.classifier.weight
    sources = (cam_source(net, weight, precision) for precision in ("float32", "bfloat16"))
    exact, rounded = (source(pair, torch.arange(3)) for source in sources)
    assert exact.dtype == rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.1 * exact.max()
