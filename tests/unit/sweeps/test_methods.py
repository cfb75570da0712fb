"""What the comparison declares, and the table that it writes."""

from dataclasses import replace
from pathlib import Path

import pytest

from stageflow.board import Row
from sweeps.methods import BEST, CONFUSED, Options, entries, summary, table
from wsss.methods import RARE_SEED
from wsss.published import CAM_SEED, PSEUDO_LABEL

SCENES = Options(data="scenes:images=48")


def row(method: str, task: str, value: float, **given: object) -> Row:
    fields = {"values": (value, value + 2), "oracle": False, "crf": False} | given
    return Row(task=task, split="scenes train (48)", method=method, commits=("abc",), **fields)


def test_each_method_is_scored_on_every_seed_and_refined_on_few() -> None:
    found = entries(None, replace(SCENES, refined="train[::3]", seeds=3))
    whole = [entry for entry in found if entry.split == "scenes train (48)"]
    part = [entry for entry in found if entry.split == "scenes train[::3] (16)"]
    assert len(whole) + len(part) == len(found)
    assert {entry.method for entry in whole} == {"CAM", "ReCAM", "SFC"}
    assert {len(entry.targets) for entry in whole} == {3}
    assert {entry.method for entry in part} == set(SCENES.methods)
    assert {len(entry.targets) for entry in part} == {1}
    assert {entry.task for entry in part} == {CAM_SEED, PSEUDO_LABEL, RARE_SEED, CONFUSED}


def test_without_a_part_nothing_is_told_twice() -> None:
    found = entries(None, SCENES)
    seeds = {entry.method: len(entry.targets) for entry in found if entry.variant == BEST}
    assert seeds["CAM"] == seeds["ReCAM"] == seeds["SFC"] == SCENES.seeds
    assert seeds["CAM + response"] == SCENES.refined_seeds
    said = [(entry.task, entry.method, entry.variant, entry.crf) for entry in found]
    assert len(set(said)) == len(said)
    assert {entry.split for entry in found} == {"scenes train (48)"}


def test_what_masks_chose_is_said(voc_mini: Path) -> None:
    published = Options(data=f"voc2012:{voc_mini}", backbone="resnet50", methods=("SFC",))
    found = entries(None, published)
    assert {entry.variant for entry in found if not entry.oracle} == {
        *("threshold 0.47", "labels for IRN", "walk, threshold 0.42"),
    }
    assert {entry.oracle for entry in entries(None, SCENES)} == {True}  # its recipe was tuned


def test_companions_are_only_known_on_the_scenes(voc_mini: Path) -> None:
    photographs = Options(data=f"voc2012:{voc_mini}", backbone="efficientnet_lite0")
    assert CONFUSED not in {entry.task for entry in entries(None, photographs)}
    assert CONFUSED in {entry.task for entry in entries(None, SCENES)}


def test_a_table_has_a_line_for_each_method_and_no_empty_column() -> None:
    rows = [
        row("CAM", CAM_SEED, 40, variant="best threshold"),
        row("CAM", CAM_SEED, 35),
        row("CAM", CAM_SEED, 45, crf=True),
        row("ReCAM", CAM_SEED, 50, variant="best threshold"),
    ]
    assert table(rows).splitlines() == [
        "| method | seed, best threshold | seed, fixed threshold | + CRF |",
        "| --- | --- | --- | --- |",
        "| CAM | 41.0 ± 1.4 | 36.0 ± 1.4 | 46.0 ± 1.4 |",
        "| ReCAM | 51.0 ± 1.4 |  |  |",
    ]


def test_the_summary_names_command_commit_and_what_is_rare() -> None:
    text = summary([row("CAM", CAM_SEED, 40, variant="best threshold")], SCENES)
    assert text.startswith("## Methods on 48 images of scenes, tiny")
    assert "Code: abc." in text
    assert "settings tuned with the training masks" in text
    assert "### scenes train (48): 2 random seeds" in text


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("methods", ("CAM", "RECAM"), "'RECAM': choose from CAM, ReCAM"),
        ("refined_seeds", 0, "refined_seeds is 0: give 1 or more"),
        ("seeds", 0, "seeds is 0: give 1 or more"),
    ],
)
def test_options_are_checked(field: str, value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(SCENES, **{field: value})
