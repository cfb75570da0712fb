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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

# The code beside this file and not an older installed copy: shipped folders hold both roots.
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / root) for root in (".", "platform")]

from stageflow.board import Entry, published_row
from stageflow.stage import Node
from stageflow.sweep import Sweep, main
from wsss import pipelines, stages
from wsss.config import ExtractionWeight, SeedPictures
from wsss.config.checks import check_least, check_share
from wsss.methods import CAM
from wsss.pipelines import ScoredMaps, cam, score
from wsss.published import CAM_SEED, PUBLISHED
from wsss.recipes import Recipe
from wsss.result import result
from wsss.setting import Setting, chosen, option, probed, shortened

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Setting):
    """What a user may choose; "auto" stands for what suits the data."""

    cam_threshold: float = option("a threshold for plain CAM that no mask chose (IRN's)", 0.15)
    cam_steps: int = option("training steps of the classifier; 0: what suits the data", 0)
    recam_steps: int = option("training steps of ReCAM; 0: what suits the data", 0)
    probe: int = option(
        "training images scored with their masks after each epoch, to stop "
        "hopeless trials early; 0: none",
        24,
    )

    def __post_init__(self) -> None:
        Setting.__post_init__(self)  # super() does not work in slotted dataclasses
        check_least(0, cam_steps=self.cam_steps, recam_steps=self.recam_steps, probe=self.probe)
        check_share(cam_threshold=self.cam_threshold)


@dataclass(frozen=True, kw_only=True, slots=True)
class Params:
    """What Optuna chooses; the defaults are the published values for VOC."""

    loss_weight: float = 1.0
    extraction: ExtractionWeight = "product"
    threshold: float = 0.21


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
    return score(options, recam(params, options, seed=0).quality, params.threshold)


def entries(params: Params, options: Options) -> Sequence[Entry]:
    """CAM, CAM trained for as many steps more, and ReCAM, over random seeds.

    Each at its best threshold, which takes masks to find; CAM also at one that no mask chose, and
    ReCAM at the one that the search chose.
    """
    seeds = tuple(range(options.seeds))
    cams = [cam(options, tuned(options), seed) for seed in seeds]
    longer = [recam(Params(loss_weight=0.0, extraction="w"), options, seed) for seed in seeds]
    recams = [recam(params, options, seed) for seed in seeds]
    drawn = pictures(params, options)
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
        return result(
            options,
            options.score,
            method,
            [score(options, node.quality, threshold) for node in nodes],
            ", ".join(part for part in (words, at) if part),
            recipe=tuned(options),
            oracle=threshold is None or bool(note),
            reference=CAM.paper if method == CAM.name else "",
            note=note,
            pictures=(drawn,) if note and threshold is None else (),
        )

    return [
        entry("CAM", "", cams, None),
        entry("CAM", "", cams, options.cam_threshold),
        entry("CAM", "trained as long as ReCAM", longer, None),
        entry("ReCAM", setting, recams, None, searched),
        entry("ReCAM", setting, recams, params.threshold, searched),
    ]


def recam(params: Params, options: Options, seed: int) -> ScoredMaps:
    """ReCAM with these parameters."""
    found = tuned(options)
    images = probed(options, options.probe)
    config = replace(found.recam, loss_weight=params.loss_weight, probe=images)
    return pipelines.recam(
        options, replace(found, recam=config), seed, weight=params.extraction
    )


def pictures(params: Params, options: Options) -> Node:
    """What a trial made of some images, beside plain CAM."""
    return compared(cam(options, tuned(options), 0), recam(params, options, seed=0), options)


def compared(plain: ScoredMaps, ours: ScoredMaps, options: Options) -> Node:
    """Pictures of both methods, side by side."""
    truth = stages.masks(options.data, options.score)
    config = SeedPictures(classes=options.classes)
    return stages.seed_pictures(truth, plain.maps, plain.quality, ours.maps, ours.quality, config)


def tuned(options: Options) -> Recipe:
    """The recipe of the setting, with the steps that the user wants."""
    found = chosen(options)
    steps = shortened(found.cam, options.cam_steps), shortened(found.recam, options.recam_steps)
    return replace(found, cam=steps[0], recam=steps[1])


SEED_ROWS = [found for found in PUBLISHED if found.task == CAM_SEED]

SWEEP = Sweep(
    name="recam-threshold",
    about=__doc__ or "",
    options=Options(),
    defaults=Params(),
    space=space,
    pipeline=pipeline,
    entries=entries,
    pictures=pictures,
    rung="probe_miou",
    published=[published_row(**asdict(found)) for found in SEED_ROWS],
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
