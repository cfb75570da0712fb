"""Weakly-supervised semantic segmentation: data, networks, methods, metrics and stages."""
