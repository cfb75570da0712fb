"""What is kept of an annotation file, and what is said of one that cannot be used."""

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from wsss.data.instances import Photo, read_instances

PARTS: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "b.jpg", "height": 6, "width": 8, "license": 3},
        {"id": 5, "file_name": "a.jpg", "height": 3, "width": 2},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
    "annotations": [
        {"id": 12, "image_id": 7, "category_id": 1, "iscrowd": 1, "segmentation": []},
        {"id": 11, "image_id": 5, "category_id": 90, "segmentation": [[0, 0, 2, 0, 2, 2]]},
    ],
}


def write(folder: Path, **parts: Any) -> Path:
    path = folder / "instances_x.json"
    path.write_text(json.dumps({**PARTS, **parts}))
    return path


def test_what_is_kept(tmp_path: Path):
    path = write(tmp_path)
    found = read_instances(path)
    assert list(found.photos.items()) == [(5, Photo("a.jpg", 3, 2)), (7, Photo("b.jpg", 6, 8))]
    assert list(found.categories.items()) == [(1, "person"), (90, "toothbrush")]
    assert [(a.number, a.image, a.category, a.crowd) for a in found.annotations] == [
        (12, 7, 1, True),
        (11, 5, 90, False),
    ]
    assert [a.shape is None for a in found.annotations] == [True, False]
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_polygons_are_never_all_in_memory_as_python_objects(tmp_path: Path):
    outline = [round(n / 7, 2) for n in range(400)]
    path = write(
        tmp_path,
        annotations=[
            {"id": n, "image_id": 7, "category_id": 1, "segmentation": [outline]}
            for n in range(1000)
        ],
    )
    tracemalloc.start()
    try:
        found = read_instances(path)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.annotations) == 1000
    size = path.stat().st_size
    assert kept < 1.6 * size  # these corners have few digits; as objects they take 5 times it
    assert peak < 3 * size  # with the text itself, once


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        read_instances(path)
    message = str(caught.value)
    assert message.startswith(f"annotations {path} cannot be used: ")
    return message


@pytest.mark.parametrize("content", [b"", b'{"images": [', b"\xff\xfe\x00", b"[" * 200_000])
def test_a_broken_file(tmp_path: Path, content: bytes):
    path = tmp_path / "instances_x.json"
    path.write_bytes(content)
    refused(path)


def test_an_absent_file(tmp_path: Path):
    assert "No such file" in refused(tmp_path / "instances_x.json")


@pytest.mark.parametrize("content", ["[]", "3", '{"images": {}}'])
def test_a_file_of_something_else(tmp_path: Path, content: str):
    path = tmp_path / "instances_x.json"
    path.write_text(content)
    assert "it has no list 'images'" in refused(path)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"images": []}, "'images' is empty"),
        ({"categories": None}, "it has no list 'categories'"),
        ({"annotations": "x"}, "it has no list 'annotations'"),
        (
            {"images": [{"id": 1, "height": 2, "width": 3}]},
            "images[0] has no or a wrong field: 'file_name'",
        ),
        ({"images": [4]}, "images[0] has no or a wrong field"),
        (
            {"images": [*PARTS["images"], PARTS["images"][0]]},
            "images[2]: the id 7 is there already",
        ),
        (
            {"images": [{**entry, "file_name": "a.jpg"} for entry in PARTS["images"]]},
            "two of its entries are for image 'a'",
        ),
        (
            {"categories": [{"id": n, "name": "x"} for n in (1, 90)]},
            "two of its entries are for category 'x'",
        ),
        (
            {"categories": [{"id": n, "name": f"c{n}"} for n in range(255)]},
            "255 categories are more than masks can hold (254)",
        ),
        ({"annotations": [{"id": 3, "image_id": 7}]}, "annotations[0] has no id, image_id and"),
        (
            {"annotations": [{"id": 3, "image_id": 8, "category_id": 1}]},
            "annotation 3 is of image 8: not listed",
        ),
        (
            {"annotations": [{"id": 3, "image_id": 7, "category_id": 2}]},
            "annotation 3 has category 2: not listed",
        ),
        (
            {"annotations": [{"id": 3, "image_id": 7, "category_id": "dog"}]},
            "annotation 3: invalid literal",
        ),
        (
            {"annotations": [{"id": 3, "image_id": 7, "category_id": 1, "segmentation": [[1]]}]},
            "annotation 3: its segmentation is neither polygons nor a size with counts",
        ),
    ],
)
def test_what_a_file_lacks(tmp_path: Path, parts: dict[str, Any], says: str):
    assert says in refused(write(tmp_path, **parts))
