"""Wide ResNet-38 as psa has it: the network that class-conditional response maps start from.

Zifeng Wu, Chunhua Shen, Anton van den Hengel: Wider or Deeper: Revisiting the ResNet Model for
Visual Recognition, Pattern Recognition 2019, arXiv 1611.10080; as a classifier in psa (Ahn, Kwak,
Learning Pixel-level Semantic Affinity, CVPR 2018, arXiv 1803.10464; github.com/jiwoon-ahn/psa).

Blocks normalise before they convolve. With a = ReLU(bn(x)), a block is x + f(a), or W * a + f(a)
where the shape changes; f is two 3 x 3 convolutions, in b6 and b7 a bottleneck with dropout.

    stem      conv1a, b2, b2_1, b2_2     128 channels, stride 2    never trained
    layer1    b3, b3_1, b3_2             256, stride 4
    layer2    b4, b4_1, ..., b4_5        512, stride 8
    layer3    b5, b5_1, b5_2             1024, stride 8, dilation 2 (1 in b5's first convolution)
    layer4    b6, b7, bn7, ReLU          4096, stride 8, dilation 4; psa's "conv6"

As in psa no batch norm is trained, neither statistics nor scale and shift. The dropout that psa's
classifier has before its pooling ends layer4: without effect but in training.

The parts have psa's names, so that its files can be read: ImageNet weights exist only as an MXNet
file (ilsvrc-cls_rna-a1_cls1000_ep-0001.params), which psa's code converts to a torch state dict.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

HEAD = "fc8."
"""What the tensors of psa's classifier begin with; a feature network has none."""


class Basic(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(
        self,
        inputs: int,
        middle: int,
        outputs: int,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        a, b = dilations
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = _conv3(inputs, middle, a, stride)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = _conv3(middle, outputs, b)
        self.conv_branch1 = (
            None if inputs == outputs and stride == 1 else _conv1(inputs, outputs, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        entered = F.relu(self.bn_branch2a(x))
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(entered)
        inner = F.relu(self.bn_branch2b1(self.conv_branch2a(entered)))
        added: Tensor = self.conv_branch2b1(inner)
        return shortcut + added


class Bottleneck(nn.Module):
    """A dilated 3 x 3 convolution between two 1 x 1 ones, beside a shortcut; with dropout."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = _conv1(inputs, outputs // 4)
        self.bn_branch2b1 = nn.BatchNorm2d(outputs // 4)
        self.conv_branch2b1 = _conv3(outputs // 4, outputs // 2, dilation=4)
        self.bn_branch2b2 = nn.BatchNorm2d(outputs // 2)
        self.conv_branch2b2 = _conv1(outputs // 2, outputs)
        self.conv_branch1 = _conv1(inputs, outputs)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, inputs, h, w] to [B, outputs, h, w]."""
        entered = F.relu(self.bn_branch2a(x))
        inner = self.dropout(F.relu(self.bn_branch2b1(self.conv_branch2a(entered))))
        inner = self.dropout(F.relu(self.bn_branch2b2(self.conv_branch2b1(inner))))
        shortcut: Tensor = self.conv_branch1(entered)
        added: Tensor = self.conv_branch2b2(inner)
        return shortcut + added


def resnet38() -> tuple[nn.Sequential, list[nn.Sequential]]:
    """The stem and the four layers, with random weights; batch norm is not to be trained."""
    stem = _named(conv1a=_conv3(3, 64), **_blocks("b2", 3, 64, 128, 128, stride=2))
    layers = [
        _named(**_blocks("b3", 3, 128, 256, 256, stride=2)),
        _named(**_blocks("b4", 6, 256, 512, 512, stride=2)),
        _named(**_blocks("b5", 3, 512, 512, 1024, dilation=2)),
        _named(
            b6=Bottleneck(1024, 2048, dropout=0.3),
            b7=Bottleneck(2048, 4096, dropout=0.5),
            bn7=nn.BatchNorm2d(4096),
            relu7=nn.ReLU(),
            dropout7=nn.Dropout2d(0.5),
        ),
    ]
    for part in (stem, *layers):
        for module in part.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
    return stem, layers


def from_psa(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """psa's `state` under the names that `net` has for the same tensors, without the classifier.

    What psa does not name stays as it is called.
    """
    ours = {name.partition(".")[2]: name for name in net.state_dict()}
    return {ours.get(n, n): t for n, t in state.items() if not n.startswith(HEAD)}


def _blocks(
    name: str,
    count: int,
    inputs: int,
    middle: int,
    outputs: int,
    *,
    stride: int = 1,
    dilation: int = 1,
) -> dict[str, nn.Module]:
    """A block that changes the shape, and those after it; its first convolution is not dilated."""
    first = Basic(inputs, middle, outputs, stride, (1, dilation))
    dilations = (dilation, dilation)
    others = {
        f"{name}_{n}": Basic(outputs, middle, outputs, dilations=dilations) for n in range(1, count)
    }
    return {name: first, **others}


def _named(**parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


def _conv3(inputs: int, outputs: int, dilation: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)


def _conv1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)
