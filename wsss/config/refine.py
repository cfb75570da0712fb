"""How score maps are refined into pseudo labels.

The defaults are ReCAM's values for VOC (arXiv 2203.00962), most of which are IRN's
(arXiv 1904.05044). Where those of IRN, or of COCO, are others, the field says so.
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
from wsss.config.maps import Bits
from wsss.config.training import Precision, Schedule

Ignore = Literal["keep", "background"]
"""What becomes of the pixels that a label map leaves open, 255."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CRF:
    """A dense CRF with Potts potentials; the defaults are those of IR labels, in IRN and after."""

    iterations: int = 10
    """Of mean field."""
    gaussian_sxy: float = 3.0
    """Standard deviation in pixels of the kernel that only smooths."""
    gaussian_compat: float = 3.0
    """Its weight."""
    bilateral_sxy: float = 50.0
    """Standard deviation in pixels of the kernel that follows colours."""
    bilateral_srgb: float = 5.0
    """Its standard deviation in grey levels, of 256."""
    bilateral_compat: float = 10.0
    """Its weight."""
    gt_prob: float = 0.7
    """Probability that a given label is right; without influence where probabilities are given."""

    def __post_init__(self) -> None:
        check_least(1, iterations=self.iterations)
        check_positive(gaussian_sxy=self.gaussian_sxy, bilateral_sxy=self.bilateral_sxy)
        check_positive(bilateral_srgb=self.bilateral_srgb)
        check_least(0, gaussian_compat=self.gaussian_compat, bilateral_compat=self.bilateral_compat)
        if not 0 < self.gt_prob < 1:
            raise ValueError(f"gt_prob is {self.gt_prob}: give a number between 0 and 1")


PSA_CRF = CRF(bilateral_sxy=80.0, bilateral_srgb=13.0)
"""On class probabilities, as psa and InferCam use it."""

BRIEF_CRF = CRF(iterations=1, bilateral_sxy=32.0, bilateral_srgb=13.0)
"""On the mean probabilities of several views, as Yude Wang's codebase uses it at test."""

DEEPLAB_CRF = CRF(gaussian_sxy=1.0, bilateral_sxy=67.0, bilateral_srgb=3.0, bilateral_compat=4.0)
"""On the probabilities of a segmentation network at test, as DeepLabV2 uses it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IRLabels:
    """How labels for the training of an affinity network are made from seeds."""

    threshold_fg: float = 0.35
    """Scores above it, refined by the CRF, are surely foreground; 0.30 in IRN."""
    threshold_bg: float = 0.10
    """Scores below it, refined by the CRF, are surely background; 0.05 in IRN."""
    crf: CRF = CRF()
    ignore: Ignore = "keep"
    """What becomes of pixels that are neither, 255. SIPE and SFC take IR labels as pseudo labels
    on COCO, and do not say which."""

    def __post_init__(self) -> None:
        check_share(threshold_fg=self.threshold_fg, threshold_bg=self.threshold_bg)
        check_choice("ignore", self.ignore, Ignore)
        if self.threshold_bg > self.threshold_fg:
            raise ValueError(
                f"threshold_bg is {self.threshold_bg}: give at most"
                f" threshold_fg, {self.threshold_fg}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class IRNTraining(Schedule):
    """How the affinity network is trained: IRN and ReCAM agree."""

    steps: int = 990
    """The default is VOC train_aug three times in batches of 32; 7758 on COCO."""
    epochs: int = 3
    batch: int = 32
    scale: tuple[float, float] = (0.5, 1.5)
    """Range of the factor on the image's sides. SFC gives (0.5, 1.0, 1.5), read as (0.5, 1.0)."""
    radius: int = 10
    """Pairs of cells nearer than this, on the stride-4 grid, are learned from."""
    backbone: str = "resnet50"
    weights: str = "imagenet"
    """Of the backbone at the start: "imagenet", "random", or "sha256:..." of a file."""
    weights_file: str = ""
    """Where that file lies, if `weights` names one by its content."""
    lr_backbone: float = 0.0
    """0 leaves the backbone as it is, as published; one of random weights has to learn."""
    lr_edge: float = 0.1
    lr_displacement: float = 1.0

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)  # super() does not work in slotted dataclasses
        check_rates(lr_backbone=self.lr_backbone, lr_edge=self.lr_edge)
        check_rates(lr_displacement=self.lr_displacement)
        check_least(2, radius=self.radius)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}: give the lower end first, above 0")
        if self.crop % 4 or self.crop < 4 * (2 * self.radius - 1):
            raise ValueError(
                f"crop is {self.crop}: give a multiple of 4, at least {4 * (2 * self.radius - 1)}"
                f" for radius {self.radius}"
            )
        check_initial(self.weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class Walk:
    """How scores spread along affinities: IRN and ReCAM agree but for `pad`."""

    beta: float = 10.0
    """Power of the affinities: the higher, the more a faint edge stops."""
    steps: int = 256
    """Of the walk; the published number is 2 to the power of 8."""
    radius: int = 5
    """Cells of the stride-4 grid nearer than this are linked."""
    power: float = 1.0
    """Of the scores before the walk; 1.5 in AdvCAM."""
    pad: int | None = None
    """Pixels to which the image is enlarged with zeros, right and below, before the network sees
    it: 512 in IRN and SFC, not at all in ReCAM. An image that is larger stays whole; the release
    loses what is beyond 512."""
    bits: Bits = 8
    """Of a stored score."""
    precision: Precision = "float32"
    """Of the backbone's products."""

    def __post_init__(self) -> None:
        check_positive(beta=self.beta, power=self.power)
        check_least(1, steps=self.steps)
        check_least(2, radius=self.radius)
        if self.pad is not None:
            check_least(1, pad=self.pad)
        check_choice("bits", self.bits, Bits)
        check_choice("precision", self.precision, Precision)


@dataclass(frozen=True, kw_only=True, slots=True)
class PseudoLabels:
    """How label maps are cut from the scores that a walk leaves."""

    threshold: float = 0.28
    """Of the scores over the highest of the image; 0.25 in IRN, and on COCO."""

    def __post_init__(self) -> None:
        check_share(threshold=self.threshold)


@dataclass(frozen=True, kw_only=True, slots=True)
class BestPseudoLabels:
    """The same at the threshold that agrees best with pixel masks (an oracle)."""

    classes: tuple[str, ...] = ()
    """Which classes it is best for, as in `SeedScore`."""
