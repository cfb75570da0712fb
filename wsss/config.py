"""Configuration of every method, as frozen dataclasses whose defaults are the published values.

They stand apart from the methods that they configure, because a process that only declares
pipelines (a trial of a sweep) needs them and must not import torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

Precision = Literal["float32", "bfloat16"]
Bits = Literal[8, 16]
BY_CONTENT = "sha256:"
ExtractionWeight = Literal["w", "w_prime", "product"]
"""What the features are weighted with at extraction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What every classifier training may choose; the defaults are the published ones."""

    steps: int = 3305
    """Optimiser steps in all; the default is VOC train_aug five times in batches of 16."""
    epochs: int = 5
    """Parts that the steps are split into: each ends with a report and a checkpoint."""
    batch: int = 16
    weight_decay: float = 1e-4
    momentum: float = 1e-4
    """SGD's momentum as the release really uses it, not as it says (0.9)."""
    power: float = 0.9
    crop: int = 512
    """Side of the square training view in pixels."""
    long_side: tuple[int, int] = (320, 640)
    """Range of the longer image side before the crop, in pixels, both ends included."""
    detach_after: int | None = None
    """Layer behind which the gradient stops: 2 as in IRN and SFC, None as in ReCAM."""
    precision: Precision = "float32"
    """Of the backbone's products; the rest is float32 always."""
    probe: int = 0
    """Images on which the maps are scored after each epoch, for pruning; 0 for none."""
    workers: int = 2
    """Threads that decode and augment; without influence on the result."""
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("steps", "epochs", "batch", "crop", "workers"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}: give 1 or more")
        for field in ("weight_decay", "power", "probe", "seed"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} is {getattr(self, field)}: give 0 or more")
        if self.epochs > self.steps:
            raise ValueError(f"epochs is {self.epochs}: give at most steps, {self.steps}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}: give a number in [0, 1)")
        if not 1 <= self.long_side[0] <= self.long_side[1]:
            raise ValueError(f"long_side is {self.long_side}: give the lower end first, 1 or more")
        if self.detach_after not in (None, 1, 2, 3):
            raise ValueError(f"detach_after is {self.detach_after}: give 1, 2, 3 or None")
        _check_choice("precision", self.precision, Precision)


@dataclass(frozen=True, kw_only=True, slots=True)
class CAMTraining(Training):
    """How the classifier is trained; the defaults are IRN's and ReCAM's on VOC."""

    backbone: str = "resnet50"
    weights: str = "imagenet"
    """Of the backbone at the start: "imagenet", "random", or "sha256:..." of a file's content."""
    weights_file: str = ""
    """Where that file lies, if `weights` names one by its content."""
    lr_backbone: float = 0.1
    lr_head: float = 1.0

    def __post_init__(self) -> None:
        Training.__post_init__(self)  # super() does not work in slotted dataclasses
        _check_rates(lr_backbone=self.lr_backbone, lr_head=self.lr_head)
        if self.weights not in ("imagenet", "random") and not self.weights.startswith(BY_CONTENT):
            raise ValueError(
                f"weights is {self.weights!r}: give imagenet, random, or `content_of(file)`"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReCAMTraining(Training):
    """How a CAM classifier is trained on; the defaults are the published ones for VOC."""

    steps: int = 2644
    epochs: int = 4
    loss_weight: float = 1.0
    """lambda, of SCE beside BCE; 0.1 on COCO."""
    lr_backbone: float = 5e-5
    lr_head: float = 5e-5
    """Of the classifier w."""
    lr_recam: float = 5e-4
    """Of the second classifier w'."""

    def __post_init__(self) -> None:
        Training.__post_init__(self)  # super() does not work in slotted dataclasses
        rates = {
            "lr_backbone": self.lr_backbone,
            "lr_head": self.lr_head,
            "lr_recam": self.lr_recam,
        }
        _check_rates(loss_weight=self.loss_weight, **rates)


@dataclass(frozen=True, kw_only=True, slots=True)
class CAMMaps:
    """How class activation maps are extracted: multi-scale and mirrored, as published."""

    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    """Of the image's sides."""
    bits: Bits = 8
    """Of a stored score."""
    precision: Precision = "float32"
    """Of the backbone's products; bfloat16 halves the time on newer CPUs and GPUs."""

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales is {self.scales}: give one or more positive factors")
        _check_choice("bits", self.bits, Bits)
        _check_choice("precision", self.precision, Precision)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReCAMMaps(CAMMaps):
    """How ReCAM's maps are extracted."""

    weight: ExtractionWeight = "product"
    """The release takes the product on VOC and w on COCO."""

    def __post_init__(self) -> None:
        CAMMaps.__post_init__(self)  # super() does not work in slotted dataclasses
        _check_choice("weight", self.weight, ExtractionWeight)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedQuality:
    """How finely the threshold curve of score maps is resolved."""

    bins: int = 100
    """Thresholds are k / bins for k = 0..bins."""

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"bins is {self.bins}: give 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedScore:
    """Which point of a threshold curve counts, and which classes."""

    threshold: float | None = None
    """In [0, 1]; None takes the best one, which is found with pixel masks (an oracle)."""
    classes: tuple[str, ...] = ()
    """Names, "background" among them, of the classes that mIoU averages; () for all that occur."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}: give a number in [0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedPictures:
    """What is drawn of two sets of score maps, side by side."""

    names: tuple[str, str] = ("CAM", "ReCAM")
    classes: tuple[str, ...] = ()
    """Of the curves and bars, as in `SeedScore`; each method is drawn at its best threshold."""
    images: int = 6

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"images is {self.images}: give 1 or more")


def content_of(file: Path) -> str:
    """How `CAMTraining.weights` names a file. ValueError where it cannot be read."""
    try:
        state = file.stat()
        return BY_CONTENT + _sha256(file, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise ValueError(f"weights file {file} cannot be read: {error.strerror}") from error


@cache
def _sha256(file: Path, size: int, changed: int) -> str:
    """Of the file as it is since it `changed`: a pipeline asks for each of its nodes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check_rates(**given: float) -> None:
    for field, value in given.items():
        if not value >= 0:
            raise ValueError(f"{field} is {value}: give 0 or more")


def _check_choice(field: str, value: object, kind: object) -> None:
    if value not in get_args(kind):
        choices = ", ".join(str(choice) for choice in get_args(kind))
        raise ValueError(f"{field} is {value!r}: choose from {choices}")
