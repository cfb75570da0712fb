import subprocess
import sys
from collections import Counter

import pytest

from wsss.published import (
    CAM_SEED,
    COCO_VAL,
    PSEUDO_LABEL,
    PUBLISHED,
    SEGMENTATION,
    VOC_TEST,
    VOC_TRAIN,
    VOC_VAL,
)


@pytest.mark.parametrize(
    ("method", "task", "split", "value"),
    [
        ("IRN", CAM_SEED, VOC_TRAIN, 48.3),
        ("ReCAM", CAM_SEED, VOC_TRAIN, 54.8),
        ("SFC", CAM_SEED, VOC_TRAIN, 64.7),
        ("ReCAM", PSEUDO_LABEL, VOC_TRAIN, 70.5),
        ("ReCAM", SEGMENTATION, VOC_VAL, 68.5),
        ("ReCAM", SEGMENTATION, VOC_TEST, 68.4),
        ("ReCAM", SEGMENTATION, COCO_VAL, 45.0),
        ("SFC", SEGMENTATION, VOC_TEST, 72.5),
        ("InferCam", SEGMENTATION, VOC_VAL, 70.8),
    ],
)
def test_number_that_stands_for_a_method(method: str, task: str, split: str, value: float) -> None:
    found = [
        row.value
        for row in PUBLISHED
        if (row.method, row.task, row.split, row.variant) == (method, task, split, "")
        and not (task == CAM_SEED and row.crf)
    ]
    assert found == [value]


def test_every_number_is_a_percentage_with_a_source() -> None:
    for row in PUBLISHED:
        assert 1 < row.value < 100, row  # a fraction would be below 1
        assert row.source, row
        assert row.url.startswith("https://"), row
        assert row.task in (CAM_SEED, PSEUDO_LABEL, SEGMENTATION), row


def test_no_two_rows_claim_the_same_place() -> None:
    places = Counter((r.method, r.variant, r.task, r.split, r.crf) for r in PUBLISHED)
    assert [place for place, count in places.items() if count > 1] == []


def test_numbers_of_unknown_meaning_are_left_out() -> None:
    assert not {44.6, 73.2} & {row.value for row in PUBLISHED if row.method in ("SFC", "InferCam")}


def test_user_reports_never_stand_for_a_method() -> None:
    assert all(row.variant for row in PUBLISHED if row.source.startswith("user"))


def test_seeds_without_crf_are_told_from_those_with() -> None:
    assert all(row.crf is not None for row in PUBLISHED if row.task == CAM_SEED)


def test_module_needs_no_torch() -> None:
    code = "import sys, wsss.published; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
