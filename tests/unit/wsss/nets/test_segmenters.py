import pytest
import torch

from wsss.config import content_of
from wsss.nets.backbones import backbone
from wsss.nets.encoder_decoder import encoder_decoder
from wsss.nets.segmenters import (
    Network,
    described,
    load_segmenter,
    save_segmenter,
    segmenter,
)
from wsss.nets.weights import save_weights

NETWORKS = [
    Network(architecture="deeplabv2", backbone="tiny", classes=4, pyramid=(0.5,)),
    Network(architecture="deeplabv2", backbone="efficientnet_lite0", classes=3),
    Network(architecture="deeplabv3plus", backbone="efficientnet_lite0", classes=5),
    Network(architecture="deeplabv3plus", backbone="resnet10t", classes=2),
    Network(architecture="upernet", backbone="swin_tiny_patch4_window7_224", classes=3),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: f"{n.architecture}-{n.backbone}")
def test_every_network_is_trained_and_comes_back_from_its_file(network, tmp_path):
    torch.manual_seed(0)
    net = segmenter(network)
    images = torch.randn(2, 3, 65, 96)
    outputs = net.train()(images)
    torch.stack([o.square().mean() for o in outputs]).sum().backward()
    assert outputs[-1].dtype == torch.float32
    assert all(p.grad is not None for p in net.classifier.parameters())
    assert any(p.grad is not None and p.grad.any() for p in net.backbone.parameters())
    save_segmenter(net, tmp_path / "net.safetensors")
    again = load_segmenter(tmp_path / "net.safetensors")
    assert described(again) == described(net) == network
    assert (again.mean, again.std) == (net.mean, net.std)
    with torch.no_grad():
        ours, theirs = net.eval()(images), again(images)
    assert ours[-1].shape[:2] == (2, network.classes)
    assert ours[-1].std() > 0
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_decoders_answer_on_the_image_s_own_grid():
    net = encoder_decoder("deeplabv3plus", "efficientnet_lite0", 3).eval()
    with torch.no_grad():
        odd = net(torch.zeros(1, 3, 61, 83))[0]
        assert odd.shape == (1, 3, 61, 83)
        padded = net(torch.zeros(1, 3, 64, 88))[0]
    assert torch.equal(odd, padded[..., :61, :83])


def test_our_backbones_bring_their_weights_and_colours():
    trunk = backbone("efficientnet_lite0", "imagenet").eval()
    net = encoder_decoder("upernet", "efficientnet_lite0", 3, "imagenet").eval()
    assert (net.mean, net.std) == (trunk.mean, trunk.std)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, _, stride4, stride8, *_ = net.backbone(x)
        one, two, *_ = trunk(x)
    assert one.abs().max() > 1
    torch.testing.assert_close(stride4, one)
    torch.testing.assert_close(stride8, two)


def test_a_file_fills_an_encoder_of_timm(tmp_path):
    import timm

    torch.manual_seed(3)
    whole = timm.create_model("resnet10t").eval()
    save_weights(whole, tmp_path / "whole.safetensors")
    net = encoder_decoder("deeplabv3plus", "resnet10t", 2, str(tmp_path / "whole.safetensors"))
    state = net.backbone.model.state_dict()
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in state.items())
    assert len(content_of(tmp_path / "whole.safetensors")) == len("sha256:") + 64
    other = timm.create_model("resnet14t")
    save_weights(other, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors does not fit the network"):
        encoder_decoder("deeplabv3plus", "resnet10t", 2, str(tmp_path / "other.safetensors"))


def test_unknown_backbones_are_refused_in_one_line():
    with pytest.raises(ValueError, match="backbone 'resnet1001' is unknown to timm; ours are eff"):
        encoder_decoder("upernet", "resnet1001", 2)
    with pytest.raises(ValueError, match="deeplabv3plus cannot be built on swin_tiny"):
        encoder_decoder("deeplabv3plus", "swin_tiny_patch4_window7_224", 2)
    with pytest.raises(ValueError, match="backbone 'tinny' is unknown; near: tiny"):
        segmenter(Network(architecture="deeplabv2", backbone="tinny", classes=2))


def test_a_file_of_another_kind_is_refused(tmp_path):
    save_weights(torch.nn.Linear(2, 2), tmp_path / "x.safetensors", {"backbone": "tiny"})
    with pytest.raises(ValueError, match=r"x\.safetensors does not say its network"):
        load_segmenter(tmp_path / "x.safetensors")
