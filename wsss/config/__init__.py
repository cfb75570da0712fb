"""Configuration of every method, as frozen dataclasses whose defaults are the published values.

They stand apart from the methods that they configure, because a process that only declares
pipelines (a trial of a sweep) needs them and must not import torch.
"""

from wsss.config.maps import Bits, CAMMaps, ExtractionWeight, ReCAMMaps
from wsss.config.seeds import SeedPictures, SeedQuality, SeedScore
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
    "Bits",
    "CAMMaps",
    "CAMTraining",
    "ExtractionWeight",
    "Precision",
    "ReCAMMaps",
    "ReCAMTraining",
    "Schedule",
    "SeedPictures",
    "SeedQuality",
    "SeedScore",
    "Training",
    "content_of",
]
