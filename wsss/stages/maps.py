"""Extraction of score maps from trained networks, each shard of images by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stageflow.context import Context
from stageflow.stage import Needs, Source, stage
from wsss.config import (
    AdvCAMMaps,
    AdvReCAMMaps,
    Bits,
    CAMMaps,
    ReCAMMaps,
    Response,
    SFCClassMaps,
    SFCFusion,
    SFCMaps,
)
from wsss.stages.data import first, mine, opened, settle_device

if TYPE_CHECKING:
    from torch import Tensor

    from wsss.cam.classifier import CAMNet
    from wsss.cam.scores import MapSource, Planes, Views

EXTRACTION = Needs(cpus=1, gpus=0.5)


@stage(version="1", needs=EXTRACTION, sharded=True)
def cam_maps(context: Context, images: Source, cam: Path, config: CAMMaps) -> None:
    """Multi-scale score maps of the CAM classifier."""
    from wsss.cam.classifier import CAMNet, cam_source, load_net

    net = load_net(cam / "net.safetensors", CAMNet).to(settle_device(context))
    source = cam_source(net, net.classifier.weight, config.precision)
    _write(context, images, _planes(source, net.views(config.scales), config.response), config.bits)


@stage(version="1", needs=EXTRACTION, sharded=True)
def recam_maps(context: Context, images: Source, recam: Path, config: ReCAMMaps) -> None:
    """Multi-scale score maps under one of ReCAM's extraction weights."""
    from wsss.cam.classifier import cam_source, load_net
    from wsss.cam.recam import ReCAMNet, extraction_weight

    net = load_net(recam / "net.safetensors", ReCAMNet).to(settle_device(context))
    source = cam_source(net, extraction_weight(net, config.weight), config.precision)
    _write(context, images, _planes(source, net.views(config.scales), config.response), config.bits)


@stage(version="1", needs=EXTRACTION, sharded=True)
def advcam_maps(context: Context, images: Source, cam: Path, config: AdvCAMMaps) -> None:
    """Score maps of the CAM classifier on adversarially climbed images."""
    from wsss.cam.classifier import CAMNet, load_net

    net = load_net(cam / "net.safetensors", CAMNet).to(settle_device(context))
    _write(context, images, _climbed(net, net.classifier.weight, config), config.bits)


@stage(version="1", needs=EXTRACTION, sharded=True)
def advcam_recam_maps(context: Context, images: Source, recam: Path, config: AdvReCAMMaps) -> None:
    """Score maps under one of ReCAM's weights on adversarially climbed images."""
    from wsss.cam.classifier import load_net
    from wsss.cam.recam import ReCAMNet, extraction_weight

    net = load_net(recam / "net.safetensors", ReCAMNet).to(settle_device(context))
    planes = _climbed(net, extraction_weight(net, config.weight), config)
    _write(context, images, planes, config.bits)


@stage(version="1", needs=EXTRACTION, sharded=True)
def sfc_maps(context: Context, images: Source, sfc: Path, config: SFCMaps) -> None:
    """SFC's classifier and prototype maps, each with its background, not shifted."""
    from wsss.cam.classifier import load_net
    from wsss.cam.sfc import SFCNet
    from wsss.cam.sfc_maps import extract_sfc, write_sfc

    samples = opened(images)
    net = load_net(sfc / "net.safetensors", SFCNet).to(settle_device(context))
    maps = extract_sfc(samples, mine(context, len(samples)), net, config)
    write_sfc(context.out, maps, first=first(context, len(samples)), config=config)


@stage(version="1", sharded=True)
def sfc_scores(context: Context, images: Source, maps: Path, config: SFCFusion) -> None:
    """SFC's two maps as plain score maps, in which a background bias is a threshold."""
    from wsss.cam.scores import ScoreMaps, write_scores
    from wsss.cam.sfc_maps import plain_scores

    samples = opened(images)
    m, p = (ScoreMaps(maps / name).of(samples.ids) for name in ("classifier", "prototype"))
    plain = (plain_scores(m[i], p[i], config) for i in mine(context, len(samples)))
    write_scores(context.out, plain, first=first(context, len(samples)), bits=16)


@stage(version="1", needs=EXTRACTION, sharded=True)
def sfc_class_maps(context: Context, images: Source, sfc: Path, config: SFCClassMaps) -> None:
    """SFC's foreground maps alone, as any classifier's: what response maps can be drawn from."""
    from wsss.cam.classifier import load_net
    from wsss.cam.sfc import SFCNet
    from wsss.cam.sfc_maps import sfc_source

    net = load_net(sfc / "net.safetensors", SFCNet).to(settle_device(context))
    source = sfc_source(net, config, config.fusion)
    _write(context, images, _planes(source, net.views(config.scales), config.response), config.bits)


def _planes(source: MapSource, views: Views, response: Response | None) -> Planes:
    """What a source shows at several scales, or what response maps draw out of it."""
    from wsss.cam.response import response_planes
    from wsss.cam.scores import multiscale_planes

    if response is None:
        return multiscale_planes(source, views)
    return response_planes(source, views, response)


def _climbed(net: CAMNet, weight: Tensor, config: AdvCAMMaps | AdvReCAMMaps) -> Planes:
    """What a network shows of climbed images; response maps are drawn out of one long climb."""
    from wsss.cam.advcam import advcam_planes, advcam_source

    views = net.views(config.scales)
    if config.response is None:
        return advcam_planes(net, weight, config.climb, views, config.precision)
    source = advcam_source(net, weight, config.climb, precision=config.precision)
    return _planes(source, views, config.response)


def _write(context: Context, images: Source, planes: Planes, bits: Bits) -> None:
    """Score maps of this shard's images."""
    from wsss.cam.scores import extract, write_scores

    samples = opened(images)
    maps = extract(samples, mine(context, len(samples)), planes)
    write_scores(context.out, maps, first=first(context, len(samples)), bits=bits)
