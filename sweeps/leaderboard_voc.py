#!/usr/bin/env python
"""The leaderboard on PASCAL VOC 2012: whole pipelines up to segmentation, beside the papers.

    sweeps/leaderboard_voc.py --data voc2012:/data/VOCdevkit/VOC2012 --backbone resnet50
    sweeps/leaderboard_voc.py --data voc2012:/data/part --budget small
    ray job submit --working-dir . -- sweeps/leaderboard_voc.py --data voc2012:... --store s3://...

CAM, ReCAM, SFC and response maps, each trained on train_aug, scored on train as seeds, after the
CRF and after the walk; DeepLabV2 learns their pseudo labels and is scored on val. `--test yes`
segments the test images too, and packs them as the evaluation server takes them. Published results
start from a file that no library offers: deeplabv1_resnet101-imagenet.pth, for `--network-weights`.
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
class VOCOptions(Options):
    """Those of every leaderboard, on VOC."""

    data: str = option("voc2012:PATH, VOC's folder with JPEGImages in it", "voc2012:VOC2012")

    def __post_init__(self) -> None:
        Options.__post_init__(self)  # super() does not work in slotted dataclasses
        if not self.on("voc2012"):
            raise ValueError(f"data is {self.data!r}: give voc2012:PATH, or use leaderboard.py")


SWEEP = leaderboard("leaderboard-voc", __doc__ or "", VOCOptions())

if __name__ == "__main__":
    sys.exit(main(SWEEP))
