"""Configuration of every method, as frozen dataclasses whose defaults are the published values.

They stand apart from the methods that they configure, because a process that only declares
pipelines (a trial of a sweep) needs them and must not import torch.
"""

from wsss.config.advcam import AdvCAM
from wsss.config.checks import BY_CONTENT
from wsss.config.maps import (
    AdvCAMMaps,
    AdvReCAMMaps,
    Bits,
    CAMMaps,
    Extraction,
    ExtractionWeight,
    ReCAMMaps,
)
from wsss.config.refine import (
    BRIEF_CRF,
    CRF,
    DEEPLAB_CRF,
    PSA_CRF,
    BestPseudoLabels,
    Ignore,
    IRLabels,
    IRNTraining,
    PseudoLabels,
    Walk,
)
from wsss.config.response import Response
from wsss.config.seeds import LabelPictures, LabelScore, SeedPictures, SeedQuality, SeedScore
from wsss.config.segment import (
    DEEPLABV2_COCO,
    DEEPLABV3PLUS,
    MULTI_SCALE,
    UPERNET_SWIN,
    AAMRTargets,
    Segmentation,
    SegmentationPictures,
    SegmentationTraining,
    VOCSubmission,
)
from wsss.config.sfc import (
    SFCClassMaps,
    SFCFusion,
    SFCLabels,
    SFCMaps,
    SFCTraining,
    SFCWalk,
)
from wsss.config.training import (
    CAMTraining,
    Precision,
    ReCAMTraining,
    Schedule,
    Training,
    content_of,
)

__all__ = [
    "BRIEF_CRF",
    "BY_CONTENT",
    "CRF",
    "DEEPLABV2_COCO",
    "DEEPLABV3PLUS",
    "DEEPLAB_CRF",
    "MULTI_SCALE",
    "PSA_CRF",
    "UPERNET_SWIN",
    "AAMRTargets",
    "AdvCAM",
    "AdvCAMMaps",
    "AdvReCAMMaps",
    "BestPseudoLabels",
    "Bits",
    "CAMMaps",
    "CAMTraining",
    "Extraction",
    "ExtractionWeight",
    "IRLabels",
    "IRNTraining",
    "Ignore",
    "LabelPictures",
    "LabelScore",
    "Precision",
    "PseudoLabels",
    "ReCAMMaps",
    "ReCAMTraining",
    "Response",
    "SFCClassMaps",
    "SFCFusion",
    "SFCLabels",
    "SFCMaps",
    "SFCTraining",
    "SFCWalk",
    "Schedule",
    "SeedPictures",
    "SeedQuality",
    "SeedScore",
    "Segmentation",
    "SegmentationPictures",
    "SegmentationTraining",
    "Training",
    "VOCSubmission",
    "Walk",
    "content_of",
]
