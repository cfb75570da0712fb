"""What every test may use: the reference data beside the checkout, and a private home."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# Many small networks run here: on shared cores, threads only get into each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REFERENCE = Path(
    os.environ.get("WSSS_REFERENCE", Path(__file__).resolve().parents[2] / "shared")
)


def reference(relative: str) -> Path:
    """A path inside the reference data; skips the test, with the reason, where it is absent."""
    path = REFERENCE / relative
    if not path.exists():
        pytest.skip(f"no reference data at {path} (set WSSS_REFERENCE)")
    return path


@pytest.fixture(scope="session")
def voc_mini() -> Path:
    """Root of 608 real VOC 2012 images with masks, in the official layout."""
    return reference("data/voc_mini")


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Root of 100 real COCO images with their annotations, in the official layout of 2017."""
    return reference("data/coco_mini")


@pytest.fixture(scope="session")
def voc_lists() -> Path:
    """The official lists of VOC's images in full, and their image-level labels."""
    return reference("data/lists")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], "np.lib.npyio.NpzFile"]:
    """Loader of recorded arrays: `golden("unit03_recam_sce")["logits"]`."""
    here = Path(__file__).parent / "parity" / "golden"

    def load(unit: str) -> "np.lib.npyio.NpzFile":
        kept = here / f"{unit}.npz"
        found = kept if kept.exists() else reference(f"golden/{unit}.npz")
        return np.load(found, allow_pickle=False)

    return load


@pytest.fixture(autouse=True)
def private_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point HOME and STAGEFLOW_HOME into the test's own folder, so that nothing leaks out or in."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("STAGEFLOW_HOME", str(home / ".stageflow"))
    return home
