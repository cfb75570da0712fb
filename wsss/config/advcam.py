"""How an image is climbed against its classifier: the defaults are the published values."""

from __future__ import annotations

from dataclasses import dataclass

from wsss.config.checks import Compat, check_choice, check_least, check_share


@dataclass(frozen=True, kw_only=True, slots=True)
class AdvCAM:
    """How an image is changed, again and again, so that a class shows more of itself."""

    iterations: int = 27
    """Maps that are summed for a class at a scale; the first is of the image as it is."""
    iterations_small: int = 13
    """The same at scales below 1; the release has 0.5 alone."""
    gain_small: float = 2.0
    """What a map counts at scales below 1, where there are half as many."""
    step: float = 0.08
    """Largest change of a normalised pixel in an iteration."""
    high: float = 0.5
    """Share of a map's maximum above which it is to stay as it was at first."""
    regularisation: float = 7.0
    """lambda, of that penalty; a sum over cells, so its weight depends on the network."""
    compat: Compat = "none"
    """"release" counts maps twice at all scales, and clamps to the range of the changed image."""

    def __post_init__(self) -> None:
        check_least(1, iterations=self.iterations, iterations_small=self.iterations_small)
        check_least(0, gain_small=self.gain_small, step=self.step)
        check_least(0, regularisation=self.regularisation)
        check_share(high=self.high)
        check_choice("compat", self.compat, Compat)
