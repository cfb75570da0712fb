#!/usr/bin/env python
"""Search ReCAM's loss weight, extraction weight and CAM threshold; compare it with plain CAM.

    sweeps/recam_threshold.py                                        built-in scenes, this machine
    sweeps/recam_threshold.py --data voc2012:/data/VOC2012 --backbone resnet50 --trials 200
    ray job submit --working-dir . -- sweeps/recam_threshold.py --store s3://bucket/wsss

A classifier is trained on image-level labels (CAM). Every trial trains ReCAM from it with another
weight of the softmax loss, extracts score maps with one of three classifier weights, and reads the
mIoU of the seeds at a threshold off their curve. What trials share is made once, and the same
command again goes on where it was stopped. At the end the best setting is repeated over random
seeds and put on the leaderboard, beside plain CAM, CAM trained for as many steps more, and the
published numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

# The code beside this file and not an older installed copy: shipped folders hold both roots.
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / root) for root in (".", "platform")]

from stageflow.board import Entry, published_row
from stageflow.stage import Node
from stageflow.sweep import Sweep, main
from wsss import stages
from wsss.config import (
    ExtractionWeight,
    ReCAMMaps,
    SeedPictures,
    SeedQuality,
    SeedScore,
    content_of,
)
from wsss.data import class_ids, open_samples
from wsss.published import CAM_SEED, PUBLISHED
from wsss.recipes import Recipe, published, recipe

if TYPE_CHECKING:
    import optuna


def option(text: str, default: Any) -> Any:
    """An option with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a user may choose; "auto" stands for what suits the data."""

    data: str = option(
        "scenes, scenes:seed=N,images=N, or voc2012:PATH (official layout)", "scenes"
    )
    backbone: str = option("tiny, resnet50, resnet101, efficientnet_lite0, or a timm name", "auto")
    weights: str = option("of the backbone at the start: imagenet, random, or a file", "auto")
    train: str = option("split whose image labels are learned: train, train_aug, ...", "auto")
    score: str = option("split whose masks score the maps", "train")
    classes: tuple[str, ...] = option("what mIoU averages, background,cat,...; empty: all", ())
    cam_threshold: float = option("a threshold for plain CAM that no mask chose (IRN's)", 0.15)
    seeds: int = option("random seeds that the best setting is repeated with", 3)
    cam_steps: int = option("training steps of the classifier; 0: what suits the data", 0)
    recam_steps: int = option("training steps of ReCAM; 0: what suits the data", 0)
    probe: int = option(
        "training images scored with their masks after each epoch, to stop "
        "hopeless trials early; 0: none",
        24,
    )

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}: give 1 or more")
        for name in ("cam_steps", "recam_steps", "probe"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 or more")
        if not 0 <= self.cam_threshold <= 1:
            raise ValueError(f"cam_threshold is {self.cam_threshold}: give a number in [0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Params:
    """What Optuna chooses; the defaults are the published values for VOC."""

    loss_weight: float = 1.0
    extraction: ExtractionWeight = "product"
    threshold: float = 0.21


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredMaps:
    """The nodes of one method with one random seed: its maps, and their threshold curve."""

    maps: Node
    quality: Node


def space(trial: optuna.Trial, options: Options) -> Params:
    """The search space: few loss weights, so that trials share their trainings."""
    extraction = trial.suggest_categorical("extraction", get_args(ExtractionWeight))
    return Params(
        loss_weight=trial.suggest_categorical("loss_weight", (0.1, 0.3, 1.0, 3.0)),
        extraction=cast(ExtractionWeight, extraction),
        threshold=round(trial.suggest_float("threshold", 0.05, 0.6, step=0.01), 2),
    )


def pipeline(params: Params, options: Options) -> Node:
    """Parameters to the node whose "miou" is the objective."""
    return score(recam(params, options, seed=0).quality, options, params.threshold)


def entries(params: Params, options: Options) -> Sequence[Entry]:
    """CAM, CAM trained for as many steps more, and ReCAM, over random seeds.

    Each at its best threshold, which takes masks to find; CAM also at one that no mask chose, and
    ReCAM at the one that the search chose.
    """
    seeds = tuple(range(options.seeds))
    cams = [cam(options, seed) for seed in seeds]
    longer = [recam(Params(loss_weight=0.0, extraction="w"), options, seed) for seed in seeds]
    recams = [recam(params, options, seed) for seed in seeds]
    pictures = (compared(cams[0], recams[0], options),)
    setting = f"{params.extraction}, loss weight {params.loss_weight:g}"
    searched = "parameters were searched with masks, on seed 0"

    def entry(
        method: str,
        words: str,
        nodes: Sequence[ScoredMaps],
        threshold: float | None,
        note: str = "",
    ) -> Entry:
        at = "best threshold" if threshold is None else f"threshold {threshold:g}"
        return Entry(
            task=CAM_SEED,
            split=split_name(options),
            method=method,
            variant=", ".join(part for part in (words, at) if part),
            targets=tuple(score(node.quality, options, threshold) for node in nodes),
            seeds=seeds,
            oracle=threshold is None or bool(note),
            weights=initial_weights(options),
            comparable=", ".join(differences(options)),
            pictures=pictures if note and threshold is None else (),
            note=note,
        )

    return [
        entry("CAM", "", cams, None),
        entry("CAM", "", cams, options.cam_threshold),
        entry("CAM", "trained as long as ReCAM", longer, None),
        entry("ReCAM", setting, recams, None, searched),
        entry("ReCAM", setting, recams, params.threshold, searched),
    ]


def cam(options: Options, seed: int) -> ScoredMaps:
    """Plain CAM: the classifier, its maps, their curve."""
    images = stages.images(options.data, options.score)
    return scored(stages.cam_maps(images, classifier(options, seed), chosen(options).maps), options)


def recam(params: Params, options: Options, seed: int) -> ScoredMaps:
    """ReCAM, trained on from the classifier of the same seed."""
    found = chosen(options)
    config = replace(found.recam, loss_weight=params.loss_weight, seed=seed, probe=probed(options))
    learned = stages.images(options.data, train_split(options))
    net = stages.train_recam(learned, classifier(options, seed), config)
    maps = ReCAMMaps(**asdict(found.maps), weight=params.extraction)
    return scored(stages.recam_maps(stages.images(options.data, options.score), net, maps), options)


def classifier(options: Options, seed: int) -> Node:
    """The classifier that all methods start from."""
    learned = stages.images(options.data, train_split(options))
    return stages.train_cam(learned, replace(chosen(options).cam, seed=seed))


def scored(maps: Node, options: Options) -> ScoredMaps:
    """Maps with their threshold curve."""
    truth = stages.masks(options.data, options.score)
    return ScoredMaps(maps=maps, quality=stages.seed_quality(maps, truth, SeedQuality()))


def score(quality: Node, options: Options, threshold: float | None) -> Node:
    """One point of a curve; None: the best. Raises ValueError for an unknown class."""
    class_ids(open_samples(options.data, options.score).classes, options.classes)
    return stages.seed_score(quality, SeedScore(threshold=threshold, classes=options.classes))


def compared(plain: ScoredMaps, ours: ScoredMaps, options: Options) -> Node:
    """Pictures of both methods, side by side."""
    truth = stages.masks(options.data, options.score)
    config = SeedPictures(classes=options.classes)
    return stages.seed_pictures(truth, plain.maps, plain.quality, ours.maps, ours.quality, config)


def chosen(options: Options) -> Recipe:
    """The recipe for the data and the backbone, with the weights and steps that the user wants."""
    images = len(open_samples(options.data, train_split(options)))
    backbone = None if options.backbone == "auto" else options.backbone
    found = recipe(options.data, backbone, images)
    cam_steps = options.cam_steps or found.cam.steps
    recam_steps = options.recam_steps or found.recam.steps
    started = replace(found.cam, steps=cam_steps, epochs=min(found.cam.epochs, cam_steps))
    if options.weights in ("imagenet", "random"):
        started = replace(started, weights=options.weights)
    elif options.weights != "auto":
        file = Path(options.weights).absolute()
        started = replace(started, weights=content_of(file), weights_file=str(file))
    epochs = min(found.recam.epochs, recam_steps)
    return replace(found, cam=started, recam=replace(found.recam, steps=recam_steps, epochs=epochs))


def train_split(options: Options) -> str:
    """The split whose image-level labels are learned."""
    usual = "train" if on_scenes(options) else "train_aug"
    return usual if options.train == "auto" else options.train


def probed(options: Options) -> int:
    """Images to score on the way: none where the learned images have no masks."""
    return options.probe if open_samples(options.data, train_split(options)).has_masks else 0


def on_scenes(options: Options) -> bool:
    """Whether the data set is the built-in one."""
    return options.data.partition(":")[0] == "scenes"


def split_name(options: Options) -> str:
    """The scored split in words, with its number of images."""
    count = len(open_samples(options.data, options.score))
    return f"{options.data.partition(':')[0]} {options.score} ({count})"


def initial_weights(options: Options) -> str:
    """Network and initial weights in words."""
    given = chosen(options).cam
    file = f"{Path(given.weights_file).name}@{given.weights[7:15]}"
    return f"{given.backbone}, {file if given.weights_file else given.weights}"


def differences(options: Options) -> list[str]:
    """What keeps our rows from being held against published ones."""
    found = chosen(options)
    learned = len(open_samples(options.data, train_split(options)))
    usual = published(found.cam.backbone, learned)
    reasons = {
        "other data": on_scenes(options),
        "other images": split_name(options) not in {p.split for p in SEED_ROWS},
        "other training images": learned != VOC_TRAIN_AUG,
        "another backbone": found.cam.backbone != "resnet50",
        "other initial weights": found.cam.weights != "imagenet",
        "another schedule": (found.cam, found.recam) != (usual.cam, usual.recam),
        "other classes": bool(options.classes),
    }
    return [reason for reason, holds in reasons.items() if holds]


VOC_TRAIN_AUG = 10_582
SEED_ROWS = [found for found in PUBLISHED if found.task == CAM_SEED]

SWEEP = Sweep(
    name="recam-threshold",
    about=__doc__ or "",
    options=Options(),
    defaults=Params(),
    space=space,
    pipeline=pipeline,
    entries=entries,
    rung="probe_miou",
    published=[published_row(**asdict(found)) for found in SEED_ROWS],
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
