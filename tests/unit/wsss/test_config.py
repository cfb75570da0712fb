"""Configs refuse what makes no sense, in one line that names the field."""

from collections.abc import Callable
from pathlib import Path

import pytest

from wsss.config import (
    CAMMaps,
    CAMTraining,
    ReCAMMaps,
    ReCAMTraining,
    SeedPictures,
    SeedQuality,
    SeedScore,
    content_of,
)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: CAMTraining(steps=0), "steps"),
        (lambda: CAMTraining(epochs=9, steps=3), "epochs"),
        (lambda: CAMTraining(momentum=1.0), "momentum"),
        (lambda: CAMTraining(long_side=(9, 3)), "long_side"),
        (lambda: CAMTraining(detach_after=4), "detach_after"),
        (lambda: CAMTraining(precision="float16"), "precision"),  # type: ignore[arg-type]
        (lambda: CAMTraining(lr_head=-1.0), "lr_head"),
        (lambda: CAMTraining(lr_head=float("nan")), "lr_head"),
        (lambda: CAMTraining(weights="none"), "weights"),
        (lambda: ReCAMTraining(loss_weight=-0.1), "loss_weight"),
        (lambda: ReCAMTraining(lr_recam=-1.0), "lr_recam"),
        (lambda: CAMMaps(scales=()), "scales"),
        (lambda: CAMMaps(bits=12), "bits"),  # type: ignore[arg-type]
        (lambda: ReCAMMaps(scales=(0.0,)), "scales"),
        (lambda: ReCAMMaps(weight="prodcut"), "weight"),  # type: ignore[arg-type]
        (lambda: SeedQuality(bins=0), "bins"),
        (lambda: SeedScore(threshold=1.5), "threshold"),
        (lambda: SeedPictures(images=0), "images"),
    ],
)
def test_refused(build: Callable[[], object], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} is "):
        build()


def test_content_names_a_file(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    assert content_of(file) == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    with pytest.raises(ValueError, match=f"weights file {tmp_path}/absent cannot be read"):
        content_of(tmp_path / "absent")
