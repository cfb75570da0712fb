"""How seeds are scored and drawn."""

from __future__ import annotations

from dataclasses import dataclass

from wsss.config.checks import check_least, check_share


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedQuality:
    """How finely the threshold curve of score maps is resolved."""

    bins: int = 100
    """Thresholds are k / bins for k = 0..bins."""

    def __post_init__(self) -> None:
        check_least(1, bins=self.bins)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScore:
    """Which classes count in the score of label maps."""

    classes: tuple[str, ...] = ()
    """Names, "background" among them, of the classes that mIoU averages; () for all that occur."""
    tail: tuple[str, ...] = ()
    """Names of the rare classes, whose own mean is "tail_miou"; () for none."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Names of classes that come together, for "pair_confusion"; () for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedScore(LabelScore):
    """Which point of a threshold curve counts, and which classes."""

    threshold: float | None = None
    """In [0, 1]; None takes the best one, which is found with pixel masks (an oracle)."""

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_share(threshold=self.threshold)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPictures:
    """How many images are drawn with what each stage made of them; best thresholds throughout."""

    classes: tuple[str, ...] = ()
    """Which classes a threshold is best for, as in `SeedScore`."""
    images: int = 8

    def __post_init__(self) -> None:
        check_least(1, images=self.images)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedPictures:
    """What is drawn of two sets of score maps, side by side."""

    names: tuple[str, str] = ("CAM", "ReCAM")
    classes: tuple[str, ...] = ()
    """Of the curves and bars, as in `SeedScore`; each method is drawn at its best threshold."""
    images: int = 6

    def __post_init__(self) -> None:
        check_least(1, images=self.images)
