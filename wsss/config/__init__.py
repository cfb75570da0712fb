"""Configuration of every method, as frozen dataclasses whose defaults are the published values.

They stand apart from the methods that they configure, because a process that only declares
pipelines (a trial of a sweep) needs them and must not import torch.
"""

from wsss.config.maps import Bits, CAMMaps, ExtractionWeight, ReCAMMaps
from wsss.config.refine import (
    CRF,
    DEEPLAB_CRF,
    PSA_CRF,
    Ignore,
    IRLabels,
    IRNTraining,
    PseudoLabels,
    Walk,
)
from wsss.config.seeds import LabelScore, SeedPictures, SeedQuality, SeedScore
from wsss.config.sfc import SFCFusion, SFCLabels, SFCMaps, SFCTraining, SFCWalk
from wsss.config.training import (
    BY_CONTENT,
    CAMTraining,
    Precision,
    ReCAMTraining,
    Schedule,
    Training,
    content_of,
)

__all__ = [
    "BY_CONTENT",
    "CRF",
    "DEEPLAB_CRF",
    "PSA_CRF",
    "Bits",
    "CAMMaps",
    "CAMTraining",
    "ExtractionWeight",
    "IRLabels",
    "IRNTraining",
    "Ignore",
    "LabelScore",
    "Precision",
    "PseudoLabels",
    "ReCAMMaps",
    "ReCAMTraining",
    "SFCFusion",
    "SFCLabels",
    "SFCMaps",
    "SFCTraining",
    "SFCWalk",
    "Schedule",
    "SeedPictures",
    "SeedQuality",
    "SeedScore",
    "Training",
    "Walk",
    "content_of",
]
