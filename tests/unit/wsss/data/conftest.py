"""Real annotations beside the real photographs."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def coco_mini(voc_mini: Path) -> Path:
    """Root of 50 + 50 real COCO images with annotations, in the layout of 2017."""
    root = voc_mini.parent / "coco_mini"
    if not root.is_dir():
        pytest.skip(f"no reference data at {root}")
    return root
