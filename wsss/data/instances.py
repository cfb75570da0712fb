"""COCO's annotation file: read once, and kept without what nobody asks for.

    {"images": [{"id", "file_name", "height", "width"}, ...],
     "categories": [{"id", "name"}, ...],
     "annotations": [{"id", "image_id", "category_id", "iscrowd", "segmentation"}, ...]}

The file of train2014 has 300 MB, and five times as much as Python's objects: so each annotation is
made small as soon as it is parsed, which keeps half of the file's size. Needs numpy only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wsss.data.segmentations import Segmentation, segmentation

Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True)
class Photo:
    """One image: its file, and its size by the annotations."""

    file: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object, or one crowd of them; image and category by their numbers in the file."""

    number: int
    image: int
    category: int
    crowd: bool
    shape: Segmentation | None


@dataclass(frozen=True, slots=True)
class Instances:
    """What a file holds: images and categories in the order of their numbers."""

    path: Path
    digest: str
    """Of the whole file, sha256."""
    photos: dict[int, Photo]
    categories: dict[int, str]
    annotations: list[Annotation]
    """In the order of the file, which is the order that the COCO API gives them in."""


def read_instances(path: Path) -> Instances:
    """The annotations in `path`.

    Raises ValueError, naming the file, where it is no JSON or lacks something, for a number or an
    image file that is there twice, and for annotations of images or categories that are not listed.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        parsed = json.loads(path.read_text(encoding="utf-8"), object_hook=_compact)
        found = Instances(
            path=path,
            digest=digest,
            photos=_numbered(parsed, "images", _photo),
            categories=_numbered(parsed, "categories", lambda entry: str(entry["name"]).strip()),
            annotations=_annotations(parsed),
        )
        _check(found)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"annotations {path} cannot be used: {error}") from error
    return found


def _compact(entry: dict[str, Any]) -> Annotation | dict[str, Any]:
    """An annotation, which its fields tell, made small; anything else as it is."""
    if not entry.keys() >= {"id", "image_id", "category_id"}:
        return entry
    try:
        return Annotation(
            number=int(entry["id"]),
            image=int(entry["image_id"]),
            category=int(entry["category_id"]),
            crowd=bool(entry.get("iscrowd", 0)),
            shape=segmentation(entry.get("segmentation")),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"annotation {entry['id']}: {error}") from error


def _listed(parsed: Any, field: str) -> list[Any]:
    entries = parsed.get(field) if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"it has no list {field!r}")
    return entries


def _numbered(parsed: Any, field: str, keep: Callable[[dict[str, Any]], Kept]) -> dict[int, Kept]:
    """What to keep of each entry of a list, by its number, in ascending order."""
    found: dict[int, Kept] = {}
    for place, entry in enumerate(_listed(parsed, field)):
        try:
            number, kept = int(entry["id"]), keep(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{field}[{place}] has no or a wrong field: {error}") from error
        if number in found:
            raise ValueError(f"{field}[{place}]: the id {number} is there already")
        found[number] = kept
    if not found:
        raise ValueError(f"{field!r} is empty")
    return dict(sorted(found.items()))


def _photo(entry: dict[str, Any]) -> Photo:
    return Photo(str(entry["file_name"]), int(entry["height"]), int(entry["width"]))


def _annotations(parsed: Any) -> list[Annotation]:
    entries = _listed(parsed, "annotations")
    for place, entry in enumerate(entries):
        if not isinstance(entry, Annotation):
            raise ValueError(f"annotations[{place}] has no id, image_id and category_id")
    return entries


def _check(found: Instances) -> None:
    for entry in found.annotations:
        if entry.image not in found.photos:
            raise ValueError(f"annotation {entry.number} is of image {entry.image}: not listed")
        if entry.category not in found.categories:
            raise ValueError(f"annotation {entry.number} has category {entry.category}: not listed")
    for names, what in (
        ([Path(photo.file).stem for photo in found.photos.values()], "image"),
        (list(found.categories.values()), "category"),
    ):
        if len(set(names)) < len(names):
            twice = next(name for n, name in enumerate(names) if name in names[:n])
            raise ValueError(f"two of its entries are for {what} {twice!r}")
    if len(found.categories) > 254:
        raise ValueError(f"{len(found.categories)} categories are more than masks can hold (254)")
