"""Data sets: images, their image-level labels, and their masks where they have any."""

from wsss.data.samples import Samples, class_ids, open_samples

__all__ = ["Samples", "class_ids", "open_samples"]
