from dataclasses import replace

import pytest
import torch
from torch import nn

from wsss.config.segment import DEEPLABV3PLUS, UPERNET_SWIN, SegmentationTraining
from wsss.nets.segmenters import Network, segmenter
from wsss.segment.optimiser import optimiser_of, parameter_groups, set_shares, share

CONFIG = SegmentationTraining(steps=100, epochs=1)


def by_name(net, groups):
    names = {id(p): name for name, p in net.named_parameters()}
    return {
        names[id(p)]: (group["first_lr"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }


def test_deeplabv2_trains_its_last_layer_faster_and_no_batch_norm():
    net = segmenter(Network(architecture="deeplabv2", backbone="efficientnet_lite0", classes=3))
    rates = by_name(net, parameter_groups(net, CONFIG))
    norms = [
        f"{name}.{kind}"
        for name, module in net.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for kind in ("weight", "bias")
    ]
    assert len(norms) > 50
    assert not set(norms) & set(rates)
    assert not any(name.startswith("backbone.stem.") for name in rates)  # frozen in ours
    assert {r for n, r in rates.items() if n.startswith("backbone.")} == {(2.5e-4, 5e-4)}
    assert {r for n, r in rates.items() if n.endswith("bias")} == {(5e-3, 0.0)}
    last = {r for n, r in rates.items() if "classifier" in n and n.endswith("weight")}
    assert last == {(2.5e-3, 5e-4)}


def test_deeplabv3plus_trains_everything():
    net = segmenter(Network(architecture="deeplabv3plus", backbone="efficientnet_lite0", classes=3))
    rates = by_name(net, parameter_groups(net, DEEPLABV3PLUS))
    assert set(rates) == {name for name, _ in net.named_parameters()}
    fast = {name for name, (rate, _) in rates.items() if rate > 0.01}
    assert fast == {"classifier.1.0.weight", "classifier.1.0.bias"}
    assert rates["classifier.1.0.weight"] == (pytest.approx(0.07), 4e-5)
    assert {rates[name][1] for name in rates if ".bn" in name} == {4e-5}


def test_adamw_spares_norms_and_positions():
    net = segmenter(
        Network(architecture="upernet", backbone="swin_tiny_patch4_window7_224", classes=3)
    )
    rates = by_name(net, parameter_groups(net, UPERNET_SWIN))
    assert {rate for rate, _ in rates.values()} == {6e-5}
    spared = {name for name, (_, decay) in rates.items() if decay == 0}
    assert any("relative_position_bias_table" in name for name in spared)
    assert all(name in spared for name in rates if ".norm" in name or "feature_norms" in name)
    kept = set(rates) - spared
    assert all(name in kept for name in rates if name.endswith(("qkv.weight", "mlp.fc1.bias")))
    adamw = optimiser_of(net, UPERNET_SWIN)
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["betas"] == (0.9, 0.999)


def test_the_rate_is_constant_on_a_stair():
    shares = [share(step, CONFIG) for step in range(30)]
    assert shares[:10] == [1.0] * 10
    assert shares[10:20] == [0.9**0.9] * 10
    assert shares[20:] == [0.8**0.9] * 10


def test_the_rate_rises_and_falls_without_stairs():
    config = replace(CONFIG, stairs=1, warm_up=4, power=1.0)
    shares = [share(step, config) for step in range(6)]
    assert shares[0] == pytest.approx(1e-6)
    assert shares[1] == pytest.approx(0.99 * (1 - 0.75 * (1 - 1e-6)))
    assert shares[4:] == [0.96, 0.95]


def test_every_group_moves_at_its_own_rate():
    net = segmenter(Network(architecture="deeplabv2", backbone="tiny", classes=3))
    sgd = optimiser_of(net, CONFIG)
    set_shares(sgd, 15, CONFIG)
    rates = [group["lr"] for group in sgd.param_groups]
    assert rates == pytest.approx([0.9**0.9 * r for r in (2.5e-4, 2.5e-3, 5e-3)])
    assert {group["momentum"] for group in sgd.param_groups} == {0.9}
