"""One's own data: a folder of images, a table of what they show, and masks if there are any.

    images/ID.jpg      or .jpeg or .png, in capitals too
    image_labels.txt   `ID class class ...` a line; none for an image that shows none of them
    classes.txt        one name a line, in the order of their ids; if absent, the table's, sorted
    masks/ID.png       class ids as grey values or palette places: 0 background, 1 the first class,
                       255 void; if absent, or not for every image, the split cannot score
    splits/NAME.txt    one ID a line; the split "all" is every image of the table, in its order

An ID is any file name without its ending. It holds no blank, and no class does: the table could not
tell where it ends. Images that are not in the table are left alone. Needs numpy and Pillow only.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsss.data.content import digest_of
from wsss.data.samples import VOID, Samples, read_image, read_mask

ENDINGS = (".jpg", ".jpeg", ".png")
"""Of image files."""

ALL = "all"
"""The split that needs no list."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class FolderSamples(Samples):
    """A split of the data in the folder `root`."""

    root: Path
    files: tuple[str, ...]
    """Of each image, in `images`."""

    def image(self, i: int) -> npt.NDArray[np.uint8]:
        """RGB image `i`, uint8 [H, W, 3]; ValueError names a file that is broken."""
        return read_image(self._photo(i))

    def mask(self, i: int) -> npt.NDArray[np.uint8]:
        """Mask of image `i`, uint8 [H, W]; ValueError names a file that is absent or wrong."""
        path = self.root / "masks" / f"{self.ids[i]}.png"
        return read_mask(path, self._photo(i), len(self.classes))

    def identity(self) -> dict[str, str | int]:
        """What the key is made of, with the content of all files: people mend their own masks."""
        images = digest_of(tuple(self._photo(i) for i in range(len(self))))
        found = {**Samples.identity(self), "files": images}
        if not self.has_masks:
            return found
        masks = tuple(self.root / "masks" / f"{name}.png" for name in self.ids)
        return {**found, "mask_files": digest_of(masks)}

    def _photo(self, i: int) -> Path:
        return self.root / "images" / self.files[i]


def open_folder(location: str, split: str) -> FolderSamples:
    """The split `split` of the data in the folder `location`.

    Raises ValueError for an absent folder, table, list or image, for a name that the table cannot
    hold, and for labels that are missing or unknown.
    """
    root = Path(location).expanduser()
    if not root.is_dir():
        raise ValueError(f"data root {root} does not exist")
    files = _image_files(root / "images")
    rows = _rows(root / "image_labels.txt")
    classes = _classes(root / "classes.txt", rows)
    labels = {
        name: _multi_hot(shown, classes, f"{root / 'image_labels.txt'}: {name}")
        for name, shown in rows.items()
    }
    ids = _ids(root / "splits", split, rows)
    absent = [name for name in ids if name not in files]
    if absent:
        raise ValueError(
            f"split {split!r} names {absent[0]} but {root / 'images'} has no image of that name"
            f" ({len(absent)} of {len(ids)} are absent)"
        )
    masks = set(os.listdir(root / "masks")) if (root / "masks").is_dir() else set()
    return FolderSamples(
        name="images",
        split=split,
        classes=classes,
        ids=ids,
        labels=np.stack([labels[name] for name in ids]),
        mask_rule="masks",
        has_masks=masks.issuperset(f"{name}.png" for name in ids),
        root=root,
        files=tuple(files[name] for name in ids),
    )


def _image_files(folder: Path) -> dict[str, str]:
    """The image files in a folder, by id."""
    if not folder.is_dir():
        raise ValueError(f"data root {folder.parent} has no folder images")
    files: dict[str, str] = {}
    for file in sorted(os.listdir(folder)):
        name, ending = os.path.splitext(file)
        if ending.lower() not in ENDINGS:
            continue
        if name.split() != [name]:
            raise ValueError(
                f"image {folder / file} has a blank in its name, which image_labels.txt cannot"
                " hold: rename it"
            )
        if name in files:
            raise ValueError(f"{folder} holds {files[name]} and {file}: one id, two images")
        files[name] = file
    return files


def _rows(table: Path) -> dict[str, list[str]]:
    """The class names in each row of the table, by id."""
    rows: dict[str, list[str]] = {}
    for number, line in _lines(table):
        name, *shown = line.split()
        if name in rows:
            raise ValueError(f"{table} line {number}: {name} has a row already")
        rows[name] = shown
    if not rows:
        raise ValueError(f"{table} labels no image: write `ID class class ...` lines")
    return rows


def _classes(path: Path, rows: dict[str, list[str]]) -> tuple[str, ...]:
    """The class names in the order of their ids."""
    if not path.is_file():
        names = sorted({name for shown in rows.values() for name in shown})
        return _checked(names, path.with_name("image_labels.txt"))
    names = []
    for number, name in _lines(path):
        if len(name.split()) > 1:
            raise ValueError(
                f"{path} line {number}: class {name!r} has a blank, which image_labels.txt cannot"
                f" hold: write {'_'.join(name.split())}"
            )
        names.append(name)
    return _checked(names, path)


def _checked(names: list[str], path: Path) -> tuple[str, ...]:
    if not names:
        raise ValueError(f"{path} names no class")
    if "background" in names:
        raise ValueError(f"{path} names background, which has the id 0 by itself: remove it")
    if len(set(names)) < len(names):
        twice = next(name for n, name in enumerate(names) if name in names[:n])
        raise ValueError(f"{path} names {twice} twice: remove one line")
    if len(names) >= VOID:
        raise ValueError(f"{path} names {len(names)} classes: masks can hold {VOID - 1}")
    return tuple(names)


def _ids(folder: Path, split: str, rows: dict[str, list[str]]) -> tuple[str, ...]:
    """The images of a split: those in its list, or all."""
    path = folder / f"{split}.txt"
    if not path.is_file():
        if split == ALL:
            return tuple(rows)
        lists = os.listdir(folder) if folder.is_dir() else []
        there = [ALL, *sorted(n.removesuffix(".txt") for n in lists if n.endswith(".txt"))]
        raise ValueError(
            f"split {split!r} has no list {path}; choose one that is there: {', '.join(there)}"
        )
    ids = tuple(name for _, name in _lines(path))
    if not ids:
        raise ValueError(f"list {path} names no image")
    if len(set(ids)) < len(ids):
        twice = next(name for n, name in enumerate(ids) if name in ids[:n])
        raise ValueError(f"list {path} names {twice} twice: remove one line")
    unlabelled = [name for name in ids if name not in rows]
    if unlabelled:
        raise ValueError(
            f"image_labels.txt has no row for {unlabelled[0]}, which {path} names"
            f" ({len(unlabelled)} of {len(ids)} lack one)"
        )
    return ids


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text that hold something, stripped, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin a text with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, line) for number, line in lines if line]


def _multi_hot(names: Iterable[str], classes: tuple[str, ...], where: str) -> npt.NDArray[np.bool_]:
    label = np.zeros(len(classes), dtype=np.bool_)
    for name in names:
        if name not in classes:
            [nearest] = difflib.get_close_matches(name, classes, n=1, cutoff=0.0)
            raise ValueError(f"{where}: class {name!r} is unknown; did you mean {nearest!r}?")
        label[classes.index(name)] = True
    return label
