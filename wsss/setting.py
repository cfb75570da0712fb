"""The setting of an experiment: which data, which network, which images learn and which score.

What every sweep over methods shares, and what keeps its rows from being held against published
ones. Needs no torch, so that a process which only declares pipelines stays light.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from wsss.config import Precision, Schedule, content_of
from wsss.config.checks import check_least
from wsss.data import open_samples
from wsss.published import CAM_SEED, PUBLISHED
from wsss.recipes import Recipe, published, recipe

AnyTraining = TypeVar("AnyTraining", bound=Schedule)

VOC_TRAIN_AUG = 10_582
PRECISION = (
    "of the backbones' products; bfloat16 is faster where processor or GPU has it, and ten times"
    " slower elsewhere"
)
SEED_SPLITS = {found.split for found in PUBLISHED if found.task == CAM_SEED}


def option(text: str, default: Any) -> Any:
    """An option with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a user may choose in every experiment; "auto" stands for what suits the data."""

    data: str = option(
        "scenes, scenes:seed=N,images=N, voc2012:PATH, coco2014:PATH, images:PATH (own)", "scenes"
    )
    backbone: str = option("tiny, resnet50, resnet101, efficientnet_lite0, or a timm name", "auto")
    weights: str = option("of the backbone at the start: imagenet, random, or a file", "auto")
    train: str = option("split whose image labels are learned: train, train_aug, ...", "auto")
    score: str = option("split whose masks score the maps", "train")
    classes: tuple[str, ...] = option("what mIoU averages, background,cat,...; empty: all", ())
    precision: Precision = field(default="float32", metadata={"help": PRECISION})
    seeds: int = option("random seeds behind each row of the board", 3)

    def __post_init__(self) -> None:
        check_least(1, seeds=self.seeds)

    @property
    def on_scenes(self) -> bool:
        """Whether the data set is the built-in one."""
        return self.data.partition(":")[0] == "scenes"

    @property
    def train_split(self) -> str:
        """The split whose image-level labels are learned."""
        kind = self.data.partition(":")[0]
        usual = {"voc2012": "train_aug", "images": "all"}.get(kind, "train")
        return usual if self.train == "auto" else self.train

    @property
    def learned(self) -> int:
        """How many images are learned from."""
        return len(open_samples(self.data, self.train_split))


def chosen(setting: Setting) -> Recipe:
    """The recipe for the data and the backbone, from the initial weights that the user wants."""
    backbone = None if setting.backbone == "auto" else setting.backbone
    found = recipe(setting.data, backbone, setting.learned).computed_in(setting.precision)
    if setting.weights == "auto":
        return found
    given, file = setting.weights, ""
    if given not in ("imagenet", "random"):
        file = str(Path(given).absolute())
        given = content_of(Path(file))
    return found.starting_from(given, file)


def shortened(training: AnyTraining, steps: int) -> AnyTraining:
    """A training of so many `steps`; 0 leaves it as it is."""
    if not steps:
        return training
    return replace(training, steps=steps, epochs=min(training.epochs, steps))


def probed(setting: Setting, images: int) -> int:
    """So many images to score on the way; none where the learned images have no masks."""
    return images if open_samples(setting.data, setting.train_split).has_masks else 0


def split_name(setting: Setting, split: str) -> str:
    """A split in words, with its number of images."""
    return f"{setting.data.partition(':')[0]} {split} ({len(open_samples(setting.data, split))})"


def initial_weights(setting: Setting) -> str:
    """Network and initial weights in words."""
    given = chosen(setting).cam
    file = f"{Path(given.weights_file).name}@{given.weights[7:15]}"
    return f"{given.backbone}, {file if given.weights_file else given.weights}"


def differences(setting: Setting, split: str, recipe: Recipe | None = None) -> list[str]:
    """What keeps rows that are scored on `split` from being held against published ones.

    `recipe` is the one that was used, where it is not the chosen one.
    """
    found = recipe or chosen(setting)
    usual = published(found.cam.backbone, setting.learned).computed_in(setting.precision)
    reasons = {
        "other data": setting.on_scenes,
        "other images": split_name(setting, split) not in SEED_SPLITS,
        "masks by another rule": "," in setting.data.partition(":")[2] and not setting.on_scenes,
        "other training images": setting.learned != VOC_TRAIN_AUG,
        "another backbone": found.cam.backbone != "resnet50",
        "other initial weights": found.cam.weights != "imagenet",
        "another schedule": found.trainings != usual.trainings,
        "other classes": bool(setting.classes),
        found.tuned: bool(found.tuned),
    }
    return [reason for reason, holds in reasons.items() if holds]
