"""The stages: the science as nodes of a pipeline. The one package here that knows the platform.

Nothing in it imports torch when it is imported, so that a process which only declares pipelines
stays light; each stage imports what it runs when it runs.
"""

from wsss.stages.classify import train_cam, train_recam, train_selected_sfc, train_sfc
from wsss.stages.data import images, masks, saliency
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
    sfc_ir_labels,
    sfc_walked_maps,
    train_irnet,
    walked_maps,
)
from wsss.stages.seeds import seed_pictures, seed_quality, seed_score
from wsss.stages.segment import (
    aamr_targets,
    best_pseudo_labels,
    pseudo_labels,
    segment,
    segmentation_pictures,
    train_refined_segmenter,
    train_segmenter,
    voc_submission,
)

__all__ = [
    "aamr_targets",
    "advcam_maps",
    "advcam_recam_maps",
    "best_pseudo_labels",
    "cam_maps",
    "images",
    "ir_labels",
    "label_pictures",
    "label_score",
    "masks",
    "pseudo_labels",
    "recam_maps",
    "saliency",
    "seed_pictures",
    "seed_quality",
    "seed_score",
    "segment",
    "segmentation_pictures",
    "sfc_class_maps",
    "sfc_ir_labels",
    "sfc_maps",
    "sfc_scores",
    "sfc_walked_maps",
    "train_cam",
    "train_irnet",
    "train_recam",
    "train_refined_segmenter",
    "train_segmenter",
    "train_selected_sfc",
    "train_sfc",
    "voc_submission",
    "walked_maps",
]
