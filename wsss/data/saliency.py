"""Saliency maps in a folder, as some other program has made them. Needs numpy and Pillow only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsss.data.content import digest_of

Bytes = npt.NDArray[np.uint8]


class SaliencyMaps:
    """Saliency maps in a folder: ID.png, grey with 8 bits, of the size of its image."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"saliency folder {folder} does not exist")
        self._folder = folder

    def check(self, ids: Iterable[str]) -> None:
        """Raise ValueError, naming the first, unless each of these images has a map."""
        there = {path.stem for path in self._folder.glob("*.png")}
        missing = [name for name in ids if name not in there]
        if missing:
            first = self._folder / f"{missing[0]}.png"
            raise ValueError(f"{len(missing)} images have no saliency map, {first} first")

    def digest(self, ids: Iterable[str]) -> str:
        """SHA-256 of the files of these images, in this order; checks them as `check` does."""
        listed = tuple(ids)
        self.check(listed)
        return digest_of(tuple(self._folder / f"{name}.png" for name in listed))

    def of(self, name: str, size: tuple[int, int]) -> Bytes:
        """The map of an image of this size (H, W), uint8 [H, W].

        Raises ValueError, naming the file, where it is absent, broken or of another kind or size.
        """
        path = self._folder / f"{name}.png"
        try:
            with Image.open(path) as picture:
                mode, found = picture.mode, np.array(picture)
        except FileNotFoundError as error:
            raise ValueError(f"saliency map {path} does not exist") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"saliency map {path} cannot be read: {error}") from error
        if mode != "L":
            raise ValueError(f"saliency map {path} is of mode {mode}: give a grey PNG of 8 bits")
        if found.shape != size:
            raise ValueError(f"saliency map {path} is {found.shape} but its image {size}")
        return found
