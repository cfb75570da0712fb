import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from wsss.data.transforms import normalise
from wsss.nets.backbones import backbone
from wsss.nets.deeplab import ASPP, DeepLabV2, caffe_resnet101

RELEASED = {
    "stem.conv1.weight": "layer1.conv1.conv.weight",
    "stem.bn1.running_var": "layer1.conv1.bn.running_var",
    "layer1.0.downsample.0.weight": "layer2.block1.shortcut.conv.weight",
    "layer1.0.downsample.1.bias": "layer2.block1.shortcut.bn.bias",
    "layer3.22.conv1.weight": "layer4.block23.reduce.conv.weight",
    "layer4.2.conv2.weight": "layer5.block3.conv3x3.conv.weight",
    "layer4.2.bn3.weight": "layer5.block3.increase.bn.weight",
}
UNITS = {"1": "reduce", "2": "conv3x3", "3": "increase"}


def released_name(name):
    """The other way round, spelt out: deeplab-pytorch's name of a tensor of ours."""
    first, *rest = name.split(".")
    if first == "stem":
        return f"layer1.conv1.{'conv' if rest[0] == 'conv1' else 'bn'}.{rest[1]}"
    layer, block = f"layer{int(first[-1]) + 1}", f"block{int(rest[0]) + 1}"
    if rest[1] == "downsample":
        return f"{layer}.{block}.shortcut.{('conv', 'bn')[int(rest[2])]}.{rest[3]}"
    return f"{layer}.{block}.{UNITS[rest[1][-1]]}.{rest[1][:-1]}.{rest[2]}"


@pytest.fixture(scope="module")
def trunk():
    torch.manual_seed(0)
    return caffe_resnet101()


def test_the_trunk_strides_in_the_reduction_and_dilates_what_follows(trunk):
    assert trunk.stride == 8
    assert trunk.stem.maxpool.ceil_mode
    for layer, stride, dilation in zip(
        (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4), (1, 2, 1, 1), (1, 1, 2, 4),
        strict=True,
    ):  # fmt: skip
        assert layer[0].conv1.stride == layer[0].downsample[0].stride == (stride, stride)
        for block in layer:
            assert block.conv2.stride == (1, 1)
            assert block.conv2.dilation == block.conv2.padding == (dilation, dilation)
    assert all(p.requires_grad for p in trunk.stem.parameters())


def test_bytes_lose_the_mean_of_caffe_and_no_more(trunk):
    image = torch.arange(0, 256, 5).repeat(3, 1).T[None].byte().numpy()  # [1, 52, 3]
    view = normalise(image, trunk.mean, trunk.std)
    expected = torch.from_numpy(image).float() - torch.tensor([122.675, 116.669, 104.008])
    torch.testing.assert_close(view, expected.permute(2, 0, 1), atol=1e-4, rtol=0)
    assert torch.equal(trunk.stem.bgr(view[None])[0], view[[2, 1, 0]])


def test_torchvision_s_weights_make_the_same_of_either_s_colours():
    torch.manual_seed(1)
    theirs = backbone("resnet101")
    theirs.stem.bn1.running_mean.uniform_(-1, 1)
    image = torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8).numpy()
    x = normalise(image, theirs.mean, theirs.std)[None]
    before = theirs.stem.bn1(theirs.stem.conv1(x))
    torch.manual_seed(1)
    ours = caffe_resnet101("random")
    ours.stem.bn1.running_mean += theirs.stem.bn1.running_mean
    u = normalise(image, ours.mean, ours.std)[None]
    after = ours.stem.bn1(ours.stem.conv1(ours.stem.bgr(u)))
    inside = (..., slice(2, -2), slice(2, -2))
    assert before.std() > 0.1
    torch.testing.assert_close(after[inside], before[inside], atol=1e-3, rtol=0)


@pytest.fixture
def kept(tmp_path):
    """Writes a state dict of 170 MB, and takes it away after the test."""
    path = tmp_path / "net.safetensors"

    def keep(state):
        save_file({name: value.contiguous() for name, value in state.items()}, path)
        return str(path)

    yield keep
    path.unlink()


@pytest.mark.parametrize("prefix", ["", "module.base."])
def test_the_released_file_fills_the_trunk_as_it_is(trunk, kept, prefix):
    state = {k: v for k, v in trunk.state_dict().items() if "num_batches" not in k}
    assert {k: released_name(k) for k in RELEASED} == RELEASED
    named = {prefix + released_name(name): value for name, value in state.items()}
    file = kept(named | {f"{prefix}aspp.c0.weight": torch.zeros(1), "fc.bias": torch.zeros(2)})
    filled = caffe_resnet101(file).state_dict()
    assert all(torch.equal(filled[name], value) for name, value in state.items())


def test_a_released_file_that_lacks_a_layer_is_refused(trunk, kept):
    state = {k: v for k, v in trunk.state_dict().items() if "num_batches" not in k}
    named = {released_name(name): value for name, value in state.items()}
    del named["layer4.block7.increase.bn.bias"]
    message = r"net\.safetensors does not fit the network: lacks layer3\.6\.bn3\.bias$"
    with pytest.raises(ValueError, match=message):
        caffe_resnet101(kept(named))


def test_torchvision_s_file_is_folded(kept):
    theirs = backbone("resnet101").state_dict()
    bare = {name.removeprefix("stem."): value for name, value in theirs.items()}
    filled = caffe_resnet101(kept(bare | {"fc.weight": torch.zeros(1)})).state_dict()
    assert torch.equal(filled["layer4.2.conv3.weight"], theirs["layer4.2.conv3.weight"])
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    folded = (theirs["stem.conv1.weight"] / (255 * std))[:, [2, 1, 0]]
    torch.testing.assert_close(filled["stem.conv1.weight"], folded)


def test_another_file_is_refused_with_what_is_needed(tmp_path):
    save_file({"encoder.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(
        ValueError, match=r"x\.safetensors holds neither .*deeplabv1_resnet101-imag"
    ):
        caffe_resnet101(str(tmp_path / "x.safetensors"))


def test_where_nothing_can_be_downloaded_it_says_which_file_would_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch").write_text("no folder: nothing can be cached in it")
    with pytest.raises(ValueError, match=r"resnet101 cannot be had .*; set weights to the content"):
        caffe_resnet101("imagenet")


def test_aspp_is_the_sum_of_four_convolutions_that_start_small():
    torch.manual_seed(0)
    aspp, x = ASPP(64, 3), torch.randn(1, 64, 30, 20)
    assert all(not conv.bias.any() for conv in aspp.convs)
    weights = torch.cat([conv.weight.detach().flatten() for conv in aspp.convs])
    assert float(weights.std()) == pytest.approx(0.01, rel=0.05)
    for n, conv in enumerate(aspp.convs):
        conv.bias.data.fill_(float(n))
    expected = sum(
        F.conv2d(x, conv.weight, conv.bias, padding=rate, dilation=rate)
        for conv, rate in zip(aspp.convs, (6, 12, 18, 24), strict=True)
    )
    torch.testing.assert_close(aspp(x), expected)


def test_the_answer_is_the_maximum_over_the_scales():
    torch.manual_seed(0)
    net = DeepLabV2(backbone("tiny"), 4, (0.5, 0.75)).eval()
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        whole, half, most, answer = net(images)
        alone = DeepLabV2(net.backbone, 4, ())
        alone.classifier = net.classifier
        for scale, logits in ((0.5, half), (0.75, most)):
            small = F.interpolate(images, scale_factor=scale, mode="bilinear")
            [expected] = alone.eval()(small)
            torch.testing.assert_close(logits, expected)
    assert torch.equal(whole, alone(images)[0])
    enlarged = [F.interpolate(z, whole.shape[-2:], mode="bilinear") for z in (half, most)]
    assert torch.equal(answer, torch.maximum(whole, torch.maximum(*enlarged)))
    assert (answer > whole).any()
