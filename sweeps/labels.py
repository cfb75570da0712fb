#!/usr/bin/env python
"""Search how score maps become pseudo labels: the CRF's labels, the walk, and the threshold.

    sweeps/labels.py                                             built-in scenes, this machine
    sweeps/labels.py --data voc2012:/data/VOC2012 --backbone resnet50 --method CAM --trials 60
    sweeps/labels.py --data voc2012:... --refined 'train[::4]'

The score maps of one method are extracted once. Every trial cuts them at two thresholds, refines
both seeds with the dense CRF, trains an affinity network on what is sure, and walks; the threshold
of the walked maps costs nothing. Trials share what they have in common: of two that differ in the
walk only, the second trains nothing. At the end the best setting is put on the leaderboard beside
the published one, over random seeds. SFC, whose labels come of two maps and a background of their
own, is not searched here.
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
from wsss import pipelines
from wsss.config import CRF, IRLabels, PseudoLabels, Walk
from wsss.methods import METHODS, RECAM, named
from wsss.pipelines import Refined
from wsss.published import CAM_SEED, PSEUDO_LABEL, PUBLISHED
from wsss.result import result
from wsss.setting import Setting, chosen, option

if TYPE_CHECKING:
    import optuna

PLAIN = tuple(method.name for method in METHODS if method.name != "SFC")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Setting):
    """What a user may choose; "auto" stands for what suits the data."""

    method: str = option(f"whose score maps: {', '.join(PLAIN)}", RECAM.name)
    refined: str = option("split that is refined: train[::4] is part of one; empty: as scored", "")

    def __post_init__(self) -> None:
        Setting.__post_init__(self)  # super() does not work in slotted dataclasses
        if self.method not in PLAIN:
            raise ValueError(f"method is {self.method!r}: choose from {', '.join(PLAIN)}")

    @property
    def part(self) -> str:
        """The split that is refined."""
        return self.refined or self.score

    @property
    def teachers(self) -> str:
        """The split whose labels teach the affinity network."""
        return self.refined or self.train_split


@dataclass(frozen=True, kw_only=True, slots=True)
class Params:
    """What Optuna chooses; the defaults are ReCAM's for VOC."""

    threshold_fg: float = IRLabels().threshold_fg
    threshold_bg: float = IRLabels().threshold_bg
    gt_prob: float = CRF().gt_prob
    bilateral_srgb: float = CRF().bilateral_srgb
    beta: float = Walk().beta
    log2_steps: int = 8
    power: float = Walk().power
    threshold: float = PseudoLabels().threshold


def space(trial: optuna.Trial, options: Options) -> Params:
    """The search space: few labels, which are dear, and any walk and threshold of each."""
    return Params(
        threshold_fg=trial.suggest_categorical("threshold_fg", (0.3, 0.35, 0.45, 0.55)),
        threshold_bg=trial.suggest_categorical("threshold_bg", (0.05, 0.1, 0.15, 0.2)),
        gt_prob=trial.suggest_categorical("gt_prob", (0.7, 0.9)),
        bilateral_srgb=trial.suggest_categorical("bilateral_srgb", (3.0, 5.0, 9.0)),
        beta=trial.suggest_categorical("beta", (5.0, 10.0, 15.0)),
        log2_steps=trial.suggest_int("log2_steps", 4, 9),
        power=trial.suggest_categorical("power", (1.0, 1.5)),
        threshold=round(trial.suggest_float("threshold", 0.1, 0.6, step=0.01), 2),
    )


def pipeline(params: Params, options: Options) -> Node:
    """Parameters to the node whose "miou" is the objective."""
    curve = refined(params, options, seed=0).walked.quality
    return pipelines.score(options, curve, params.threshold)


def entries(params: Params, options: Options) -> Sequence[Entry]:
    """The labels after the CRF and after the walk: as searched, and as published."""
    method = named(options.method, options.data)
    randoms = range(options.seeds)
    searched = "parameters were searched with masks, on seed 0"
    recipe, part, taught = chosen(options), options.part, options.teachers
    published = [method.tail(options, recipe, seed, part, taught, 0.0) for seed in randoms]
    found = rows(options, published, "published", method.walk_threshold, oracle=False)
    ours = [refined(params, options, seed) for seed in randoms]
    if ours != published or params.threshold != method.walk_threshold:
        found += rows(options, ours, "searched", params.threshold, oracle=True, note=searched)
    return found


def pictures(params: Params, options: Options) -> Node:
    """What each stage of a trial made of some images."""
    method = named(options.method, options.data)
    seeds = method.seeds(options, chosen(options), 0, options.part)
    return pipelines.label_pictures(options, seeds, refined(params, options, 0), options.part)


def rows(
    options: Options,
    tails: Sequence[Refined],
    words: str,
    threshold: float,
    *,
    oracle: bool,
    note: str = "",
) -> list[Entry]:
    """What the CRF and the walk make of one setting, over random seeds."""
    sure = [pipelines.label_score(options, tail.labels, options.part) for tail in tails]
    best, fixed = (
        [pipelines.score(options, tail.walked.quality, at) for tail in tails]
        for at in (None, threshold)
    )
    walk = f"{words}, walk"
    return [
        entry(options, f"{words}, labels for IRN", sure, oracle, note, crf=True),
        entry(options, f"{walk}, best threshold", best, True, note),
        entry(options, f"{walk}, threshold {threshold:.2g}", fixed, oracle, note),
    ]


def entry(
    options: Options,
    variant: str,
    targets: Sequence[Node],
    oracle: bool,
    note: str,
    crf: bool = False,
) -> Entry:
    """A result with what it takes to trust it."""
    return result(
        options,
        options.part,
        options.method,
        targets,
        variant,
        task=CAM_SEED if crf else PSEUDO_LABEL,
        oracle=oracle,
        crf=crf,
        reference=named(options.method, options.data).paper,
        note=note,
    )


def refined(params: Params, options: Options, seed: int) -> Refined:
    """The tail of IRN with these parameters, on the method's score maps."""
    recipe, method = chosen(options), named(options.method, options.data)
    labels = IRLabels(
        threshold_fg=params.threshold_fg,
        threshold_bg=params.threshold_bg,
        crf=CRF(gt_prob=params.gt_prob, bilateral_srgb=params.bilateral_srgb),
    )
    walk = replace(Walk(), beta=params.beta, steps=2**params.log2_steps, power=params.power)
    return pipelines.refined(
        options,
        recipe,
        lambda part: method.seeds(options, recipe, seed, part).maps,
        seed,
        split=options.part,
        taught=options.teachers,
        labels=labels,
        walk=walk,
    )


SWEEP = Sweep(
    name="labels",
    about=__doc__ or "",
    options=Options(),
    defaults=Params(),
    space=space,
    pipeline=pipeline,
    entries=entries,
    pictures=pictures,
    published=[published_row(**asdict(p)) for p in PUBLISHED if p.task == PSEUDO_LABEL],
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
