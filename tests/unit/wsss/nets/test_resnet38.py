import pytest
import torch
from torch import nn

from wsss.nets.backbones import backbone
from wsss.nets.resnet38 import Basic, Bottleneck

FROZEN = {"conv1a", "b2", "b2_1", "b2_2"}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return backbone("resnet38").eval()


def test_four_levels_at_stride_eight(net):
    with torch.no_grad():
        levels = net(torch.zeros(1, 3, 33, 50))
    shapes = [tuple(level.shape[1:]) for level in levels]
    assert shapes == [(256, 9, 13), (512, 5, 7), (1024, 5, 7), (4096, 5, 7)]
    assert net.channels == (256, 512, 1024, 4096)
    assert net.stride == 8
    assert sum(p.numel() for p in net.parameters()) == 105_152_832 - 20 * 4096  # psa's, less fc8


def test_what_psa_trains_is_trained(net):
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    convolutions = {
        f"{n}.weight"
        for n, m in net.named_modules()
        if isinstance(m, nn.Conv2d) and not FROZEN & set(n.split("."))
    }
    assert trained == convolutions
    assert len(convolutions) == 35


def test_blocks_make_the_shapes_asked_for():
    block = nn.Sequential(Basic(4, 6, 8, stride=2, dilations=(1, 2)), Bottleneck(8, 16, 0.3))
    assert block(torch.randn(2, 4, 10, 13)).shape == (2, 16, 5, 7)


def test_dropout_acts_in_training_alone(net):
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        still = net(x)
        assert all(torch.equal(a, b) for a, b in zip(still, net(x), strict=True))
        net.train()
        torch.manual_seed(0)
        third, last = net(x)[2:]
        net.eval()
    assert torch.equal(third, still[2])
    silent = [(level == 0).all(dim=(0, 2, 3)).float().mean() for level in (last, still[3])]
    assert silent[0] > 0.5
    assert silent[1] < 0.3


def test_a_block_that_keeps_its_shape_hands_its_input_through():
    same, other = Basic(4, 6, 4), Basic(4, 6, 8)
    x = torch.randn(1, 4, 5, 5)
    for block in (same, other):
        nn.init.zeros_(block.conv_branch2b1.weight)
        block.eval()
    assert torch.equal(same(x), x)
    with torch.no_grad():
        entered = torch.relu(other.bn_branch2a(x))
        assert torch.equal(other(x), other.conv_branch1(entered))


def test_a_file_of_psa_s_is_read_and_its_classifier_left_out(net, tmp_path):
    theirs = {
        name.partition(".")[2]: tensor
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")  # files of old torch versions lack them
    }
    theirs["b4_5.conv_branch2a.weight"] = torch.full((512, 512, 3, 3), 0.25)
    theirs["fc8.weight"] = torch.zeros(20, 4096, 1, 1)
    path = tmp_path / "res38.pth"
    torch.save(theirs, path)
    found = backbone("resnet38", str(path))
    path.unlink()  # 420 MB
    assert (found.layer2.b4_5.conv_branch2a.weight == 0.25).all()
    assert torch.equal(found.layer4.bn7.running_var, net.layer4.bn7.running_var)
    assert torch.equal(found.stem.conv1a.weight, net.stem.conv1a.weight)


def test_files_that_do_not_fit_and_absent_weights_are_told(tmp_path):
    state = {"conv1a.weight": torch.zeros(64, 3, 3, 3), "fc9.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "a.pth")
    message = r"a\.pth does not fit .*lacks stem\.b2\.bn_branch2a.* unknown fc9\.weight$"
    with pytest.raises(ValueError, match=message):
        backbone("resnet38", str(tmp_path / "a.pth"))
    with pytest.raises(ValueError, match="resnet38 cannot download ImageNet weights: convert"):
        backbone("resnet38", "imagenet")
