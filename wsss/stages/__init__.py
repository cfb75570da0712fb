"""The stages: the science as nodes of a pipeline. The one package here that knows the platform.

Nothing in it imports torch when it is imported, so that a process which only declares pipelines
stays light; each stage imports what it runs when it runs.
"""

from wsss.stages.classify import train_cam, train_recam, train_selected_sfc, train_sfc
from wsss.stages.data import images, masks
from wsss.stages.maps import (
    advcam_maps,
    advcam_recam_maps,
    cam_maps,
    recam_maps,
    sfc_class_maps,
    sfc_maps,
    sfc_scores,
)
from wsss.stages.refine import (
    ir_labels,
    label_pictures,
    label_score,
    pseudo_labels,
    sfc_ir_labels,
    sfc_walked_maps,
    train_irnet,
    walked_maps,
)
from wsss.stages.seeds import seed_pictures, seed_quality, seed_score

__all__ = [
    "advcam_maps",
    "advcam_recam_maps",
    "cam_maps",
    "images",
    "ir_labels",
    "label_pictures",
    "label_score",
    "masks",
    "pseudo_labels",
    "recam_maps",
    "seed_pictures",
    "seed_quality",
    "seed_score",
    "sfc_class_maps",
    "sfc_ir_labels",
    "sfc_maps",
    "sfc_scores",
    "sfc_walked_maps",
    "train_cam",
    "train_irnet",
    "train_recam",
    "train_selected_sfc",
    "train_sfc",
    "walked_maps",
]
