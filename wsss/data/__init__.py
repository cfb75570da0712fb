"""Data sets with image-level labels, and what is done to an image before a network sees it."""

from wsss.data.samples import Samples, open_samples

__all__ = ["Samples", "open_samples"]
