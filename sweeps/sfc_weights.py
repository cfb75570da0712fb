#!/usr/bin/env python
"""Search SFC's loss weights and the size of its image bank; compare it with SFC without them.

    sweeps/sfc_weights.py                                        built-in scenes, this machine
    sweeps/sfc_weights.py --data voc2012:/data/VOC2012 --backbone resnet50 --trials 100
    ray job submit --working-dir . -- sweeps/sfc_weights.py --store s3://bucket/wsss

Every trial trains SFC with other weights of its two consistency losses and another bank, mixes its
two maps, and reads the mIoU of the seeds at a background bias off their curve. The mixture and the
bias cost no training. At the end the best setting is repeated over random seeds and put on the
leaderboard, beside the published setting, the same network without losses and bank, and plain CAM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

# The code beside this file and not an older installed copy: shipped folders hold both roots.
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / root) for root in (".", "platform")]

from stageflow.board import Entry, published_row
from stageflow.stage import Node
from stageflow.sweep import Sweep, main
from wsss import pipelines, stages
from wsss.config import LabelScore, SeedPictures, SFCFusion
from wsss.config.checks import check_least
from wsss.methods import CAM, RARE_SEED, rare_classes
from wsss.pipelines import ScoredMaps
from wsss.published import CAM_SEED, PUBLISHED
from wsss.recipes import Recipe
from wsss.result import result
from wsss.setting import Setting, chosen, option, probed, shortened

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Setting):
    """What a user may choose; "auto" stands for what suits the data."""

    sfc_steps: int = option("training steps of SFC; 0: what suits the data", 0)
    probe: int = option(
        "training images scored with their masks after each epoch, to stop "
        "hopeless trials early; 0: none",
        24,
    )

    def __post_init__(self) -> None:
        Setting.__post_init__(self)  # super() does not work in slotted dataclasses
        check_least(0, sfc_steps=self.sfc_steps, probe=self.probe)


@dataclass(frozen=True, kw_only=True, slots=True)
class Params:
    """What Optuna chooses; the defaults are the published values for VOC."""

    p_weight: float = 1.6
    w_weight: float = 0.8
    n_bank: int = 4
    prototype_share: float = 1.0
    """Of the prototype map in the mixture of both."""
    bias: float = 0.4
    """Of background, in the seeds."""


UNCALIBRATED = Params(p_weight=0.0, w_weight=0.0, n_bank=0, prototype_share=0.0)


def space(trial: optuna.Trial, options: Options) -> Params:
    """The search space: few trainings, and any mixture and bias of each."""
    return Params(
        p_weight=trial.suggest_categorical("p_weight", (0.4, 0.8, 1.6, 3.2)),
        w_weight=trial.suggest_categorical("w_weight", (0.2, 0.4, 0.8, 1.6)),
        n_bank=trial.suggest_categorical("n_bank", (0, 2, 4, 8)),
        prototype_share=round(trial.suggest_float("prototype_share", 0, 1, step=0.25), 2),
        bias=round(trial.suggest_float("bias", 0, 0.8, step=0.02), 2),
    )


def pipeline(params: Params, options: Options) -> Node:
    """Parameters to the node whose "miou" is the objective."""
    return cut(options, sfc(params, options, seed=0).quality, params.bias)


def entries(params: Params, options: Options) -> Sequence[Entry]:
    """The best setting, the published one, SFC without losses and bank, and plain CAM."""
    randoms = range(options.seeds)
    searched = "parameters were searched with masks, on seed 0"

    def ours(given: Params, words: str, note: str = "") -> list[Entry]:
        curves = [sfc(given, options, seed).quality for seed in randoms]
        best, fixed = ([cut(options, c, bias) for c in curves] for bias in (None, given.bias))
        return [
            entry(options, "SFC", f"{words}, best bias", best, oracle=True, note=note),
            entry(options, "SFC", f"{words}, bias {given.bias:g}", fixed, bool(note), note),
            entry(options, "SFC", words, best, oracle=True, note=note, task=RARE_SEED),
        ]

    plain = [CAM.seeds(options, chosen(options), seed, options.score).quality for seed in randoms]
    cams = [pipelines.score(options, curve, None, counted(options)) for curve in plain]
    setting = f"p {params.p_weight:g}, w {params.w_weight:g}, bank {params.n_bank}"
    found = [
        *ours(Params(), "published"),
        *ours(UNCALIBRATED, "no losses, no bank"),
        entry(options, "CAM", "best threshold", cams, oracle=True),
        entry(options, "CAM", "", cams, oracle=True, task=RARE_SEED),
    ]
    if params != Params():
        share = f"prototypes {params.prototype_share:g}"
        found += ours(params, f"{setting}, {share}", searched)
    return found


def pictures(params: Params, options: Options) -> Node:
    """What a trial made of some images, beside plain CAM."""
    plain = CAM.seeds(options, chosen(options), 0, options.score)
    ours = sfc(params, options, seed=0)
    truth = stages.masks(options.data, options.score)
    config = SeedPictures(names=("CAM", "SFC"), classes=options.classes)
    return stages.seed_pictures(truth, plain.maps, plain.quality, ours.maps, ours.quality, config)


def tuned(options: Options) -> Recipe:
    """The recipe of the setting, with the steps that the user wants."""
    found = chosen(options)
    return replace(found, sfc=shortened(found.sfc, options.sfc_steps))


def sfc(params: Params, options: Options, seed: int) -> ScoredMaps:
    """SFC with these parameters."""
    found = tuned(options)
    training = replace(
        found.sfc,
        p_weight=params.p_weight,
        w_weight=params.w_weight,
        n_bank=params.n_bank,
        probe=probed(options, options.probe),
    )
    share = params.prototype_share
    fusion = SFCFusion(classifier_weight=1 - share, prototype_weight=share)
    return pipelines.sfc(options, replace(found, sfc=training), seed, options.score, fusion)


def cut(options: Options, curve: Node, bias: float | None) -> Node:
    """One point of a curve; None: the best."""
    threshold = None if bias is None else SFCFusion().threshold(bias)
    return pipelines.score(options, curve, threshold, counted(options))


def entry(
    options: Options,
    method: str,
    variant: str,
    targets: Sequence[Node],
    oracle: bool,
    note: str = "",
    task: str = CAM_SEED,
) -> Entry:
    """A result with what it takes to trust it."""
    metric = "tail_miou" if task == RARE_SEED else "miou"
    used, paper = tuned(options), CAM.paper if method == CAM.name else ""
    return result(
        options,
        options.score,
        method,
        targets,
        variant,
        task=task,
        metric=metric,
        recipe=used,
        oracle=oracle,
        reference=paper,
        note=note,
    )


def counted(options: Options) -> LabelScore:
    """The classes that count, and which of them are rare."""
    return LabelScore(tail=rare_classes(options))


SWEEP = Sweep(
    name="sfc-weights",
    about=__doc__ or "",
    options=Options(),
    defaults=Params(),
    space=space,
    pipeline=pipeline,
    entries=entries,
    pictures=pictures,
    rung="probe_miou",
    published=[published_row(**asdict(p)) for p in PUBLISHED if p.task == CAM_SEED],
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
