"""Regions by hand, and against the COCO API on real annotations."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from wsss.data.segmentations import segmentation

SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]  # columns 1 to 3, rows 1 and 2
UNFILLED = r"its counts do not fill 3 x 2 pixels"
NEITHER = "neither polygons nor a size with counts"


def drawn(given: object, height: int = 4, width: int = 6) -> list[list[int]]:
    found = segmentation(given)
    assert found is not None
    pixels = found.drawn(height, width)
    assert pixels.dtype == np.bool_
    assert pixels.shape == (height, width)
    return pixels.astype(int).tolist()


def test_a_polygon():
    row = [0, 1, 1, 1, 0, 0]
    assert drawn([SQUARE]) == [[0] * 6, row, row, [0] * 6]


def test_polygons_are_joined_and_cut_at_the_border():
    corner = [4.0, -1.0, 7.5, -1.0, 7.5, 2.0, 4.0, 2.0]
    assert drawn([SQUARE, corner]) == [
        [0, 0, 0, 0, 1, 1],
        [0, 1, 1, 1, 1, 1],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_fewer_than_three_corners_enclose_nothing():
    assert drawn([[1, 1, 4, 1]]) == [[0] * 6] * 4
    assert drawn([[1, 1], SQUARE]) == drawn([SQUARE])


@pytest.mark.parametrize(
    "counts",
    [[1, 2, 2, 2, 1], [0, 0, 1, 2, 2, 2, 1], "1220O", "001210O"],
)
def test_runs_go_down_the_columns(counts: list[int] | str):
    given = {"size": [2, 4], "counts": counts}
    assert drawn(given, 2, 4) == [[0, 1, 0, 1], [1, 0, 1, 0]]


def test_no_segmentation():
    assert segmentation([]) is None
    assert segmentation(None) is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([[1, 2, 3, 4, 5, 6, 7]], NEITHER),
        ([1, 2, 3, 4, 5, 6], NEITHER),
        ([["a", "b"]], NEITHER),
        ({"counts": [6]}, NEITHER),
        ({"size": [2], "counts": [6]}, NEITHER),
        ({"size": [2, 3], "counts": 6}, NEITHER),
        ({"size": [2, 3], "counts": "é"}, NEITHER),
        ({"size": [2, 3], "counts": "12Q"}, NEITHER),  # the last digit asks for one more
        ({"size": [2, 3], "counts": "Q" * 12 + "1"}, NEITHER),  # beyond 64 bits
        ({"size": [2, 3], "counts": "12!"}, NEITHER),
        (7, NEITHER),
        ({"size": [2, 3], "counts": [1, 2]}, UNFILLED),
        ({"size": [2, 3], "counts": []}, UNFILLED),
        ({"size": [2, 3], "counts": [2**40, 1]}, UNFILLED),
        ({"size": [2, 3], "counts": [8, -2]}, UNFILLED),
        ({"size": [3, 2], "counts": [1, 2, 3]}, "it is of 2 x 3, its image 3 x 2"),
        ([[1, 1, 1e9, 1, 4, 3]], "a polygon leaves the image, 3 x 2, by far"),
        ([[1, 1, float("nan"), 1, 4, 3]], "a polygon leaves the image, 3 x 2, by far"),
    ],
)
def test_what_cannot_be_drawn(given: object, says: str):
    with pytest.raises(ValueError, match=says):
        drawn(given, 2, 3)


def test_polygons_without_pycocotools(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ValueError, match="polygons need pycocotools: pip install pycocotools"):
        drawn([SQUARE])
    assert drawn({"size": [2, 3], "counts": "123"}, 2, 3) == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_annotations_as_the_api_draws_them(coco_mini: Path, split: str):
    from pycocotools import mask

    parsed = json.loads((coco_mini / f"annotations/instances_{split}.json").read_text())
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in parsed["images"]}
    for entry in parsed["annotations"]:
        given, size = entry["segmentation"], sizes[entry["image_id"]]
        coded = mask.frPyObjects(given, *size)
        whole = mask.merge(coded) if isinstance(given, list) else coded
        expected = mask.decode(whole)
        compressed = {"size": list(size), "counts": whole["counts"].decode()}
        for form in (given, compressed):
            assert np.array_equal(segmentation(form).drawn(*size), expected)
    assert len(parsed["annotations"]) > 300
