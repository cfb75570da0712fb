"""How SFC is trained, extracted and decided: the defaults are the release's on VOC.

The release has no COCO branch. What is known of its parent's (SIPE's) COCO training is batch 16, 5
epochs, the same rates, weight decay and crop. SFC's bank size, loss weights and epochs on COCO are
unknown, so the fields that hold them below are values to search there, not published ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wsss.config.checks import (
    Compat,
    check_choice,
    check_least,
    check_positive,
    check_rates,
    check_share,
)
from wsss.config.maps import Bits, Extraction
from wsss.config.refine import CRF, Ignore, Walk
from wsss.config.response import Response
from wsss.config.training import CAMTraining

Selection = Literal["last", "best"]
"""Which epoch's weights are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SFCTraining(CAMTraining):
    """How SFC is trained; the defaults are the published ones for VOC."""

    steps: int = 3966
    """The default is VOC train_aug six times in batches of 16."""
    epochs: int = 6
    """On COCO: unknown; SIPE takes 5."""
    clip: float | None = 1.0
    detach_after: int | None = 2
    lr_sfc: float = 1.0
    """Of the projections: side1 to side4 and f9."""
    bg_factor: float = 0.3
    """Of the background map, before the argmax that picks the pixels of the prototypes."""
    p_weight: float = 1.6
    """Of L_P, between classifier map and prototype map; on COCO: unknown."""
    w_weight: float = 0.8
    """Of L_W, between the classifier maps of two scales; on COCO: unknown."""
    n_bank: int = 4
    """Images that the bank adds to each batch, 0 for no bank; on COCO: unknown."""
    bank_epochs: float = 3.0
    """Epochs of bank images that the distribution coefficient counts with; unknown why not all 6.

    On COCO: unknown.
    """
    warm_up: int = 0
    """Epochs before the bank, L_P and L_W become active; the release has none."""
    select: Selection = "last"
    """"best" keeps the epoch whose seeds are best on the probe, so pixel masks choose it."""

    def __post_init__(self) -> None:
        CAMTraining.__post_init__(self)  # super() does not work in slotted dataclasses
        check_rates(lr_sfc=self.lr_sfc, p_weight=self.p_weight, w_weight=self.w_weight)
        check_least(0, n_bank=self.n_bank, bank_epochs=self.bank_epochs, warm_up=self.warm_up)
        check_least(0, bg_factor=self.bg_factor)
        check_choice("select", self.select, Selection)
        if self.warm_up > self.epochs:
            raise ValueError(f"warm_up is {self.warm_up}: give at most epochs, {self.epochs}")
        if self.select == "best" and not self.probe:
            raise ValueError("select is 'best': give probe the number of images that decide it")


@dataclass(frozen=True, kw_only=True, slots=True)
class SFCMaps(Extraction):
    """How SFC's two maps are extracted."""

    bits: Bits = 16
    """Of a stored score: in 8 bits, many pixels would tie with the published bias."""
    bg_factor: float = 0.3
    """As in training."""
    compat: Compat = "release"
    """The release's inference differs from its training; "none" makes it the same."""

    def __post_init__(self) -> None:
        Extraction.__post_init__(self)  # super() does not work in slotted dataclasses
        check_least(0, bg_factor=self.bg_factor)
        check_choice("compat", self.compat, Compat)


@dataclass(frozen=True, kw_only=True, slots=True)
class SFCFusion:
    """How the two maps are mixed, and how much foreground counts against background.

    The default is the release's evaluation, the prototype map alone; the paper says 1 and 1.
    """

    classifier_weight: float = 0.0
    prototype_weight: float = 1.0
    gain: float = 2.0
    """Of foreground scores."""

    def __post_init__(self) -> None:
        check_rates(
            classifier_weight=self.classifier_weight, prototype_weight=self.prototype_weight
        )
        if not self.classifier_weight + self.prototype_weight > 0:
            raise ValueError("prototype_weight is 0 beside a classifier_weight of 0: weigh one map")
        check_positive(gain=self.gain)

    def threshold(self, bias: float) -> float:
        """The threshold on plain scores that decides as the background `bias` does.

        See `wsss.cam.sfc_maps`; the release's bias is 0.4.
        """
        if not -1 <= bias <= self.gain:
            raise ValueError(f"bias is {bias}: give a number in [-1, {self.gain:g}]")
        return (bias + 1) / (self.gain + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class SFCClassMaps(SFCMaps):
    """How SFC's foreground maps are extracted as any classifier's."""

    fusion: SFCFusion = field(default_factory=SFCFusion)
    response: Response | None = None
    """How class-conditional response maps are drawn out of them; None leaves them as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SFCLabels(SFCFusion):
    """How the two label maps are cut that a CRF refines into labels for affinity learning."""

    classifier_weight: float = 1.0
    prototype_weight: float = 0.7
    bias: float = 0.4
    """Added to background scores."""
    low_share: float = 0.5
    """What is left of the biased background scores in the label map that holds more foreground."""
    crf: CRF = field(default_factory=CRF)
    ignore: Ignore = "keep"
    """What becomes of pixels that are neither, 255."""

    def __post_init__(self) -> None:
        SFCFusion.__post_init__(self)  # super() does not work in slotted dataclasses
        check_least(0, bias=self.bias)
        check_share(low_share=self.low_share)
        check_choice("ignore", self.ignore, Ignore)


@dataclass(frozen=True, kw_only=True, slots=True)
class SFCWalk(SFCFusion):
    """What the two random walks start from, and how they go."""

    classifier_weight: float = 1.0
    prototype_weight: float = 0.3
    bias: float = 0.4
    """Added to background scores."""
    power: float = 1.3
    """Of the scores before the first walk, of foreground alone."""
    all_power: float = 1.3
    """Of those again, before the second walk, of background too."""
    walk: Walk = field(default_factory=lambda: Walk(pad=512))
    """How both go; its own power stays 1."""

    def __post_init__(self) -> None:
        SFCFusion.__post_init__(self)  # super() does not work in slotted dataclasses
        check_least(0, bias=self.bias)
        check_positive(power=self.power, all_power=self.all_power)
        if self.walk.power != 1:
            raise ValueError(f"walk.power is {self.walk.power}: leave it 1 and set power")

    @staticmethod
    def plane_threshold(plane: float) -> float:
        """The threshold on the walks' scores that stands for a constant `plane`, 0.25 as released.

        See `wsss.cam.sfc_labels`.
        """
        if not -1 <= plane <= 2:
            raise ValueError(f"plane is {plane}: give a number in [-1, 2]")
        return (plane + 1) / 3
