"""Segmentations for PASCAL VOC's test server, which alone knows the masks of the test images.

The archive that it takes holds one palette PNG of class ids for each image of the list:

    results/VOC2012/Segmentation/comp6_test_cls/ID.png       0 background, 1 to 20; no void

comp6 is the competition of those who train on anything but the test images. The same label maps
make the same bytes: files are in the order of their ids, and nothing has a date.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsss.data.label_maps import Labels, palette_png
from wsss.data.voc import CLASSES

Bytes = npt.NDArray[np.uint8]
FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
COMPRESSED = (".gz", ".tgz")


def write_submission(path: Path, labels: Labels, ids: Sequence[str]) -> None:
    """Write the label maps of these images to a .tar, or to a .tar.gz or .tgz.

    Raises ValueError, naming the image, where a label map is absent or holds 255 or an id beyond
    the 20 classes.
    """
    labels.check(ids)
    with _writing(path) as archive:
        for name in sorted(ids):
            label = labels[name]
            _check_ids(label, f"label map of {name}")
            content = palette_png(label)
            member = tarfile.TarInfo(f"{FOLDER}/{name}.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def check_submission(path: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Raise ValueError unless the archive is what the server wants for images of these `sizes`.

    `sizes` gives height and width by image id. The message names the archive, and the file in it.
    """
    found: set[str] = set()
    for name, label in read_submission(path):
        where = f"{path}: {FOLDER}/{name}.png"
        if name not in sizes:
            raise ValueError(f"{where} is of no image of the list")
        if label.shape != sizes[name]:
            raise ValueError(f"{where} is {label.shape} but its image {sizes[name]}")
        found.add(name)
    missing = sorted(set(sizes) - found)
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} of {len(sizes)} images, {missing[0]} first")


def read_submission(path: Path) -> Iterator[tuple[str, Bytes]]:
    """The id and label map, uint8 [H, W], of each file in an archive, none of which is unpacked.

    Raises ValueError, naming the archive and the file in it, for a file in another place, a second
    one of an image, and anything but a palette PNG of ids 0 to 20.
    """
    known: set[str] = set()
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isdir():
                    continue
                name, label = _read(archive, member, path)
                if name in known:
                    raise ValueError(f"{path} holds {member.name} twice")
                known.add(name)
                yield name, label
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ValueError(f"submission {path} cannot be read: {error}") from error


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> tuple[str, Bytes]:
    where = f"{path}: {member.name}"
    name = member.name.removeprefix(f"{FOLDER}/").removesuffix(".png")
    file = archive.extractfile(member) if member.isfile() else None
    if file is None or member.name != f"{FOLDER}/{name}.png" or "/" in name:
        raise ValueError(f"{where} does not belong there: all is {FOLDER}/ID.png")
    try:
        with Image.open(io.BytesIO(file.read())) as picture:
            kind, label = (picture.format, picture.mode), np.array(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{where} cannot be decoded: {error}") from error
    if kind != ("PNG", "P"):
        raise ValueError(f"{where} is a {kind[0]} of mode {kind[1]}: give a palette PNG")
    _check_ids(label, where)
    return name, label


def _check_ids(label: Bytes, where: str) -> None:
    beyond = label[label > len(CLASSES)]
    if beyond.size:
        raise ValueError(f"{where} holds the id {beyond[0]}: give 0 to {len(CLASSES)}")


@contextmanager
def _writing(path: Path) -> Iterator[tarfile.TarFile]:
    """A new archive, whose bytes depend on its files alone."""
    with path.open("wb") as raw:
        if path.suffix not in COMPRESSED:
            with tarfile.open(fileobj=raw, mode="w") as archive:
                yield archive
            return
        with (
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            yield archive
