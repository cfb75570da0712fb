"""MS COCO in its official layout, with masks drawn from the annotations by a named rule.

    annotations/instances_train2014.json   train2014/COCO_train2014_000000000009.jpg
    annotations/instances_val2017.json     val2017/000000006818.jpg

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014. The splits "train" and "val" are
those of 2014, or of 2017 where there is no other; each can be named in full. Images are in the
order of their numbers, those without an object among them. Categories have the ids 1, 2, ... in
masks, in the order of their numbers, ten of which do not exist. An image shows every category that
it has an annotation of, be it a crowd.

COCO has objects and no masks. Which object is on top where two overlap, and what a crowd is, is for
those who score to say, and published masks differ in it. So the location says it, and the key of
the data set with it:

    overlap=annotation_order    the later one in the file; as ReCAM's masks, and the default
    overlap=small_over_large    the one with fewer pixels
    crowd=background            as ReCAM's masks, and the default
    crowd=void                  255 where a crowd is and no other object
    crowd=object                an object like any other

for instance `coco2014:/data/coco,overlap=small_over_large,crowd=void`. Needs numpy and Pillow, and
pycocotools once a mask is drawn.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsss.data.instances import Annotation, Instances, Photo, read_instances
from wsss.data.samples import VOID, Samples, read_image

RULES = {
    "overlap": ("annotation_order", "small_over_large"),
    "crowd": ("background", "void", "object"),
}
"""What can be said of masks, the default first."""

YEARS = ("2014", "2017")
"""Of "train" and "val", the first that has both; images went from one to the other in between."""

OTHER = {"train": "val", "val": "train"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class CocoSamples(Samples):
    """A split of COCO, with its images in `folder`."""

    folder: Path
    table: Path
    """The file of the annotations."""
    photos: tuple[Photo, ...]
    annotations: tuple[tuple[Annotation, ...], ...]
    """Of each image, in the order of the file."""
    mask_ids: dict[int, int]
    """The id in masks of each category's number."""
    overlap: str
    crowd: str

    def image(self, i: int) -> npt.NDArray[np.uint8]:
        """RGB image `i`, uint8 [H, W, 3]; ValueError names a file that is broken or was resized."""
        photo, path = self.photos[i], self.folder / self.photos[i].file
        image = read_image(path)
        height, width = image.shape[:2]
        if (height, width) != (photo.height, photo.width):
            raise ValueError(
                f"image {path} is {width} x {height} but {self.table} says"
                f" {photo.width} x {photo.height}"
            )
        return image

    def mask(self, i: int) -> npt.NDArray[np.uint8]:
        """Mask of image `i`, uint8 [H, W], drawn anew by the rule.

        Raises ValueError for an annotation that cannot be drawn, and without pycocotools.
        """
        photo = self.photos[i]
        shapes = [
            (entry, self._pixels(entry, photo))
            for entry in self.annotations[i]
            if not entry.crowd or self.crowd != "background"
        ]
        if self.overlap == "small_over_large":
            shapes.sort(key=lambda shape: -np.count_nonzero(shape[1]))
        if self.crowd == "void":  # crowds first, so that whatever else is known stays known
            shapes.sort(key=lambda shape: not shape[0].crowd)
        mask = np.zeros((photo.height, photo.width), dtype=np.uint8)
        for entry, pixels in shapes:
            void = entry.crowd and self.crowd == "void"
            mask[pixels] = VOID if void else self.mask_ids[entry.category]
        return mask

    def _pixels(self, entry: Annotation, photo: Photo) -> npt.NDArray[np.bool_]:
        where = f"annotation {entry.number} of {self.table}"
        if entry.shape is None:
            raise ValueError(f"{where} has no segmentation: its mask cannot be drawn")
        try:
            return entry.shape.drawn(photo.height, photo.width)
        except ValueError as error:
            raise ValueError(f"{where} cannot be drawn: {error}") from error


def open_coco(location: str, split: str) -> CocoSamples:
    """The split `split` of the data set at `location`: its folder, and by comma rules for masks.

    Raises ValueError for an unknown rule, for an absent folder, file or image, and for annotations
    that are not in COCO's form.
    """
    folder, rules = _rules(location)
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(f"data root {root} does not exist")
    name = _full_name(root, split)
    found = read_instances(root / "annotations" / f"instances_{name}.json")
    _check_photos(root / name, found)
    mask_ids = {number: rank for rank, number in enumerate(found.categories, start=1)}
    annotations = _by_image(found)
    # The digest tells apart what the rule is applied to: COCO's annotations were revised, too.
    rule = ",".join(f"{option}={value}" for option, value in rules.items())
    return CocoSamples(
        name="coco2014",
        split=name,
        classes=tuple(found.categories.values()),
        ids=tuple(Path(photo.file).stem for photo in found.photos.values()),
        labels=_labels(annotations, mask_ids),
        mask_rule=f"{rule},annotations={found.digest[:16]}",
        has_masks=all(entry.shape is not None for entry in found.annotations),
        folder=root / name,
        table=found.path,
        photos=tuple(found.photos.values()),
        annotations=annotations,
        mask_ids=mask_ids,
        overlap=rules["overlap"],
        crowd=rules["crowd"],
    )


def _rules(location: str) -> tuple[str, dict[str, str]]:
    """The folder and every rule in "/data/coco,crowd=void"."""
    folder, *given = location.split(",")
    known = [f"{option}={value}" for option, values in RULES.items() for value in values]
    rules: dict[str, str] = {}
    for rule in given:
        if rule not in known:
            [nearest] = difflib.get_close_matches(rule, known, n=1, cutoff=0.0)
            raise ValueError(
                f"coco2014 rule {rule!r} is unknown; did you mean {nearest!r}? there are"
                f" {', '.join(known)}"
            )
        option, _, value = rule.partition("=")
        if option in rules:
            raise ValueError(f"coco2014 rule {option} is given twice: keep one")
        rules[option] = value
    return folder, {option: rules.get(option, values[0]) for option, values in RULES.items()}


def _full_name(root: Path, split: str) -> str:
    """The split's name with its year."""
    folder = root / "annotations"
    if not folder.is_dir():
        raise ValueError(f"data root {root} has no annotations: give the folder that holds it")
    there = {
        name.removeprefix("instances_").removesuffix(".json")
        for name in os.listdir(folder)
        if name.startswith("instances_") and name.endswith(".json")
    }
    if split in there:
        return split
    years = [year for year in YEARS if split + year in there]
    others = [year for year in YEARS if f"{OTHER.get(split)}{year}" in there]
    if both := [year for year in years if year in others]:
        return split + both[0]
    if years and others:
        raise ValueError(
            f"{root} has {split}{years[0]} and {OTHER[split]}{others[0]}, which share images:"
            " name a split in full, or add the other year's annotations"
        )
    if years:
        return split + years[0]
    raise ValueError(
        f"split {split!r} has no {folder}/instances_{split}{YEARS[0]}.json;"
        f" choose one that is there: {', '.join(sorted(there)) or 'none'}"
    )


def _check_photos(folder: Path, found: Instances) -> None:
    """Compare with one listing of the folder: a stat for each image takes minutes."""
    if not folder.is_dir():
        raise ValueError(f"{found.path} is there but not the folder of its images, {folder}")
    there = set(os.listdir(folder))
    absent = [photo.file for photo in found.photos.values() if photo.file not in there]
    if absent:
        raise ValueError(
            f"{found.path} names {absent[0]} but {folder} has no such file"
            f" ({len(absent)} of {len(found.photos)} images are absent)"
        )


def _by_image(found: Instances) -> tuple[tuple[Annotation, ...], ...]:
    of: dict[int, list[Annotation]] = {number: [] for number in found.photos}
    for entry in found.annotations:
        of[entry.image].append(entry)
    return tuple(map(tuple, of.values()))


def _labels(
    annotations: tuple[tuple[Annotation, ...], ...], mask_ids: dict[int, int]
) -> npt.NDArray[np.bool_]:
    labels = np.zeros((len(annotations), len(mask_ids)), dtype=np.bool_)
    for i, entries in enumerate(annotations):
        labels[i, [mask_ids[entry.category] - 1 for entry in entries]] = True
    return labels
