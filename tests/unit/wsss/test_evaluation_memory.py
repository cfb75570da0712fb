"""Scoring keeps sums, never masks: what a process holds is the same for ten times the images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the measure reads /proc")

ROOT = Path(__file__).parents[3]
MASKS = 3_600 * 96 * 96 / 2**20  # MiB that the images added in between would take, a byte a pixel


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images():
    program = ROOT / "tests/benchmarks/evaluation_memory.py"
    done = subprocess.run(
        [sys.executable, str(program), "400", "4000"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    assert grown["holding"] > 0.75 * MASKS, "the measure does not see masks that are kept"
    for score in ("label_maps", "score_maps"):
        assert grown[score] < 0.2 * MASKS, f"{score} keeps something of every image"
