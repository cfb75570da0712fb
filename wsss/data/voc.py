"""PASCAL VOC 2012 in its official layout, with SBD's masks for `train_aug` where they are.

    JPEGImages/ID.jpg  SegmentationClass/ID.png  SegmentationClassAug/ID.png
    ImageSets/Segmentation/SPLIT.txt             one id, or `image-path mask-path`, a line
    image_labels.txt (`ID class class ...`)      else Annotations/ID.xml

Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010; SBD: Hariharan et al.,
Semantic Contours from Inverse Detectors, ICCV 2011. Ids are strings: the published readers parse
them as numbers, which current numpy refuses.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from wsss.data.samples import Samples, read_image, read_mask

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""The 20 object classes in the official order; the id in masks is the position plus one."""

TEST = "test"
"""The split that only the evaluation server can score."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class VocSamples(Samples):
    """A split of VOC 2012 in the folder `root`."""

    root: Path

    def image(self, i: int) -> npt.NDArray[np.uint8]:
        """RGB image `i`, uint8 [H, W, 3]; ValueError names a file that is broken."""
        return read_image(self._photo(i))

    def mask(self, i: int) -> npt.NDArray[np.uint8]:
        """Mask of image `i`, uint8 [H, W]; ValueError names a file that is absent or wrong."""
        path = self.root / self.mask_rule / f"{self.ids[i]}.png"
        return read_mask(path, self._photo(i), len(self.classes))

    def _photo(self, i: int) -> Path:
        return self.root / "JPEGImages" / f"{self.ids[i]}.jpg"


def open_voc(location: str, split: str) -> VocSamples:
    """The split `split` of the data set in the folder `location`.

    A split whose name ends in `aug` is scored on SegmentationClassAug, any other on
    SegmentationClass. Nobody has labels of `test`: its images seem to show nothing, and only a
    segmentation network can be asked about them. Raises ValueError for an absent folder, list or
    image, and for labels that are missing or unknown.
    """
    root = Path(location).expanduser()
    if not root.is_dir():
        raise ValueError(f"data root {root} does not exist")
    if not (root / "JPEGImages").is_dir():
        raise ValueError(f"data root {root} has no JPEGImages: give the folder that holds it")
    ids = _listed_ids(root / "ImageSets" / "Segmentation", split)
    _check_photos(root / "JPEGImages", ids, split)
    mask_rule = "SegmentationClassAug" if split.endswith("aug") else "SegmentationClass"
    masks = _stems(root / mask_rule, ".png")
    return VocSamples(
        name="voc2012",
        split=split,
        classes=CLASSES,
        ids=ids,
        labels=_labels(root, ids) if split != TEST else np.zeros((len(ids), 20), dtype=np.bool_),
        mask_rule=mask_rule,
        has_masks=masks.issuperset(ids),
        root=root,
    )


def _listed_ids(folder: Path, split: str) -> tuple[str, ...]:
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(_stems(folder, ".txt"))) or "none"
        raise ValueError(f"split {split!r} has no list {path}; choose one that is there: {known}")
    rows = (line.split() for line in path.read_text().splitlines())
    ids = tuple(PurePosixPath(row[0]).stem for row in rows if row)
    if not ids:
        raise ValueError(f"list {path} names no image")
    if len(set(ids)) < len(ids):
        twice = next(name for n, name in enumerate(ids) if name in ids[:n])
        raise ValueError(f"list {path} names {twice} twice: remove one line")
    return ids


def _check_photos(folder: Path, ids: tuple[str, ...], split: str) -> None:
    """Compare with one listing of the folder: a stat for each id takes minutes on network disks."""
    there = _stems(folder, ".jpg")
    absent = [name for name in ids if name not in there]
    if absent:
        raise ValueError(
            f"the {split} list names {absent[0]} but {folder} has no {absent[0]}.jpg"
            f" ({len(absent)} of {len(ids)} images are absent)"
        )


def _stems(folder: Path, suffix: str) -> set[str]:
    """Names of the folder's files with `suffix`, without it; none where there is no folder."""
    if not folder.is_dir():
        return set()
    return {name.removesuffix(suffix) for name in os.listdir(folder) if name.endswith(suffix)}


def _labels(root: Path, ids: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    table = root / "image_labels.txt"
    if table.is_file():
        rows = _table_rows(table)
        unlabelled = [name for name in ids if name not in rows]
        if unlabelled:
            raise ValueError(
                f"{table} has no row for {unlabelled[0]} ({len(unlabelled)} of {len(ids)} lack one)"
            )
        return np.stack([rows[name] for name in ids])
    if (root / "Annotations").is_dir():
        return np.stack([_annotated(root / "Annotations" / f"{name}.xml") for name in ids])
    raise ValueError(f"data root {root} has neither image_labels.txt nor Annotations")


def _table_rows(table: Path) -> dict[str, npt.NDArray[np.bool_]]:
    rows: dict[str, npt.NDArray[np.bool_]] = {}
    for number, line in enumerate(table.read_text().splitlines(), start=1):
        if fields := line.split():
            name, *shown = fields
            if name in rows:
                raise ValueError(f"{table} line {number}: {name} has a row already")
            rows[name] = _multi_hot(shown, f"{table} line {number}")
    return rows


def _annotated(path: Path) -> npt.NDArray[np.bool_]:
    """Classes of the annotated objects, difficult ones too; their parts (head, hand) are none."""
    try:
        objects = ElementTree.parse(path).iterfind("object")
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"annotation {path} cannot be read: {error}") from error
    return _multi_hot((entry.findtext("name", "") for entry in objects), f"annotation {path}")


def _multi_hot(names: Iterable[str], where: str) -> npt.NDArray[np.bool_]:
    label = np.zeros(len(CLASSES), dtype=np.bool_)
    for name in names:
        if name not in CLASSES:
            [nearest] = difflib.get_close_matches(name, CLASSES, n=1, cutoff=0.0)
            raise ValueError(f"{where}: class {name!r} is unknown; did you mean {nearest!r}?")
        label[CLASSES.index(name)] = True
    return label
