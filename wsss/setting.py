"""The setting of an experiment: which data, which network, which images learn and which score.

What every sweep over methods shares, and what keeps its rows from being held against published
ones. Needs no torch, so that a process which only declares pipelines stays light.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from wsss.config import Precision, Schedule, SegmentationTraining, SFCTraining, content_of
from wsss.config.checks import check_least
from wsss.data import open_samples
from wsss.data.roots import pinned
from wsss.published import (
    CAM_SEED,
    COCO_VAL,
    COCO_VAL_IMAGES,
    PSEUDO_LABEL,
    PUBLISHED,
    SEGMENTATION,
)
from wsss.recipes import FEW_IMAGES, Recipe, recipe, usual

AnyTraining = TypeVar("AnyTraining", bound=Schedule)

CAFFE_IMAGENET = "deeplabv1_resnet101-imagenet.pth"
"""What published segmentation networks start from; its digest is not known to us."""

LEARNED = (10_582, 82_783, 82_081)
"""Images of VOC's train_aug, and of COCO's train2014 with and without those that show nothing."""

PRECISION = (
    "of the backbones' products; bfloat16 is faster where processor or GPU has it, and ten times"
    " slower elsewhere"
)
OFFICIAL = {
    task: {found.split for found in PUBLISHED if found.task == task}
    for task in (CAM_SEED, PSEUDO_LABEL, SEGMENTATION)
}
"""By task, the sets of images that published numbers are of."""
OFFICIAL[SEGMENTATION] |= {f"{COCO_VAL} ({images})" for images in COCO_VAL_IMAGES}


def option(text: str, default: Any) -> Any:
    """An option with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a user may choose in every experiment; "auto" stands for what suits the data.

    Data in a store is pinned to what it holds when the setting is made, by the driver of a sweep.
    Those who get the setting from it read just that: copies are not pinned anew.
    """

    data: str = option(
        "scenes, scenes:seed=N,images=N, voc2012:PATH, coco2014:PATH, images:PATH (own); PATH is a"
        " folder, or s3://bucket/prefix, which each machine fetches once",
        "scenes",
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
        self._pin("data")

    def _pin(self, *locations: str) -> None:
        """Name the content of those roots in a store that these fields name."""
        for name in locations:
            object.__setattr__(self, name, pinned(getattr(self, name)))

    @property
    def kind(self) -> str:
        """Of the data set: "scenes", "voc2012", "coco2014" or "images"."""
        return self.data.partition(":")[0]

    @property
    def on_scenes(self) -> bool:
        """Whether the data set is the built-in one."""
        return self.kind == "scenes"

    @property
    def train_split(self) -> str:
        """The split whose image-level labels are learned."""
        usual = {"voc2012": "train_aug", "images": "all"}.get(self.kind, "train")
        return usual if self.train == "auto" else self.train

    @property
    def learned(self) -> int:
        """How many images are learned from."""
        return len(open_samples(self.data, self.train_split))


def chosen(setting: Setting, *, few: bool = False) -> Recipe:
    """The recipe for the data and the backbone, from the initial weights that the user wants.

    `few` takes the one for few images, however many there are.
    """
    backbone = None if setting.backbone == "auto" else setting.backbone
    images = min(setting.learned, FEW_IMAGES - 1) if few else setting.learned
    found = recipe(setting.data, backbone, images).computed_in(setting.precision)
    if setting.weights == "auto":
        return found
    return found.starting_from(*initial(setting.weights))


def initial(weights: str) -> tuple[str, str]:
    """Initial weights, "imagenet", "random" or a file, as configurations name them; and the file.

    Raises ValueError for a file that cannot be read.
    """
    if weights in ("imagenet", "random"):
        return weights, ""
    file = Path(weights).absolute()
    return content_of(file), str(file)


def shortened(training: AnyTraining, steps: int) -> AnyTraining:
    """A training of so many `steps`; 0 leaves it as it is."""
    if not steps:
        return training
    epochs = min(training.epochs, steps)
    if isinstance(training, SFCTraining):  # of which some epochs only warm up
        return replace(training, steps=steps, epochs=epochs, warm_up=min(training.warm_up, epochs))
    return replace(training, steps=steps, epochs=epochs)


def probed(setting: Setting, images: int) -> int:
    """So many images to score on the way; none where the learned images have no masks."""
    return images if open_samples(setting.data, setting.train_split).has_masks else 0


def split_name(setting: Setting, split: str) -> str:
    """A split in words, with its number of images."""
    return f"{setting.kind} {split} ({len(open_samples(setting.data, split))})"


def initial_weights(setting: Setting, recipe: Recipe | None = None) -> str:
    """Network and initial weights of the classifier in words."""
    given = (recipe or chosen(setting)).cam
    return _words(given.backbone, given.weights, given.weights_file)


def segmentation_weights(recipe: Recipe) -> str:
    """Segmentation network and its initial weights in words."""
    given = recipe.segmentation
    return _words(f"{given.architecture} {given.backbone}", given.weights, given.weights_file)


def _words(name: str, weights: str, file: str) -> str:
    return f"{name}, {f'{Path(file).name}@{weights[7:15]}' if file else weights}"


def differences(
    setting: Setting, split: str, recipe: Recipe | None = None, task: str = CAM_SEED
) -> list[str]:
    """What keeps rows that are scored on `split` from being held against published ones.

    `recipe` is the one that was used, where it is not the chosen one.
    """
    found = recipe or chosen(setting)
    tuned = [tuning(setting, found)] if found.tuned else []
    if setting.kind not in ("voc2012", "coco2014"):
        return ["other data", *tuned]  # which says it all
    like = usual(setting.data, found.cam.backbone, setting.learned).computed_in(setting.precision)
    reasons = {
        "other images": split_name(setting, split) not in OFFICIAL.get(task, OFFICIAL[CAM_SEED]),
        "masks by another rule": "," in setting.data.partition(":")[2],
        "other training images": setting.learned not in LEARNED,
        "another backbone": found.cam.backbone != "resnet50",
        "other initial weights": found.cam.weights != "imagenet",
        "another schedule": found.trainings != like.trainings,
        "other classes": bool(setting.classes),
    }
    if task == SEGMENTATION:
        reasons |= _segmentation_differences(found.segmentation, like.segmentation)
    return [*(reason for reason, holds in reasons.items() if holds), *tuned]


def tuning(setting: Setting, found: Recipe) -> str:
    """Which masks the settings of a recipe were chosen with, in words."""
    here = found.tuned == setting.kind
    return f"settings tuned {'with the training masks' if here else f'on {found.tuned}'}"


def _segmentation_differences(
    given: SegmentationTraining, published: SegmentationTraining
) -> dict[str, bool]:
    """The same of the segmentation network, whose published weights can only be given as a file."""
    other = (given.architecture, given.backbone) != (published.architecture, published.backbone)
    free = ("weights", "weights_file", "probe", "workers", "compile")
    same = {name: getattr(given, name) for name in free}
    return {
        "another segmentation network": other,
        "another segmentation schedule": not other and given != replace(published, **same),
        "segmentation from other initial weights": Path(given.weights_file).name != CAFFE_IMAGENET,
    }
