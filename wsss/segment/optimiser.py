"""At which rates the weights of a segmentation network are moved.

    group                       rate of SGD, of lr           weight decay
    the layer of the logits     `classifier_rate`            yes
    its biases                  `bias_rate`                  no
    everything else             1                            yes; AdamW: not of norms, nor of the
                                                             bias that Swin adds for positions

    lr_t = lr (1 - k / T) ^ power                            k: t rounded down to `stairs`
    times 1 - (1 - t / w) (1 - 1e-6)                         in the first w = `warm_up` steps

The stairs are those of kazuto1011/deeplab-pytorch, the warm-up is mmsegmentation's.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from wsss.config.segment import SegmentationTraining
from wsss.nets.segmenters import Segmenter
from wsss.training import poly

WARM_UP_START = 1e-6
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
POSITIONS = ("relative_position_bias_table", "absolute_pos_embed")


def optimiser_of(net: Segmenter, config: SegmentationTraining) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW whose first beta is the momentum, over `parameter_groups`."""
    groups = parameter_groups(net, config)
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))


def parameter_groups(
    net: Segmenter, config: SegmentationTraining
) -> list[dict[str, list[Tensor] | float]]:
    """What is trained of a network, by its "first_lr" and "weight_decay"."""
    modules = net.modules()
    norms = {id(p) for m in modules if isinstance(m, NORMS) for p in m.parameters()}
    classifier = {id(p) for p in net.classifier.parameters()}
    groups: dict[tuple[float, float], list[Tensor]] = defaultdict(list)
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        last, bias = id(parameter) in classifier, name.endswith("bias")
        rate = (config.bias_rate if bias else config.classifier_rate) if last else 1.0
        free = id(parameter) in norms or name.endswith(POSITIONS)
        spared = (last and bias) or (free and config.optimiser == "adamw")
        groups[rate, 0.0 if spared else config.weight_decay].append(parameter)
    return [
        {"params": parameters, "first_lr": config.lr * rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def share(step: int, config: SegmentationTraining) -> float:
    """Share of the first learning rates at `step`."""
    fallen = poly(step - step % config.stairs, config.steps, config.power)
    if step < config.warm_up:
        return fallen * (1 - (1 - step / config.warm_up) * (1 - WARM_UP_START))
    return fallen


def set_shares(optimiser: torch.optim.Optimizer, step: int, config: SegmentationTraining) -> None:
    """Set each group's learning rate for `step` from its "first_lr"; to be called before it."""
    for group in optimiser.param_groups:
        group["lr"] = group["first_lr"] * share(step, config)
