"""DeepLabV3+ and UPerNet: an encoder at several strides, and a decoder up to the image's size.

Chen, Zhu, Papandreou, Schroff, Adam: Encoder-Decoder with Atrous Separable Convolution for Semantic
Image Segmentation, ECCV 2018, arXiv 1802.02611. Xiao, Liu, Zhou, Jiang, Sun: Unified Perceptual
Parsing for Scene Understanding, ECCV 2018, arXiv 1807.10221; with Swin Transformers (Liu et al.,
ICCV 2021, arXiv 2103.14030) it is the second network of ReCAM. Both come from
segmentation_models_pytorch, on encoders of timm.

Where they differ from the codebases with which results are published: the ResNet of DeepLabV3+ has
an ordinary stem, its shortcut is a 1 x 1 convolution, and its atrous convolutions are separable;
UPerNet has no auxiliary loss. All batch norms are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.data.transforms import padded_size
from wsss.nets.backbones import backbone
from wsss.nets.weights import fit_state, read_state

Kind = Literal["deeplabv3plus", "upernet"]

OURS = {
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
}
"""Our backbones to timm's encoders of the same tensors: their weights and colours are ours."""

STRIDE = 8
"""Of the last features that DeepLabV3+ reads; those of UPerNet have 32."""

UPERNET_CHANNELS, UPERNET_DROPOUT, DROP_PATH = 512, 0.1, 0.3
"""As in mmsegmentation."""


class EncoderDecoder(nn.Module):
    """One of both networks: `backbone` and `decoder` make features, `classifier` logits."""

    def __init__(
        self, kind: Kind, name: str, net: Any, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.kind, self.name = kind, name
        self.classes = int(net.segmentation_head[0].out_channels)
        self.mean, self.std = tuple(mean), tuple(std)
        self.stride = int(net.encoder.output_stride)
        self.backbone, self.decoder = net.encoder, net.decoder
        dropout = nn.Dropout2d(UPERNET_DROPOUT if kind == "upernet" else 0.0)
        self.classifier = nn.Sequential(dropout, net.segmentation_head)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """The logits, float32 [B, classes, H, W], of normalised images [B, 3, H, W].

        An image whose sides are no multiples of the stride is enlarged with zeros on the right and
        below, and the logits are cut.
        """
        height, width = images.shape[-2:]
        rows, columns = padded_size(height, width, self.stride)
        padded = F.pad(images, (0, columns - width, 0, rows - height))
        features = self.backbone(padded.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.classifier(self.decoder(features))
        return (logits[..., :height, :width].float(),)


def encoder_decoder(kind: Kind, name: str, classes: int, weights: str = "random") -> EncoderDecoder:
    """The network `kind` on the backbone `name` with `weights`.

    Names are the keys of `OURS`, with the weights of `wsss.nets.backbones`, or timm's, with
    "imagenet" for its download, "random", or a file of its whole classifier. Raises ValueError for
    a name or weights that cannot be had.
    """
    if name in OURS:
        trunk = backbone(name, weights)
        net = _built(kind, OURS[name], classes)
        _fill(net.encoder.model, trunk, name)
        return EncoderDecoder(kind, name, net, trunk.mean, trunk.std)
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"backbone {name!r} is unknown to timm; ours are {', '.join(OURS)}")
    state = _whole(name, weights)
    net = _built(kind, name, classes, pretrained=weights != "random", state=state)
    given: Any = timm.get_pretrained_cfg(name)
    return EncoderDecoder(kind, name, net, given.mean, given.std)


def _built(
    kind: Kind,
    name: str,
    classes: int,
    *,
    pretrained: bool = False,
    state: dict[str, Tensor] | None = None,
) -> Any:
    """What segmentation_models_pytorch makes of an encoder of timm; ValueError where it fails."""
    import segmentation_models_pytorch as smp

    options: dict[str, Any] = {"encoder_weights": True if pretrained else None, "classes": classes}
    if state is not None:
        options["pretrained_cfg_overlay"] = {"state_dict": state}
    if "swin" in name:
        options["dynamic_img_size"] = True
    try:
        if kind == "deeplabv3plus":
            return smp.DeepLabV3Plus(f"tu-{name}", encoder_output_stride=STRIDE, **options)
        shape = {"decoder_channels": UPERNET_CHANNELS, "drop_path_rate": DROP_PATH}
        return smp.UPerNet(f"tu-{name}", **shape, **options)
    except Exception as error:  # upstream fails in many ways
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{kind} cannot be built on {name}: {reason}") from error


def _fill(encoder: nn.Module, trunk: nn.Module, name: str) -> None:
    """Copy the weights of our backbone: its tensors come in the same order, maybe some behind."""
    state = dict(zip(encoder.state_dict(), trunk.state_dict().values(), strict=False))
    fit_state(encoder, state, Path(name))


def _whole(name: str, weights: str) -> dict[str, Tensor] | None:
    """The state dict in a file, if it is that of timm's classifier `name`, else None."""
    if weights in ("random", "imagenet"):
        return None
    import timm

    net: nn.Module = timm.create_model(name)
    fit_state(net, read_state(Path(weights)), Path(weights))
    return net.state_dict()
