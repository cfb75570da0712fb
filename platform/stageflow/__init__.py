"""Experiment sweeps over pipelines of stages: each distinct stage runs exactly once."""
