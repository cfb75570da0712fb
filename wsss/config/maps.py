"""How class maps are extracted from a trained network: the defaults are the published values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wsss.config.advcam import AdvCAM
from wsss.config.checks import check_choice
from wsss.config.response import Response
from wsss.config.training import Precision

Bits = Literal[8, 16]
ExtractionWeight = Literal["w", "w_prime", "product"]
"""What the features are weighted with at extraction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extraction:
    """How a network is asked for maps: multi-scale and mirrored, as published."""

    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    """Of the image's sides."""
    bits: Bits = 8
    """Of a stored score."""
    precision: Precision = "float32"
    """Of the backbone's products; bfloat16 halves the time on newer CPUs and GPUs."""

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales is {self.scales}: give one or more positive factors")
        check_choice("bits", self.bits, Bits)
        check_choice("precision", self.precision, Precision)


@dataclass(frozen=True, kw_only=True, slots=True)
class CAMMaps(Extraction):
    """How class activation maps are extracted."""

    response: Response | None = None
    """How class-conditional response maps are drawn out of them; None leaves them as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReCAMMaps(CAMMaps):
    """How ReCAM's maps are extracted."""

    weight: ExtractionWeight = "product"
    """The release takes the product on VOC and w on COCO."""

    def __post_init__(self) -> None:
        CAMMaps.__post_init__(self)  # super() does not work in slotted dataclasses
        check_choice("weight", self.weight, ExtractionWeight)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdvCAMMaps(CAMMaps):
    """How AdvCAM's maps are extracted from a CAM classifier."""

    climb: AdvCAM = field(default_factory=AdvCAM)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdvReCAMMaps(ReCAMMaps):
    """How AdvCAM's maps are extracted from ReCAM's network, under one of its weights."""

    climb: AdvCAM = field(default_factory=AdvCAM)
