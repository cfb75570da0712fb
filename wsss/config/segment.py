"""How segmentation networks are trained and read: the defaults are DeepLabV2's on VOC.

They are those of kazuto1011/deeplab-pytorch, which ReCAM, AdvCAM and InferCam follow. Other
published settings stand below as values of the same classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsss.config.checks import (
    check_choice,
    check_initial,
    check_least,
    check_positive,
    check_rates,
    check_share,
)
from wsss.config.refine import CRF, DEEPLAB_CRF
from wsss.config.training import Precision, Schedule

Architecture = Literal["deeplabv2", "deeplabv3plus", "upernet"]
PixelLoss = Literal["ce", "balanced"]
"""Cross entropy over all labelled pixels, or over foreground plus over background."""
Optimiser = Literal["sgd", "adamw"]
Fusion = Literal["max_logits", "mean_logits", "mean_probabilities"]
CRFColours = Literal["image", "wrapped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationTraining(Schedule):
    """How a segmentation network is trained on label maps."""

    steps: int = 20_000
    epochs: int = 10
    batch: int = 5
    """Examples that are passed through at once."""
    accumulation: int = 2
    """Batches to a step, whose gradients are averaged."""
    weight_decay: float = 5e-4
    momentum: float = 0.9
    """As it says: this release hands it to SGD in its own place."""
    crop: int = 321
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    """Factors on the image's sides, of which each view draws one."""
    architecture: Architecture = "deeplabv2"
    backbone: str = "resnet101"
    """For DeepLabV2 the Caffe-style ResNet-101, or any of `wsss.nets.backbones`; for the others
    resnet50, resnet101, efficientnet_lite0, or a name of timm's."""
    weights: str = "imagenet"
    """Of the backbone at the start: "imagenet", "random", or "sha256:..." of a file's content. The
    published file of the ResNet-101 can only be given by content, see `wsss.nets.deeplab`."""
    weights_file: str = ""
    """Where that file lies, if `weights` names one by its content."""
    pyramid: tuple[float, ...] = (0.5, 0.75)
    """Scales at which DeepLabV2 sees an image besides its own; () for none, and for the others."""
    optimiser: Optimiser = "sgd"
    lr: float = 2.5e-4
    """2e-4 on COCO."""
    classifier_rate: float = 10.0
    """Times `lr`, for the weights of the layer that makes the logits."""
    bias_rate: float = 20.0
    """Times `lr`, for its biases, which do not decay."""
    stairs: int = 10
    """Steps for which the learning rate stays."""
    warm_up: int = 0
    """Steps in which the learning rate rises linearly."""
    loss: PixelLoss = "ce"
    aamr_weight: float = 0.0
    """Of our reading of the mask refinement loss, see `wsss.segment.aamr`; 0 for none."""
    compile: bool = False
    """Whether `torch.compile` makes kernels for the network, which takes some minutes at first."""
    probe: int = 0
    """Images whose segmentation is scored after each epoch, for pruning; 0 for none."""

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)  # super() does not work in slotted dataclasses
        check_least(1, accumulation=self.accumulation, stairs=self.stairs)
        check_least(0, warm_up=self.warm_up, probe=self.probe)
        check_rates(lr=self.lr, classifier_rate=self.classifier_rate, bias_rate=self.bias_rate)
        check_rates(aamr_weight=self.aamr_weight)
        check_choice("architecture", self.architecture, Architecture)
        check_choice("optimiser", self.optimiser, Optimiser)
        check_choice("loss", self.loss, PixelLoss)
        check_scales("scales", self.scales, least=1)
        check_scales("pyramid", self.pyramid, least=0)
        if self.pyramid and self.architecture != "deeplabv2":
            raise ValueError(f"pyramid is {self.pyramid}: give () for {self.architecture}")
        if self.batch == 1 and self.architecture != "deeplabv2":
            raise ValueError(f"batch is 1: give 2 or more, {self.architecture} trains batch norms")
        check_initial(self.weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmentation:
    """How label maps are read off a segmentation network."""

    scales: tuple[float, ...] = (1.0,)
    """Of the image's sides; DeepLabV2 looks at its pyramid besides, at each of them."""
    flip: bool = False
    """Whether each scale is seen mirrored too."""
    fusion: Fusion = "max_logits"
    """How the views are made one."""
    crf: CRF | None = DEEPLAB_CRF
    """The refinement of the probabilities, or None."""
    crf_colours: CRFColours = "image"
    """What the CRF sees. The published numbers inherit "wrapped": the network's input, mean
    subtracted and in BGR, cast to bytes in which negative values wrap around."""
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_scales("scales", self.scales, least=1)
        check_choice("fusion", self.fusion, Fusion)
        check_choice("crf_colours", self.crf_colours, CRFColours)
        check_choice("precision", self.precision, Precision)


@dataclass(frozen=True, kw_only=True, slots=True)
class AAMRTargets:
    """Which pixels the mask refinement loss pulls, and where to; all three values are ours."""

    saliency: float = 0.5
    """A pixel at least this salient is salient."""
    activation: float = 0.3
    """A pixel whose best class scores at least this is activated."""
    share: float = 0.05
    """Salient regions of which less than this is activated are left alone."""

    def __post_init__(self) -> None:
        check_share(saliency=self.saliency, activation=self.activation, share=self.share)


@dataclass(frozen=True, kw_only=True, slots=True)
class VOCSubmission:
    """An archive for PASCAL VOC's test server."""

    compress: bool = True
    """Whether it is a .tar.gz, which the server takes too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationPictures:
    """How many images are drawn with their label maps, and the truth where it is known."""

    images: int = 8

    def __post_init__(self) -> None:
        check_least(1, images=self.images)


def check_scales(field: str, scales: tuple[float, ...], *, least: int) -> None:
    """`scales` are positive, and `least` of them or more."""
    if len(scales) < least:
        raise ValueError(f"{field} is {scales}: give {least} or more")
    for scale in scales:
        check_positive(**{field: scale})


DEEPLABV2_COCO = SegmentationTraining(steps=100_000, epochs=20, batch=10, lr=2e-4)
"""As the authors of LPCAM and ReCAM say they train on COCO."""

ADVCAM_SEGMENTATION = SegmentationTraining(
    steps=30_000,
    epochs=10,
    batch=10,
    accumulation=1,
    scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    loss="balanced",
)
"""As AdvCAM's author says; a batch of 10 is read as one without accumulation."""

DEEPLABV3PLUS = SegmentationTraining(
    steps=30_000,
    epochs=10,
    batch=16,
    accumulation=1,
    weight_decay=4e-5,
    crop=512,
    scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    architecture="deeplabv3plus",
    pyramid=(),
    lr=0.007,
    bias_rate=10.0,
    stairs=1,
)
"""Yude Wang's codebase, which draws from all of [0.5, 2.0] and lets the last biases decay."""

UPERNET_SWIN = SegmentationTraining(
    steps=160_000,
    epochs=16,
    batch=16,
    accumulation=1,
    weight_decay=0.01,
    power=1.0,
    crop=512,
    scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    architecture="upernet",
    backbone="swin_tiny_patch4_window7_224",
    pyramid=(),
    optimiser="adamw",
    lr=6e-5,
    classifier_rate=1.0,
    bias_rate=1.0,
    stairs=1,
    warm_up=1500,
)
"""mmsegmentation's for ADE20K, from which ReCAM's are said to come; theirs for VOC are lost."""

MULTI_SCALE = Segmentation(
    scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True, fusion="mean_logits", crf=None
)
"""Test of DeepLabV3+ in Yude Wang's codebase."""
