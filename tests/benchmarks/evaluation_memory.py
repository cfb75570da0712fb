"""Memory of scoring label maps and score maps: it does not grow with the number of images.

    python tests/benchmarks/evaluation_memory.py [FEW MANY]

Scores FEW images, then MANY, and prints as JSON by how many MiB the most memory that the process
ever held has grown in between. "holding" keeps the masks, as the released code of ReCAM does with
those of COCO, and shows what would be seen if ours did.
"""

import json
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wsss.cam.scores import ScoreMap, ScoreMaps, write_scores
from wsss.cam.seeds import seed_curve
from wsss.data.label_maps import Labels, write_labels
from wsss.data.samples import Samples
from wsss.labels import label_confusion

SIDE, CLASSES, BINS = 96, 20, 20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Drawn(Samples):
    """So many images of one class each, whose masks are drawn when asked for."""

    def image(self, i: int) -> np.ndarray:
        """Nothing here looks at it."""
        raise NotImplementedError

    def mask(self, i: int) -> np.ndarray:
        """The upper rows are of the image's class, uint8 [96, 96]."""
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        mask[: i % SIDE] = i % CLASSES + 1
        return mask


def drawn(images: int) -> Drawn:
    """A split of so many images."""
    return Drawn(
        name="drawn",
        split="train",
        classes=tuple(f"class {c}" for c in range(CLASSES)),
        ids=tuple(f"{i:06d}" for i in range(images)),
        labels=np.eye(CLASSES, dtype=np.bool_)[np.arange(images) % CLASSES],
        mask_rule="drawn",
        has_masks=True,
    )


def label_maps(folder: Path, images: int) -> None:
    """Label every image, and score the labels."""
    samples = drawn(images)
    write_labels(folder, ((name, samples.mask(i)) for i, name in enumerate(samples.ids)))
    found = label_confusion(Labels(folder), samples, lambda *_: None)
    assert int(found.diagonal().sum()) == int(found.sum()) == images * SIDE**2


def score_maps(folder: Path, images: int) -> None:
    """Write a score map of every image, and score it at every threshold."""
    samples, size = drawn(images), (SIDE, SIDE)
    planes = torch.rand(1, SIDE // 4, SIDE // 4)
    write_scores(
        folder,
        (
            ScoreMap(id=name, keys=torch.tensor([i % CLASSES]), planes=planes, size=size)
            for i, name in enumerate(samples.ids)
        ),
    )
    curve = seed_curve(ScoreMaps(folder), samples, BINS, lambda *_: None)
    assert (curve.sum((1, 2)) == images * SIDE**2).all()


def holding(folder: Path, images: int) -> None:
    """What not to do."""
    samples = drawn(images)
    masks = [samples.mask(i) for i in range(images)]
    assert len(masks) == images


def peak() -> float:
    """The most memory that the process has held, in MiB; Linux only.

    Not `getrusage`: its maximum begins with what the process that started this one held.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "this system does not tell the most memory that a process has held"
    return int(found[1]) / 1024


def growth(score: Callable[[Path, int], None], few: int, many: int) -> float:
    """By how many MiB the peak has grown from few images to many."""
    peaks = []
    for images in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            score(Path(folder), images)
        peaks.append(peak())
    return peaks[1] - peaks[0]


def main() -> None:
    """Measure ours first: a peak never falls."""
    torch.set_num_threads(1)
    few, many = (int(text) for text in sys.argv[1:] or ("1000", "10000"))
    found = {
        score.__name__: round(growth(score, few, many), 1)
        for score in (label_maps, score_maps, holding)
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
