"""DeepLabV2: atrous convolutions over a dilated backbone, seen at several scales.

Chen, Papandreou, Kokkinos, Murphy, Yuille: DeepLab: Semantic Image Segmentation with Deep
Convolutional Nets, Atrous Convolution, and Fully Connected CRFs, TPAMI 2018, arXiv 1606.00915, as
in kazuto1011/deeplab-pytorch, with which ReCAM, AdvCAM and InferCam report. For an image x:

    F(x)  = backbone(x)                                      output stride 8
    z(x)  = sum of four 3 x 3 convolutions of F(x)           ASPP: rates 6, 12, 18, 24, with biases
    z_s   = z(bilinear(x, s)) for s in 1, 0.5, 0.75
    z_max = max_s bilinear(z_s, size of z_1)                 pixel by pixel: the answer

The backbone is the ResNet-101 of Caffe, which strides in the 1 x 1 convolution that reduces, pools
with the grid rounded up, and sees BGR with the mean subtracted. Its batch norm is fixed and not
trained. Any network of `wsss.nets.backbones` may stand in its place, with its own strides, colours
and frozen stem.

The published initial weights, AdvCAM's deeplabv1_resnet101-imagenet.pth, are a link outside: give
the file by content. "imagenet" takes torchvision's ResNet-101 instead, whose tensors have the same
shapes. It is not the same network: it was trained with the stride in the 3 x 3 convolution, and on
RGB with standard deviations. The colours are folded into the first convolution here; the stride is
left to the training.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wsss.nets.backbones import Backbone, backbone
from wsss.nets.weights import fit_state, read_state

CAFFE_MEAN = (122.675 / 255, 116.669 / 255, 104.008 / 255)
"""Of RGB; with the deviation 1 / 255, `normalise` subtracts the mean from bytes and no more."""

CAFFE_STD = (1 / 255,) * 3
RATES = (6, 12, 18, 24)

_UNITS = {"reduce": "1", "conv3x3": "2", "increase": "3", "shortcut": "downsample"}


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: the sum of four 3 x 3 convolutions of growing reach."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, classes, 3, padding=rate, dilation=rate) for rate in RATES
        )
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.01 if parameter.ndim > 1 else 0.0)

    def forward(self, features: Tensor) -> Tensor:
        """[B, inputs, h, w] to logits [B, classes, h, w]."""
        parts = [conv(features) for conv in self.convs]
        return torch.stack(parts).sum(0)


class DeepLabV2(nn.Module):
    """A backbone with ASPP; `pyramid` lists the scales at which it looks besides its own."""

    def __init__(self, backbone: Backbone, classes: int, pyramid: tuple[float, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = ASPP(backbone.channels[-1], classes)
        self.classes, self.pyramid = classes, pyramid
        self.mean, self.std = backbone.mean, backbone.std
        for module in backbone.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits, float32 [B, classes, h, w], of normalised images [B, 3, H, W]: the answer last.

        The pixel-wise maximum comes after what it is made of: logits of the image, and of each
        scale of the pyramid on a grid of its own. Without a pyramid there is one answer alone.
        """
        whole = self._logits(images)
        if not self.pyramid:
            return (whole,)
        size = (whole.shape[-2], whole.shape[-1])
        scaled = [
            self._logits(F.interpolate(images, scale_factor=scale, mode="bilinear"))
            for scale in self.pyramid
        ]
        enlarged = [F.interpolate(logits, size, mode="bilinear") for logits in scaled]
        return whole, *scaled, torch.stack([whole, *enlarged]).amax(0)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.backbone(images)[-1])
        return logits.float()


class BGR(nn.Module):
    """Exchanges red and blue."""

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to the same."""
        return images.flip(1)


def caffe_resnet101(weights: str | None = None) -> Backbone:
    """The Caffe-style ResNet-101 with `weights`: "imagenet", "random" (or None), or a file.

    A file holds the state dict of deeplab-pytorch's network, of whose layers after the trunk none
    is read, or of torchvision's ResNet-101. Raises ValueError for any other, and for weights that
    cannot be had.
    """
    path = None if weights in (None, "random", "imagenet") else Path(str(weights))
    released = {} if path is None else _released(read_state(path), path)
    try:
        net = _trunk(backbone("resnet101", None if released else weights))
    except ValueError as error:
        if weights != "imagenet":
            raise
        raise ValueError(
            f"{error}; set weights to the content of deeplabv1_resnet101-imagenet.pth, or of"
            " torchvision's resnet101 file"
        ) from error
    if path is not None and released:
        fit_state(net, released, path)
    else:
        fold_colours(net)
    return net


def _trunk(like: Backbone) -> Backbone:
    """The trunk made of the layers of torchvision's network, at output stride 8."""
    parts: Any = like.stem
    parts.maxpool.ceil_mode = True
    layers: list[Any] = [like.layer1, like.layer2, like.layer3, like.layer4]
    for layer, stride, dilation in zip(layers, (1, 2, 1, 1), (1, 1, 2, 4), strict=True):
        for block in layer:
            block.conv2.stride = (1, 1)
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
        layer[0].conv1.stride = layer[0].downsample[0].stride = (stride, stride)
    stem = nn.Sequential(OrderedDict(bgr=BGR(), **dict(parts.named_children())))
    net = Backbone("resnet101", stem, layers, mean=CAFFE_MEAN, std=CAFFE_STD)
    net.stem.requires_grad_(True)
    net.stride = 8  # of 8 n + 1 pixels: other sizes get a cell more, as the pooling rounds up
    return net


@torch.no_grad()
def fold_colours(net: Backbone) -> None:
    """Turn the first convolution, which sees RGB as torchvision does, to the input of Caffe.

    What it makes stays the same in all but the rim, where the padding is another mean colour.
    """
    like = backbone("resnet101")
    mean, std, ours = (torch.tensor(v) for v in (like.mean, like.std, net.mean))
    stem: Any = net.stem
    weight, norm = stem.conv1.weight, stem.bn1
    norm.running_mean -= (weight * ((ours - mean) / std)[:, None, None]).sum((1, 2, 3))
    weight.copy_((weight / (255 * std)[:, None, None]).flip(1))


def _released(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The trunk of a state dict of deeplab-pytorch, under our names; empty for torchvision's."""
    if "conv1.weight" in state:
        return {}
    bare = {re.sub(r"^(module\.)?(base\.|scale\.)?", "", name): v for name, v in state.items()}
    if "layer1.conv1.conv.weight" not in bare:
        raise ValueError(
            f"weights file {path} holds neither the ResNet-101 of deeplab-pytorch (layer1.conv1"
            ".conv.weight, as in deeplabv1_resnet101-imagenet.pth) nor torchvision's (conv1.weight)"
        )
    return {_our_name(name): v for name, v in bare.items() if re.match(r"layer[1-5]\.", name)}


def _our_name(name: str) -> str:
    """Where a tensor of deeplab-pytorch's trunk goes: layer2.block1.reduce.bn.bias to layer1...."""
    if found := re.fullmatch(r"layer1\.conv1\.(conv|bn)\.(\w+)", name):
        return f"stem.{found[1]}1.{found[2]}"
    found = re.fullmatch(r"layer(\d)\.block(\d+)\.(\w+)\.(conv|bn)\.(\w+)", name)
    if not found or found[3] not in _UNITS:
        return name
    block, unit = f"layer{int(found[1]) - 1}.{int(found[2]) - 1}", _UNITS[found[3]]
    if unit == "downsample":
        return f"{block}.downsample.{int(found[4] == 'bn')}.{found[5]}"
    return f"{block}.{found[4]}{unit}.{found[5]}"
