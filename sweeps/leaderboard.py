#!/usr/bin/env python
"""Whole pipelines to the leaderboard: seeds, labels, pseudo labels, and the segmentation learned.

    sweeps/leaderboard.py                                 built-in scenes, this machine
    sweeps/leaderboard.py --data images:/data/leaves      your own images, see the README
    sweeps/leaderboard_voc.py, leaderboard_coco.py        the data sets of the papers

Each method learns a classifier from image-level labels and makes score maps of `--labelled`; the
CRF, an affinity network and its random walk refine them into pseudo labels, and a segmentation
network learned from these is scored on `--val`: plainly, at several scales and mirrored, and after
a CRF, each a row of its own beside the published numbers. Where there are no masks nothing is
scored; pseudo labels and segmentations are made all the same, and can be fetched.

`--budget small` is for two cores and half an hour: small networks (EfficientNet-Lite0, or tiny on
scenes), half of the steps that suit a few hundred images, one random seed, and forty images of each
split. It is the default below two thousand training images.

`--saliency FOLDER --aamr 0.1` (grey PNGs, ID.png) adds an activation-aware mask refinement loss.
The published formula could not be verified: it is our own proposal, see `wsss.segment.aamr`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

# The code beside this file and not an older installed copy: shipped folders hold both roots.
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / root) for root in (".", "platform")]

from stageflow.board import Entry, Row, markdown, published_row
from stageflow.product import Product
from stageflow.provenance import command
from stageflow.stage import Node
from stageflow.sweep import Sweep, main
from wsss import pipelines
from wsss.config import Segmentation
from wsss.methods import Method
from wsss.published import PSEUDO_LABEL, PUBLISHED, SEGMENTATION
from wsss.result import result
from wsss.setting import initial_weights, segmentation_weights
from wsss.whole_pipeline import Options, WholePipeline

PROPOSED = "mask refinement loss by our own proposal; the published formula could not be verified"
BEST = "best threshold"
OF_CRF = "labels of the CRF alone"
TEST = "test"
PUBLISHED_ROWS = [published_row(**asdict(found)) for found in PUBLISHED]


def entries(params: None, options: Options) -> Sequence[Entry]:
    """All that can be scored: seeds and labels of each method, and what is learned of them."""
    whole = WholePipeline(options=options)
    found: list[Entry] = []
    for method in whole.methods:
        if whole.has_masks(whole.scored):
            found += seeds(whole, method)
            found += labels(whole, method)
        if whole.has_masks(whole.val):
            found += segmentations(whole, method)
    return found


def seeds(whole: WholePipeline, method: Method) -> Iterator[Entry]:
    """Its seeds, at the best threshold and at that of its release."""
    maps = [method.seeds(whole.setting, whole.recipe, seed, whole.mapped) for seed in whole.randoms]
    curves = [found.quality_on(whole.scored) for found in maps]
    row = partial(_row, whole, method, whole.scored)
    yield row(_cut(whole, curves, None), BEST, oracle=True)
    at = method.threshold
    yield row(_cut(whole, curves, at), f"threshold {at:.2g}", oracle=whole.selected(method))


def labels(whole: WholePipeline, method: Method) -> Iterator[Entry]:
    """What the CRF is sure of, and its pseudo labels."""
    tails = [whole.tail(method, seed, whole.mapped) for seed in whole.randoms]
    sure = [pipelines.label_score(whole.setting, tail.labels, whole.scored) for tail in tails]
    moved = f" moved by {whole.options.shift:g}" if whole.options.shift else ""
    chose = whole.shifted or whole.selected(method)
    row = partial(_row, whole, method, whole.scored)
    yield row(sure, f"labels for IRN{moved}", oracle=chose, crf=True)
    pseudo = partial(row, task=PSEUDO_LABEL)
    if whole.of_crf(method):
        yield pseudo(sure, f"labels for IRN{moved}", oracle=chose, crf=True, why=[OF_CRF])
        return
    first = method.seeds(whole.setting, whole.recipe, 0, whole.mapped)
    strips = [pipelines.label_pictures(whole.setting, first, tails[0], whole.scored)]
    pseudo = partial(pseudo, why=["affinities of other images"] if whole.partly else [])
    curves, at = [tail.walked.quality_on(whole.scored) for tail in tails], method.walk_threshold
    best, fixed = (_cut(whole, curves, threshold) for threshold in (None, at))
    yield pseudo(best, f"walk{moved}, {BEST}", oracle=True, pictures=strips)
    yield pseudo(fixed, f"walk{moved}, threshold {at:.2g}", oracle=chose)


def segmentations(whole: WholePipeline, method: Method) -> Iterator[Entry]:
    """Its segmentation network, read in each of the ways of the recipe."""
    val = whole.val
    chose = whole.cut_by_masks(method) or whole.shifted or whole.selected(method)
    classifier = initial_weights(whole.setting, whole.recipe)
    for reading in whole.recipe.readings:
        made = [whole.segmentation(method, seed, val, reading) for seed in whole.randoms]
        shown = made[:1] if reading is whole.recipe.readings[-1] else []
        yield _row(
            whole,
            method,
            val,
            [pipelines.label_score(whole.setting, each, val) for each in made],
            ", ".join([*learned(whole, method), seen(reading)]),
            task=SEGMENTATION,
            oracle=chose,
            crf=reading.crf is not None,
            weights=f"{segmentation_weights(whole.recipe)}; labels: {classifier}",
            why=[*method.unlike, *unlike(whole, method, reading)],
            note=PROPOSED if whole.options.saliency else "",
            pictures=[pipelines.segmentation_pictures(whole.setting, each, val) for each in shown],
        )


def learned(whole: WholePipeline, method: Method) -> list[str]:
    """What the segmentation network learned otherwise than usual, for the row's variant."""
    options = whole.options
    told = {
        f"aamr_proposed {options.aamr:g}": bool(options.saliency),
        "labels of the CRF": whole.of_crf(method),
        "best cut": whole.cut_by_masks(method),
        f"labels moved by {options.shift:g}": whole.shifted,
        f"{options.loss} loss": options.loss != "auto",
        f"labels of {whole.labelled}": options.labelled != "auto",
    }
    return [words for words, holds in told.items() if holds]


def unlike(whole: WholePipeline, method: Method, reading: Segmentation) -> list[str]:
    """What keeps the row from being held against published ones."""
    reasons = {
        "labels of other images": whole.partly,
        OF_CRF: whole.of_crf(method) and not whole.options.on("coco2014"),
        "labels cut at a threshold of ours": whole.cut_by_masks(method) or whole.shifted,
        "other views at test": len(reading.scales) > 1 or reading.flip,
        "our own mask refinement loss": bool(whole.options.saliency),
        "scored on images that it learned from": whole.overlapping,
    }
    return [reason for reason, holds in reasons.items() if holds]


def _row(
    whole: WholePipeline,
    method: Method,
    split: str,
    targets: Sequence[Node],
    variant: str,
    **given: Any,
) -> Entry:
    told = {"recipe": whole.recipe, "reference": method.paper, **given}
    return result(whole.setting, split, method.name, targets, variant, **told)


def _cut(whole: WholePipeline, curves: Sequence[Node], threshold: float | None) -> list[Node]:
    return [pipelines.score(whole.setting, curve, threshold) for curve in curves]


def seen(reading: Segmentation) -> str:
    """How a segmentation network is read, in a few words."""
    scales = len(reading.scales)
    several = f"{scales} scale{'s' if scales > 1 else ''}"
    words = ["one view" if scales == 1 and not reading.flip else several]
    words += ["mirrored"] if reading.flip else []
    words += ["CRF"] if reading.crf else []
    return ", ".join(words)


def products(params: None, options: Options) -> Sequence[Product]:
    """Pseudo labels and segmentations of each method, of the first random seed."""
    whole, found = WholePipeline(options=options), []
    last = whole.recipe.readings[-1]
    for method in whole.methods:
        labelled = whole.pseudo_labels(method, 0)
        made = whole.segmentation(method, 0, whole.val, last)
        found += [
            Product(name=f"{method.name}: pseudo labels of {whole.labelled}", node=labelled),
            Product(name=f"{method.name}: segmentations of {whole.val}", node=made),
        ]
        if options.test:
            tested = whole.segmentation(method, 0, TEST, last)
            packed = pipelines.voc_submission(whole.setting, tested, TEST)
            found.append(Product(name=f"{method.name}: archive for VOC's test server", node=packed))
    return found


def summary(rows: Sequence[Row], options: Options) -> str:
    """The board, beside it what stands for each paper, and what ours were made with."""
    whole, data = WholePipeline(options=options), options.kind
    published = [row for row in PUBLISHED_ROWS if not row.variant]
    recipe, budget = whole.recipe, "small" if options.small else "whole"
    parts = [
        f"## Leaderboard of {data}, {recipe.cam.backbone}, {budget} budget",
        f"`{command()}`",
        f"CAM {recipe.cam.steps} steps, ReCAM {recipe.recam.steps} more, SFC {recipe.sfc.steps}, "
        f"IRNet {recipe.irn.steps}, segmentation {recipe.segmentation.steps} "
        f"({segmentation_weights(recipe)}). The pseudo labels of {whole.labelled} are learned, "
        f"cut at the {options.cut} threshold where a walk made them; the segmentation is scored on "
        f"{whole.val}.",
        markdown([*rows, *published], ours=True).strip(),
    ]
    return "\n\n".join(parts)


def leaderboard(name: str, about: str, options: Options) -> Sweep[Options, None]:
    """The experiment under a name, with these defaults."""
    return Sweep(
        name=name,
        about=about,
        options=options,
        defaults=None,
        entries=entries,
        products=products,
        summary=summary,
        published=PUBLISHED_ROWS,
    )


SWEEP = leaderboard("leaderboard", __doc__ or "", Options())

if __name__ == "__main__":
    sys.exit(main(SWEEP))
