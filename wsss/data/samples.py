"""What every data set offers, how one is opened by its location, and how its files are decoded.

Needs numpy and Pillow only, so that a process which merely plans can open a data set cheaply.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsss.data.roots import localised

VOID = 255
"""The mask value of pixels that count for nothing."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Samples(ABC):
    """One split of a data set: images, their image-level labels, and masks where it has them."""

    name: str
    split: str
    classes: tuple[str, ...]
    """Class names without background: `classes[c]` has the id c + 1 in masks."""
    ids: tuple[str, ...]
    labels: npt.NDArray[np.bool_]
    """[images, classes]: which classes an image shows."""
    mask_rule: str
    """The named rule by which the masks were made."""
    has_masks: bool
    """Whether every image has its mask."""

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def image(self, i: int) -> npt.NDArray[np.uint8]:
        """RGB image `i`, uint8 [H, W, 3]."""

    @abstractmethod
    def mask(self, i: int) -> npt.NDArray[np.uint8]:
        """Mask of image `i`, uint8 [H, W]: 0 background, class id, 255 void."""

    def identity(self) -> dict[str, str | int]:
        """What the key of the data set is made of; where it lies is no part of it."""
        return {
            "name": self.name,
            "split": self.split,
            "images": len(self),
            "ids": _digest("\n".join(self.ids).encode()),
            "labels": _digest(self.labels.tobytes()),
            "classes": _digest("\n".join(self.classes).encode()),
            "masks": self.mask_rule,
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Part(Samples):
    """Some images of a split: those at `places`."""

    whole: Samples
    places: range

    def image(self, i: int) -> npt.NDArray[np.uint8]:
        """RGB image `i` of the part, uint8 [H, W, 3]."""
        return self.whole.image(self.places[i])

    def mask(self, i: int) -> npt.NDArray[np.uint8]:
        """Mask of image `i` of the part, uint8 [H, W]: 0 background, class id, 255 void."""
        return self.whole.mask(self.places[i])

    def identity(self) -> dict[str, str | int]:
        """What the key is made of: whatever tells the whole apart, and the images of the part."""
        return {**self.whole.identity(), **Samples.identity(self)}


def open_samples(location: str, split: str) -> Samples:
    """The split `split` of the data set at `location`; opened once in each process.

    Part of a split is written as a slice of its list: `train[:100]`, or `train[::4]` for every
    fourth image. The data may lie in a store, see `wsss.data.roots`. Raises ValueError for an
    unknown kind of data set, for a slice that is none or empty, and for whatever the reader finds
    wrong.
    """
    return _opened(localised(location), split)


@cache
def _opened(location: str, split: str) -> Samples:
    if split.endswith("]"):
        return _part(location, split)
    scheme, _, rest = location.partition(":")
    if scheme == "scenes":
        from wsss.data.scenes import open_scenes

        return open_scenes(rest, split)
    if scheme == "voc2012":
        from wsss.data.voc import open_voc

        return open_voc(rest, split)
    if scheme == "coco2014":
        from wsss.data.coco import open_coco

        return open_coco(rest, split)
    if scheme == "images":
        from wsss.data.folder import open_folder

        return open_folder(rest, split)
    raise ValueError(
        f"data set {location!r} is unknown: use scenes, scenes:seed=N,images=N, voc2012:PATH,"
        " coco2014:PATH (and by comma overlap=..., crowd=...), or images:PATH (your own)"
    )


def _part(location: str, split: str) -> Part:
    name, _, inside = split.removesuffix("]").partition("[")
    if not (bounds := re.fullmatch(r"(-?\d*):(-?\d*)(?::([1-9]\d*))?", inside)):
        raise ValueError(f"split {split!r} has no slice of images: write {name}[:100] or [::4]")
    whole = _opened(location, name)
    places = range(len(whole))[slice(*(int(text) if text else None for text in bounds.groups()))]
    if not places:
        raise ValueError(f"split {split!r} holds no image: {name} has {len(whole)}")
    return Part(
        name=whole.name,
        split=split,
        classes=whole.classes,
        ids=tuple(whole.ids[i] for i in places),
        labels=whole.labels[list(places)],
        mask_rule=whole.mask_rule,
        has_masks=whole.has_masks,
        whole=whole,
        places=places,
    )


def class_ids(classes: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Mask ids of the `wanted` names, "background" or of `classes`; None, for all, if none is.

    Raises ValueError for an unknown name, with the nearest known one.
    """
    names = ("background", *classes)
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise ValueError(f"class {name!r} is unknown: {advice}")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"classes name one twice: {', '.join(wanted)}")
    return [names.index(name) for name in wanted] or None


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Decode a whole image file to RGB, uint8 [H, W, 3]; ValueError names a file that is broken."""
    return np.array(_decoded(path, "image").convert("RGB"))


def read_mask(path: Path, image: Path, classes: int) -> npt.NDArray[np.uint8]:
    """Decode the mask of `image`, uint8 [H, W] with ids 0..`classes` and 255.

    Raises ValueError, naming the file, for a broken file, a size other than the image's, a picture
    in colours instead of ids, and an id beyond the class list.
    """
    picture = _decoded(path, "mask")
    (width, height), (image_width, image_height) = picture.size, _size(image)
    if (width, height) != (image_width, image_height):
        raise ValueError(
            f"mask {path} is {width} x {height} but its image is {image_width} x {image_height}"
        )
    if picture.mode not in ("P", "L"):
        raise ValueError(f"mask {path} holds {picture.mode} colours: give a PNG of class ids")
    mask: npt.NDArray[np.uint8] = np.array(picture)
    beyond = mask[(mask > classes) & (mask != VOID)]
    if beyond.size:
        raise ValueError(
            f"mask {path} holds the id {beyond[0]} but there are {classes} classes (and 255, void)"
        )
    return mask


def _decoded(path: Path, what: str) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()  # Pillow is lazy: a truncated file must fail here, under its name
            return picture
    except FileNotFoundError as error:
        raise ValueError(f"{what} {path} does not exist") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{what} {path} cannot be decoded: {error}") from error


def _size(path: Path) -> tuple[int, int]:
    """Width and height, from the header alone."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except OSError as error:
        raise ValueError(f"image {path} cannot be opened: {error}") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
