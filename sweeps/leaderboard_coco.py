#!/usr/bin/env python
"""The leaderboard on MS COCO: whole pipelines up to segmentation, beside the papers.

    sweeps/leaderboard_coco.py --data coco2014:/data/coco --backbone resnet50
    sweeps/leaderboard_coco.py --data coco2014:/data/part --budget small
    sweeps/leaderboard_coco.py --data coco2014:/data/coco,overlap=small_over_large,crowd=void

Masks are drawn from the annotations by a named rule, ReCAM's unless another is given; it is part of
every key, and rows under another rule are not held against the published ones. Images that show
nothing have empty labels and count as background. SFC's pseudo labels are those of the CRF here, as
in its release, with what it leaves open left out of the training; `--pseudo walk` walks them too.
See `sweeps/leaderboard.py --help` for what a row says.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

# The code beside this file and not an older installed copy: shipped folders hold both roots.
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / root) for root in (".", "platform")]

from stageflow.sweep import main
from sweeps.leaderboard import leaderboard
from wsss.setting import option
from wsss.whole_pipeline import Options


@dataclass(frozen=True, kw_only=True, slots=True)
class COCOOptions(Options):
    """Those of every leaderboard, on COCO."""

    data: str = option("coco2014:PATH, and by comma overlap=..., crowd=...", "coco2014:coco")

    def __post_init__(self) -> None:
        Options.__post_init__(self)  # super() does not work in slotted dataclasses
        if not self.on("coco2014"):
            raise ValueError(f"data is {self.data!r}: give coco2014:PATH, or use leaderboard.py")


SWEEP = leaderboard("leaderboard-coco", __doc__ or "", COCOOptions())

if __name__ == "__main__":
    sys.exit(main(SWEEP))
