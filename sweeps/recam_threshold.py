#!/usr/bin/env python
"""Search ReCAM's loss weight, extraction weight and CAM threshold; compare it with plain CAM.

    sweeps/recam_threshold.py                                        built-in scenes, this machine
    sweeps/recam_threshold.py --data voc2012:/data/VOC2012 --backbone resnet50 --trials 200
    ray job submit --working-dir . -- sweeps/recam_threshold.py --store s3://bucket/wsss

A classifier is trained once on image-level labels (CAM). Every trial trains ReCAM from it with
another weight of the softmax loss, extracts score maps with one of three classifier weights, and
reads the mIoU of the seeds at a threshold off their curve. What trials share is made once, and the
same command again goes on where it was stopped. At the end the best setting is repeated over seeds
and put on the leaderboard, beside plain CAM and the published numbers.
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
from wsss.config import ExtractionWeight, ReCAMMaps, SeedPictures, SeedQuality, SeedScore
from wsss.data import class_ids, open_samples
from wsss.published import CAM_SEED, PUBLISHED
from wsss.recipes import Recipe, recipe

if TYPE_CHECKING:
    import optuna


def said(text: str, default: Any) -> Any:
    """An option with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a user may choose; None means what suits the data."""

    data: str = said("scenes (built in), or voc2012:PATH in the official layout", "scenes")
    backbone: str | None = said(
        "tiny, resnet50, resnet101, efficientnet_lite0, or a timm name", None
    )
    weights: str | None = said("of the backbone at the start: imagenet, none, or a file", None)
    train: str | None = said(
        "split whose image labels are learned; scenes: train, else train_aug", None
    )
    score: str = said("split whose masks score the seeds", "train")
    classes: tuple[str, ...] | None = said("classes that mIoU averages; none: all that occur", None)
    cam_threshold: float = said("of plain CAM, chosen without masks; the default is IRN's", 0.15)
    seeds: int = said("repetitions of the best setting", 3)
    cam_steps: int | None = said("training steps of the classifier", None)
    recam_steps: int | None = said("training steps of ReCAM", None)
    probe: int = said("images scored after each epoch, to stop hopeless trials; 0: none", 24)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}: give 1 or more")
        if not 0 <= self.cam_threshold <= 1:
            raise ValueError(f"cam_threshold is {self.cam_threshold}: give a number in [0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Params:
    """What Optuna chooses; the defaults are the published values for VOC."""

    loss_weight: float = 1.0
    extraction: ExtractionWeight = "product"
    threshold: float = 0.21


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeds:
    """The nodes of one method with one seed: its maps and their threshold curve."""

    maps: Node
    quality: Node


def space(trial: optuna.Trial, options: Options) -> Params:
    """The search space: few loss weights, so that trials share their trainings."""
    extraction = trial.suggest_categorical("extraction", get_args(ExtractionWeight))
    return Params(
        loss_weight=trial.suggest_categorical("loss_weight", (0.1, 0.3, 1.0, 3.0)),
        extraction=cast(ExtractionWeight, extraction),
        threshold=trial.suggest_float("threshold", 0.05, 0.6, step=0.01),
    )


def pipeline(params: Params, options: Options) -> Node:
    """Parameters to the node whose "miou" is the objective."""
    return score(recam(params, options, seed=0).quality, options, params.threshold)


def entries(params: Params, options: Options) -> Sequence[Entry]:
    """Plain CAM and ReCAM over seeds: at the best threshold of each seed, and at a fixed one."""
    seeds = tuple(range(options.seeds))
    plain = [cam(options, seed) for seed in seeds]
    ours = [recam(params, options, seed) for seed in seeds]
    pictures = (pictured(plain[0], ours[0], params, options),)
    variant = f"{params.extraction}, loss weight {params.loss_weight:g}"

    def entry(method: str, variant: str, nodes: Sequence[Seeds], threshold: float | None) -> Entry:
        at = "best threshold" if threshold is None else f"threshold {threshold:g}"
        return Entry(
            task=CAM_SEED,
            split=described(options),
            method=method,
            variant=", ".join(part for part in (variant, at) if part),
            targets=tuple(score(node.quality, options, threshold) for node in nodes),
            seeds=seeds,
            oracle=threshold is None or method == "ReCAM",
            weights=initial(options),
            comparable=differs(options),
            pictures=pictures if method == "ReCAM" else (),
        )

    return [
        entry("CAM", "", plain, None),
        entry("CAM", "", plain, options.cam_threshold),
        entry("ReCAM", variant, ours, None),
        entry("ReCAM", variant, ours, params.threshold),
    ]


def cam(options: Options, seed: int) -> Seeds:
    """Plain CAM: the classifier, its maps, their curve."""
    given = settings(options)
    net = classifier(options, seed)
    return scored(
        stages.cam_maps(stages.images(options.data, options.score), net, given.maps), options
    )


def recam(params: Params, options: Options, seed: int) -> Seeds:
    """ReCAM, trained on from the classifier of the same seed."""
    given = settings(options)
    config = replace(given.recam, loss_weight=params.loss_weight, seed=seed, probe=options.probe)
    learned = stages.images(options.data, train_split(options))
    net = stages.train_recam(learned, classifier(options, seed), config)
    maps = ReCAMMaps(**asdict(given.maps), weight=params.extraction)
    return scored(stages.recam_maps(stages.images(options.data, options.score), net, maps), options)


def classifier(options: Options, seed: int) -> Node:
    """The classifier that both methods share."""
    config = replace(settings(options).cam, seed=seed)
    return stages.train_cam(stages.images(options.data, train_split(options)), config)


def scored(maps: Node, options: Options) -> Seeds:
    """Maps with their threshold curve."""
    truth = stages.masks(options.data, options.score)
    return Seeds(maps=maps, quality=stages.seed_quality(maps, truth, SeedQuality()))


def score(quality: Node, options: Options, threshold: float | None) -> Node:
    """One point of a curve; None: the best. Raises ValueError for an unknown class."""
    wanted = options.classes or ()
    class_ids(open_samples(options.data, options.score).classes, wanted)
    return stages.seed_score(quality, SeedScore(threshold=threshold, classes=wanted))


def pictured(plain: Seeds, ours: Seeds, params: Params, options: Options) -> Node:
    """Pictures of both methods, side by side."""
    config = SeedPictures(
        thresholds=(options.cam_threshold, params.threshold), classes=options.classes or ()
    )
    truth = stages.masks(options.data, options.score)
    return stages.seed_pictures(truth, plain.maps, plain.quality, ours.maps, ours.quality, config)


def settings(options: Options) -> Recipe:
    """The recipe for the data and the backbone, with the steps that the user wants."""
    images = int(stages.images(options.data, train_split(options)).identity["images"])
    found = recipe(options.data, options.backbone, images)
    cam_steps = options.cam_steps or found.cam.steps
    recam_steps = options.recam_steps or found.recam.steps
    return replace(
        found,
        cam=replace(
            found.cam,
            weights=options.weights or found.cam.weights,
            steps=cam_steps,
            epochs=min(found.cam.epochs, cam_steps),
        ),
        recam=replace(found.recam, steps=recam_steps, epochs=min(found.recam.epochs, recam_steps)),
    )


def train_split(options: Options) -> str:
    """The split whose image-level labels are learned."""
    return options.train or ("train" if on_scenes(options) else "train_aug")


def on_scenes(options: Options) -> bool:
    """Whether the data set is the built-in one."""
    return options.data.partition(":")[0] == "scenes"


def described(options: Options) -> str:
    """The scored split in words, with its number of images."""
    count = stages.masks(options.data, options.score).identity["images"]
    return f"{options.data.partition(':')[0]} {options.score} ({count})"


def initial(options: Options) -> str:
    """The initial weights in words."""
    given = settings(options).cam
    return f"{given.backbone}, {'random' if given.weights == 'none' else given.weights}"


def differs(options: Options) -> str:
    """Why our rows cannot be held against published ones; empty where they can."""
    reasons = {
        "other data": on_scenes(options),
        "other images": described(options) not in {found.split for found in PUBLISHED},
        "another backbone": settings(options).cam.backbone != "resnet50",
        "other classes": bool(options.classes),
    }
    return ", ".join(reason for reason, holds in reasons.items() if holds)


SWEEP = Sweep(
    name="recam-threshold",
    about=__doc__ or "",
    options=Options(),
    defaults=Params(),
    space=space,
    pipeline=pipeline,
    entries=entries,
    rung="probe_miou",
    published=[published_row(**asdict(found)) for found in PUBLISHED if found.task == CAM_SEED],
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
