"""One result of an experiment, with what it takes to trust it."""

from __future__ import annotations

from collections.abc import Sequence

from stageflow.board import Entry
from stageflow.stage import Node
from wsss.published import CAM_SEED
from wsss.recipes import Recipe
from wsss.setting import Setting, chosen, differences, initial_weights, split_name


def result(
    setting: Setting,
    split: str,
    method: str,
    targets: Sequence[Node],
    variant: str = "",
    *,
    task: str = CAM_SEED,
    metric: str = "miou",
    recipe: Recipe | None = None,
    oracle: bool,
    crf: bool = False,
    weights: str = "",
    why: Sequence[str] = (),
    reference: str = "",
    note: str = "",
    pictures: Sequence[Node] = (),
) -> Entry:
    """An entry of the board, scored on `split`; the random seeds of its `targets` are 0, 1, ...

    `recipe` is the one that was used, where the setting chooses another, and `weights` tells of the
    classifier's unless given. What keeps the result from being held against published ones is
    found out, and `why` is added. Settings that were tuned with masks of the same data make an
    oracle of everything.
    """
    tuned = (recipe or chosen(setting)).tuned == setting.kind
    return Entry(
        task=task,
        split=split_name(setting, split),
        method=method,
        variant=variant,
        targets=tuple(targets),
        seeds=tuple(range(len(targets))),
        metric=metric,
        oracle=oracle or tuned,
        crf=crf,
        weights=weights or initial_weights(setting, recipe),
        comparable=", ".join([*differences(setting, split, recipe, task), *why]),
        reference=reference,
        note=note,
        pictures=tuple(pictures),
    )
