"""Label maps on disk: a folder of PNGs, one an image, that hold ids and are shown in VOC's colours.

The published label maps are grey, so that viewers show them black. Ours have the palette of the
PASCAL VOC masks; whoever reads the pixels finds the same ids. Needs numpy and Pillow only.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]


def voc_palette() -> Bytes:
    """PASCAL VOC's colours, uint8 [256, 3], as the development kit's VOCcolormap makes them.

    An id's bits are dealt out in turn to red, green and blue, each filled from its highest bit.
    """
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def palette_png(label: Bytes) -> bytes:
    """A label map [H, W] as a PNG of its ids, which viewers show in VOC's colours."""
    picture, file = Image.fromarray(label), io.BytesIO()
    picture.putpalette(voc_palette().tobytes())
    picture.save(file, "PNG")
    return file.getvalue()


def write_labels(folder: Path, labels: Iterable[tuple[str, Bytes]]) -> None:
    """Write the label map uint8 [H, W] of each image id to `folder`, as they come.

    Several workers may write into one folder. Raises ValueError for an id that cannot name a file,
    and for an array of another kind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, label in labels:
        if not name or Path(name).name != name:
            raise ValueError(f"image id {name!r} cannot name a file of labels")
        if label.dtype != np.uint8 or label.ndim != 2:
            raise ValueError(f"label of {name} is {label.dtype} {label.shape}: give uint8 [H, W]")
        (folder / f"{name}.png").write_bytes(palette_png(label))


class Labels:
    """The label maps in a folder, by the id of their image; a map is read when asked for.

    Raises ValueError for a folder without any, an image without one, and a file that holds none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ids = tuple(sorted(path.stem for path in folder.glob("*.png")))
        if not self.ids:
            raise ValueError(f"{folder} holds no label maps (*.png)")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, name: str) -> Bytes:
        return read_label(self._folder / f"{name}.png")

    def check(self, ids: Iterable[str]) -> None:
        """Raise ValueError unless each of these images has a label map."""
        missing = sorted(set(ids) - set(self.ids))
        if missing:
            raise ValueError(f"{self._folder} lacks {len(missing)} label maps, {missing[0]} first")


def read_label(path: Path) -> Bytes:
    """The ids in a file, uint8 [H, W]; ValueError, naming the file, where there are none."""
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("P", "L"):
                raise ValueError(f"it holds {picture.mode} colours: give a PNG of class ids")
            return np.array(picture)
    except FileNotFoundError as error:
        raise ValueError(f"label map {path} does not exist") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"label map {path} cannot be read: {error}") from error
