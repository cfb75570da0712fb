#!/usr/bin/env python
"""Put the label-making methods side by side: seeds, after the CRF, after the random walk.

    sweeps/methods.py                                           built-in scenes, this machine
    sweeps/methods.py --data voc2012:/data/VOC2012 --backbone resnet50
    sweeps/methods.py --data voc2012:... --refined 'train[::4]' --results sweeps/RESULTS.md

Every method is trained with several random seeds and scored on the same masks: at its best
threshold, which takes masks to find, and at the published one. On the images of `--refined` (all
that are scored, unless a part of them is named) the seeds become labels by the dense CRF, these
teach an affinity network, and its random walk spreads the score maps. Methods that look at an
image again and again (response maps, AdvCAM) are run on those images only. Told apart are the
rarest third of the classes and, on the built-in scenes, the classes that come together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

# The code beside this file and not an older installed copy: shipped folders hold both roots.
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / root) for root in (".", "platform")]

from stageflow.board import Entry, Row, markdown_table, published_row, score
from stageflow.provenance import command
from stageflow.stage import Node
from stageflow.sweep import Sweep, main
from wsss import pipelines
from wsss.config import LabelScore
from wsss.config.checks import check_least
from wsss.data.scenes import PAIRS
from wsss.methods import (
    CAM,
    CAM_RESPONSE,
    METHODS,
    RARE_SEED,
    RECAM,
    RECAM_RESPONSE,
    SFC,
    Method,
    named,
    rare_classes,
)
from wsss.published import CAM_SEED, PSEUDO_LABEL, PUBLISHED
from wsss.result import result
from wsss.setting import Setting, chosen, option, tuning

CONFUSED = "taken for its companion, seed (lower is better)"
USUAL = tuple(method.name for method in (CAM, RECAM, SFC, CAM_RESPONSE, RECAM_RESPONSE))


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Setting):
    """What a user may choose; "auto" stands for what suits the data."""

    methods: tuple[str, ...] = option(
        f"of {', '.join(method.name for method in METHODS)}", USUAL
    )
    refined: str = option("split that is refined: train[::4] is part of one; empty: as scored", "")
    refined_seeds: int = option("random seeds of what is refined", 1)
    taught: str = option(
        "split whose labels teach the affinity network; empty: the refined one if it is named, "
        "else the learned one",
        "",
    )
    shift: float = option(
        "added to the thresholds of the labels that the CRF refines, in units of scores", 0.0
    )

    def __post_init__(self) -> None:
        Setting.__post_init__(self)  # super() does not work in slotted dataclasses
        check_least(1, refined_seeds=self.refined_seeds)
        for name in self.methods:
            named(name)

    @property
    def part(self) -> str:
        """The split that is refined."""
        return self.refined or self.score

    @property
    def teachers(self) -> str:
        """The split whose labels teach the affinity network."""
        return self.taught or self.refined or self.train_split


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One number of the table, and how a row of the board is known to be of it."""

    title: str
    task: str
    best: bool = False
    """Whether it is at the best threshold."""
    crf: bool = False

    def holds(self, row: Row) -> bool:
        """Whether the row is of this column."""
        best = row.variant.endswith(BEST)
        return (row.task, best, row.crf) == (self.task, self.best, self.crf)


BEST = "best threshold"
COLUMNS = (
    Column(title="seed, best threshold", task=CAM_SEED, best=True),
    Column(title="seed, fixed threshold", task=CAM_SEED),
    Column(title="+ CRF", task=CAM_SEED, crf=True),
    Column(title="+ walk, best threshold", task=PSEUDO_LABEL, best=True),
    Column(title="+ walk, fixed threshold", task=PSEUDO_LABEL),
    Column(title="rare classes", task=RARE_SEED, best=True),
    Column(title="companions confused", task=CONFUSED, best=True),
)


def entries(params: None, options: Options) -> Sequence[Entry]:
    """The seeds of each method on all scored images, and all of its labels on the refined ones."""
    names = [method.name for method in METHODS if method.name in options.methods]
    wanted = [named(name, options.data) for name in names]
    several, few = range(options.seeds), range(options.refined_seeds)
    found: list[Entry] = []
    for method in wanted:
        if not method.slow:
            found += seeds(method, options, options.score, several)
        if method.slow or options.part != options.score:
            found += seeds(method, options, options.part, few)
        found += labels(method, options, few)
    return found


def seeds(method: Method, options: Options, split: str, randoms: Iterable[int]) -> list[Entry]:
    """Its seeds: at the best and the published threshold, of rare classes, and of companions."""
    recipe = chosen(options)
    curves = [method.seeds(options, recipe, seed, split).quality for seed in randoms]

    def cut(threshold: float | None) -> list[Node]:
        return [pipelines.score(options, curve, threshold, counted(options)) for curve in curves]

    best, fixed = cut(None), cut(method.threshold)
    at = f"threshold {method.threshold:.2g}"
    found = [
        entry(options, method, CAM_SEED, split, best, BEST, oracle=True),
        entry(options, method, CAM_SEED, split, fixed, at),
        entry(options, method, RARE_SEED, split, best, BEST, oracle=True, metric="tail_miou"),
    ]
    if counted(options).pairs:
        rate = "pair_confusion"
        found += [entry(options, method, CONFUSED, split, best, BEST, oracle=True, metric=rate)]
    return found


def labels(method: Method, options: Options, randoms: Iterable[int]) -> list[Entry]:
    """What becomes of its seeds: after the CRF, and after the walk."""
    recipe, split, count = chosen(options), options.part, counted(options)
    taught, shift = options.teachers, options.shift
    tails = [method.tail(options, recipe, seed, split, taught, shift) for seed in randoms]
    sure = [pipelines.label_score(options, tail.labels, split, count) for tail in tails]

    def cut(threshold: float | None) -> list[Node]:
        return [pipelines.score(options, t.walked.quality, threshold, count) for t in tails]

    best, fixed = cut(None), cut(method.walk_threshold)
    moved = f" moved by {options.shift:g}" if options.shift else ""
    chose = bool(options.shift)  # whoever moves them has seen how good the seeds are
    at, sure_of = f"walk, threshold {method.walk_threshold:.2g}", f"labels for IRN{moved}"
    shown = method.seeds(options, recipe, 0, split)
    strips = (pipelines.label_pictures(options, shown, tails[0], split),)
    walked = entry(options, method, PSEUDO_LABEL, split, best, f"walk{moved}, {BEST}", oracle=True)
    return [
        entry(options, method, CAM_SEED, split, sure, sure_of, oracle=chose, crf=True),
        replace(walked, pictures=strips),
        entry(options, method, PSEUDO_LABEL, split, fixed, at + moved, oracle=chose),
    ]


def entry(
    options: Options,
    method: Method,
    task: str,
    split: str,
    targets: Sequence[Node],
    variant: str,
    *,
    oracle: bool = False,
    crf: bool = False,
    metric: str = "miou",
) -> Entry:
    """A result of a method."""
    selected = method.name == SFC.name and chosen(options).sfc.select != "last"
    others = task == PSEUDO_LABEL and options.teachers != options.train_split
    return result(
        options,
        split,
        method.name,
        targets,
        variant,
        task=task,
        metric=metric,
        oracle=oracle or selected,
        crf=crf,
        why=["affinities of other images"] if others else [],
        reference=method.paper,
    )


def counted(options: Options) -> LabelScore:
    """The rarest third of the classes that are learned, and the scenes' companions."""
    pairs = PAIRS if options.on_scenes else ()
    return LabelScore(tail=rare_classes(options), pairs=pairs)


def summary(rows: Sequence[Row], options: Options) -> str:
    """One table for each split: a line a method, a column a kind of label."""
    recipe, data = chosen(options), options.kind
    mean = f", mean over {', '.join(options.classes)}" if options.classes else ""
    seeds = recipe.reading.seeds
    mixed = f"{seeds.classifier_weight:g} : {seeds.prototype_weight:g}"
    parts = [
        f"## Methods on {options.learned} images of {data}, {recipe.cam.backbone}{mean}",
        f"`{command()}`",
        "mIoU in %, mean ± standard deviation over random seeds. The best threshold takes masks to "
        "find; the fixed one is that of the method's release. + CRF are the labels that IRN learns "
        "from, scored with what they leave open as background; their thresholds were moved by "
        f"{options.shift:g}{', which took masks to choose' if options.shift else ''}. The affinity "
        f"network learned from the labels of {options.teachers}. Rare classes: "
        f"{', '.join(counted(options).tail)}.",
        f"CAM {recipe.cam.steps} steps, ReCAM {recipe.recam.steps} more (read with "
        f"{recipe.weight}), SFC {recipe.sfc.steps} (classifier and prototype maps mixed {mixed}), "
        f"IRNet {recipe.irn.steps}{'; ' + tuning(options, recipe) if recipe.tuned else ''}. "
        f"Code: {', '.join(commits(rows))}.",
    ]
    for split in dict.fromkeys(row.split for row in rows):
        there = [row for row in rows if row.split == split]
        counts = sorted({len(row.values) for row in there})
        words = " or ".join(map(str, counts))
        parts.append(f"### {split}: {words} random seed{'s' if counts != [1] else ''}")
        parts.append(table(there))
    return "\n\n".join(parts)


def table(rows: Sequence[Row]) -> str:
    """The rows of one split as a Markdown table, without columns that are empty."""

    def cell(method: str, column: Column) -> str:
        found = [row for row in rows if row.method == method and column.holds(row)]
        return score(found[0]) if found else ""

    methods = list(dict.fromkeys(row.method for row in rows))
    filled = [c for c in COLUMNS if any(cell(method, c) for method in methods)]
    lines = [[method, *(cell(method, column) for column in filled)] for method in methods]
    return markdown_table(["method", *(column.title for column in filled)], lines)


def commits(rows: Iterable[Row]) -> list[str]:
    """Of the code that made any of the rows."""
    return sorted({commit for row in rows for commit in row.commits})


SWEEP = Sweep(
    name="methods",
    about=__doc__ or "",
    options=Options(),
    defaults=None,
    entries=entries,
    summary=summary,
    published=[
        published_row(**asdict(found))
        for found in PUBLISHED
        if found.task in (CAM_SEED, PSEUDO_LABEL)
    ],
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
