import pytest
import torch

from wsss.nets.backbones import backbone


def test_all_four_layers_equal_the_released_trunk(golden, fill, close):
    unit = golden("unit01_resnet50_trunk")
    net = backbone("resnet50").eval()
    assert fill(net) == str(unit["weights_sha256"])
    with torch.no_grad():
        levels = net(torch.from_numpy(unit["x"]))
    for n, level in enumerate(levels, start=1):
        close(level, unit[f"layer{n}"])


def test_batch_norm_of_the_trunk_is_the_same_while_training(golden, fill, close):
    unit = golden("unit01_resnet50_trunk")
    net = backbone("resnet50").train()
    digest = fill(net)
    with torch.no_grad():
        close(net(torch.from_numpy(unit["x"]))[-1], unit["layer4"])
    names = [n for n in net.state_dict() if "running" in n]
    assert len(names) == 106
    kept = {n: net.state_dict()[n].clone() for n in names}
    assert fill(net) == digest
    assert all(torch.equal(net.state_dict()[n], kept[n]) for n in names)


def test_the_stem_equals_the_released_one(golden, fill, close):
    unit = golden("unit01_resnet50_trunk")
    net = backbone("resnet50").eval()
    fill(net)
    with torch.no_grad():
        stem = net.stem(torch.from_numpy(unit["x"]))
    close(stem[:, :4], unit["stem_slice"])
    statistics = [stem.double().mean(), stem.double().std(correction=0), stem.abs().max()]
    assert [float(s) for s in statistics] == pytest.approx(unit["stem_stat"].tolist(), rel=1e-5)
