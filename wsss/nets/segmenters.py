"""Segmentation networks, all seen the same way, and on disk.

Each maps normalised images [B, 3, H, W] to a tuple of logits [B, classes, h, w], every one of which
is trained and the last of which is the answer. It knows the `mean` and `std` of its input, and its
`classifier` is the layer that makes the logits.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from wsss.config.segment import Architecture
from wsss.nets.backbones import backbone
from wsss.nets.deeplab import DeepLabV2, caffe_resnet101
from wsss.nets.encoder_decoder import EncoderDecoder, encoder_decoder
from wsss.nets.weights import fit_state, read_metadata, read_state, save_weights

Segmenter = DeepLabV2 | EncoderDecoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """What a network is built from, but for its weights."""

    architecture: Architecture
    backbone: str
    classes: int
    """Background among them."""
    pyramid: tuple[float, ...] = ()


def segmenter(network: Network, weights: str = "random") -> Segmenter:
    """The network, with a backbone of these weights: "imagenet", "random" or a file.

    Raises ValueError for a backbone or weights that cannot be had.
    """
    if network.architecture != "deeplabv2":
        return encoder_decoder(network.architecture, network.backbone, network.classes, weights)
    own = network.backbone == "resnet101"
    trunk = caffe_resnet101(weights) if own else backbone(network.backbone, weights)
    return DeepLabV2(trunk, network.classes, network.pyramid)


def described(net: Segmenter) -> Network:
    """What a network was built from."""
    if isinstance(net, EncoderDecoder):
        return Network(architecture=net.kind, backbone=net.name, classes=net.classes)
    return Network(
        architecture="deeplabv2",
        backbone=net.backbone.name,
        classes=net.classes,
        pyramid=net.pyramid,
    )


def save_segmenter(net: Segmenter, path: Path) -> None:
    """Write a network, and what it is built from, to a safetensors file."""
    save_weights(net, path, {"network": json.dumps(asdict(described(net)))})


def load_segmenter(path: Path) -> Segmenter:
    """The network in a file that `save_segmenter` wrote, in evaluation mode.

    Raises ValueError, naming the file, where it is absent or holds another kind of network.
    """
    given = json.loads(read_metadata(path, "network"))
    net = segmenter(Network(**{**given, "pyramid": tuple(given["pyramid"])}))
    fit_state(net, read_state(path), path)
    return net.eval()
