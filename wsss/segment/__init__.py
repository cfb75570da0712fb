"""Segmentation networks learned from label maps, and the label maps that they make."""
