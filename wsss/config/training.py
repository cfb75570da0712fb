"""How classifiers are trained: the defaults are the published values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsss.config.checks import (
    BY_CONTENT,
    check_choice,
    check_initial,
    check_least,
    check_rates,
)
from wsss.data.content import sha256_of

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """What every training may choose, of a classifier or of anything else."""

    steps: int
    """Optimiser steps in all."""
    epochs: int
    """Parts that the steps are split into: each ends with a report and a checkpoint."""
    batch: int = 16
    weight_decay: float = 1e-4
    momentum: float = 1e-4
    """SGD's momentum as the release really uses it, not as it says (0.9)."""
    power: float = 0.9
    clip: float | None = None
    """Norm that the gradient over all trained weights is cut to; None leaves it."""
    crop: int = 512
    """Side of the square training view in pixels."""
    precision: Precision = "float32"
    """Of the backbone's products; the rest is float32 always."""
    workers: int = 2
    """Threads that decode and augment; without influence on the result."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(1, steps=self.steps, epochs=self.epochs, batch=self.batch)
        check_least(1, crop=self.crop, workers=self.workers)
        check_least(0, weight_decay=self.weight_decay, power=self.power, seed=self.seed)
        if self.epochs > self.steps:
            raise ValueError(f"epochs is {self.epochs}: give at most steps, {self.steps}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}: give a number in [0, 1)")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip is {self.clip}: give a positive norm, or None")
        check_choice("precision", self.precision, Precision)


@dataclass(frozen=True, kw_only=True, slots=True)
class Training(Schedule):
    """What every classifier training may choose; the defaults are the published ones."""

    steps: int = 3305
    """The default is VOC train_aug five times in batches of 16."""
    epochs: int = 5
    long_side: tuple[int, int] = (320, 640)
    """Range of the longer image side before the crop, in pixels, both ends included."""
    detach_after: int | None = None
    """Layer behind which the gradient stops: 2 as in IRN and SFC, None as in ReCAM."""
    probe: int = 0
    """Images on which the maps are scored after each epoch, for pruning; 0 for none."""

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)  # super() does not work in slotted dataclasses
        check_least(0, probe=self.probe)
        if not 1 <= self.long_side[0] <= self.long_side[1]:
            raise ValueError(f"long_side is {self.long_side}: give the lower end first, 1 or more")
        if self.detach_after not in (None, 1, 2, 3):
            raise ValueError(f"detach_after is {self.detach_after}: give 1, 2, 3 or None")


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
        check_rates(lr_backbone=self.lr_backbone, lr_head=self.lr_head)
        check_initial(self.weights)


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
        check_rates(loss_weight=self.loss_weight, **rates)


def content_of(file: Path) -> str:
    """How `CAMTraining.weights` names a file. ValueError where it cannot be read."""
    try:
        return BY_CONTENT + sha256_of(file)
    except OSError as error:
        raise ValueError(f"weights file {file} cannot be read: {error.strerror}") from error
