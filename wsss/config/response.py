"""How class-conditional response maps are drawn out: the defaults are the published values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsss.config.checks import Compat, check_choice, check_least, check_share

Erase = Literal["joint", "per_class"]

NARROWEST = 4
"""Of a margin, in pixels: a crop is never narrower, and must outlast being scaled down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """How an image is cropped and erased so that its classifier looks further."""

    threshold: float = 0.7
    """Score from which a pixel is erased."""
    growth: float = 0.02
    """Share of a crop that must be newly erased for another round."""
    iterations: int = 5
    """Rounds of a crop at most; the first is of the crop as it is."""
    margins: tuple[int, int] = (10, 20)
    """Pixels that a crop reaches beyond the centres, with one class and with two."""
    erase: Erase = "joint"
    """Whether a pixel is erased for all classes, as released, or for each class by its own map."""
    least_score: float = 0.0
    """Ours: a class whose peak falls below this share of its first one is gone; 0 for never."""
    compat: Compat = "none"
    """"release" wraps crops that begin above or left of the image, and misplaces masks."""

    def __post_init__(self) -> None:
        check_share(threshold=self.threshold, growth=self.growth, least_score=self.least_score)
        check_least(1, iterations=self.iterations)
        if len(self.margins) != 2 or min(self.margins) < NARROWEST:
            raise ValueError(f"margins is {self.margins}: give two of {NARROWEST} pixels or more")
        check_choice("erase", self.erase, Erase)
        check_choice("compat", self.compat, Compat)
