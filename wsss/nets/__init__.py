"""Networks, and how their weights are kept."""

from wsss.nets.backbones import Backbone, backbone

__all__ = ["Backbone", "backbone"]
