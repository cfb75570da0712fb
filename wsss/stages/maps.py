"""Extraction of score maps from trained networks, each shard of images by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stageflow.context import Context
from stageflow.stage import Needs, Source, stage
from wsss.config import CAMMaps, ReCAMMaps
from wsss.stages.data import first, mine, opened, settle_device

if TYPE_CHECKING:
    from torch import Tensor

    from wsss.cam.classifier import CAMNet

EXTRACTION = Needs(cpus=1, gpus=0.5)


@stage(version="1", needs=EXTRACTION, sharded=True)
def cam_maps(context: Context, images: Source, cam: Path, config: CAMMaps) -> None:
    """Multi-scale score maps of the CAM classifier."""
    from wsss.cam.classifier import CAMNet, load_net

    net = load_net(cam / "net.safetensors", CAMNet)
    _write_maps(context, images, net, net.classifier.weight, config)


@stage(version="1", needs=EXTRACTION, sharded=True)
def recam_maps(context: Context, images: Source, recam: Path, config: ReCAMMaps) -> None:
    """Multi-scale score maps under one of ReCAM's extraction weights."""
    from wsss.cam.classifier import load_net
    from wsss.cam.recam import ReCAMNet, extraction_weight

    net = load_net(recam / "net.safetensors", ReCAMNet)
    _write_maps(context, images, net, extraction_weight(net, config.weight), config)


def _write_maps(
    context: Context, images: Source, net: CAMNet, weight: Tensor, config: CAMMaps
) -> None:
    """Score maps of this shard's images."""
    from wsss.cam.classifier import cam_source
    from wsss.cam.scores import extract, multiscale_planes, write_scores

    samples, device = opened(images), settle_device(context)
    net, weight = net.to(device), weight.to(device)
    source = cam_source(net, weight, config.precision)
    planes = multiscale_planes(source, net.views(config.scales))
    maps = extract(samples, mine(context, len(samples)), planes)
    write_scores(context.out, maps, first=first(context, len(samples)), bits=config.bits)
