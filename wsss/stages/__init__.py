"""The stages: the science as nodes of a pipeline. The one package here that knows the platform.

Nothing in it imports torch when it is imported, so that a process which only declares pipelines
stays light; each stage imports what it runs when it runs.
"""

from wsss.stages.classify import train_cam, train_recam
from wsss.stages.data import images, masks
from wsss.stages.maps import cam_maps, recam_maps
from wsss.stages.seeds import seed_pictures, seed_quality, seed_score

__all__ = [
    "cam_maps",
    "images",
    "masks",
    "recam_maps",
    "seed_pictures",
    "seed_quality",
    "seed_score",
    "train_cam",
    "train_recam",
]
