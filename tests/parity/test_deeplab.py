"""Constants of the released DeepLabV2: its size, its grids, and its learning rates."""

import pytest
import torch

from wsss.config.segment import SegmentationTraining
from wsss.nets.segmenters import Network, segmenter
from wsss.segment.optimiser import parameter_groups, share


@pytest.fixture(scope="module")
def net():
    config = SegmentationTraining()
    return segmenter(
        Network(
            architecture=config.architecture,
            backbone=config.backbone,
            classes=21,
            pyramid=config.pyramid,
        )
    )


def test_it_has_the_released_number_of_parameters(net):
    assert sum(p.numel() for p in net.parameters()) == 44_048_532


def test_convolutions_are_trained_and_batch_norm_is_not(net):
    convolutions = sum(p.numel() for p in net.parameters() if p.ndim > 1)
    biases = sum(p.numel() for p in net.classifier.parameters() if p.ndim == 1)
    groups = parameter_groups(net, SegmentationTraining())
    rates = [(g["first_lr"], g["weight_decay"], len(g["params"])) for g in groups]
    assert rates == [(2.5e-4, 5e-4, 104), (2.5e-3, 5e-4, 4), (5e-3, 0.0, 4)]
    trained = sum(p.numel() for group in groups for p in group["params"])
    assert trained == convolutions + biases
    assert not any(m.training for m in net.train().backbone.modules() if hasattr(m, "running_var"))


def test_an_image_gives_the_released_grid(net):
    with torch.no_grad():
        answer = net.eval()(torch.randn(1, 3, 97, 129))[-1]
    assert answer.shape == (1, 21, 13, 17)
    assert answer.std() > 0


def test_a_crop_gives_the_released_grids(net):
    on_paper = net.to("meta")  # shapes alone
    outputs = on_paper(torch.zeros(1, 3, 321, 321, device="meta"))
    assert [tuple(o.shape[1:]) for o in outputs] == [(21, s, s) for s in (41, 21, 31, 41)]


def test_rates_fall_in_stairs_of_ten_steps():
    config = SegmentationTraining()
    rates = [2.5e-4 * share(step, config) for step in range(21)]
    assert set(rates[:10]) == {2.5e-4}
    assert set(rates[10:20]) == {2.5e-4 * (1 - 10 / 20_000) ** 0.9}
    assert rates[20] == 2.5e-4 * (1 - 20 / 20_000) ** 0.9
    assert share(19_999, config) == (1 - 19_990 / 20_000) ** 0.9
