"""The stages: the science as nodes of a pipeline. The one file here that knows the platform.

Nothing in it imports torch when it is imported, so that a process which only declares pipelines
stays light; each stage imports what it runs when it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stageflow.context import Context
from stageflow.stage import Metrics, Needs, Source, stage
from wsss.config import (
    CAMMaps,
    CAMTraining,
    ReCAMMaps,
    ReCAMTraining,
    SeedPictures,
    SeedQuality,
    SeedScore,
)
from wsss.data import Samples, open_samples

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from wsss.cam.classifier import CAMNet

TRAINING = Needs(cpus=1, gpus=1)
EXTRACTION = Needs(cpus=1, gpus=0.5)
NEUTRAL = ("workers", "probe", "weights_file")  # training fields that cannot change the weights


def images(location: str, split: str) -> Source:
    """The images of a split with their image-level labels; their masks are no part of the key."""
    identity = open_samples(location, split).identity()
    return Source(
        "images", f"{split}@{location}", {k: v for k, v in identity.items() if k != "masks"}
    )


def masks(location: str, split: str) -> Source:
    """A split with its masks. Raises ValueError where an image has none."""
    samples = open_samples(location, split)
    if not samples.has_masks:
        raise ValueError(
            f"{location}: an image of {split} has no mask, so it cannot score anything"
        )
    return Source("masks", f"{split}@{location}", samples.identity())


@stage(version="1", needs=TRAINING, neutral=NEUTRAL)
def train_cam(context: Context, images: Source, config: CAMTraining) -> None:
    """The classifier whose class activation maps everything starts from."""
    from wsss.cam.classifier import save_net
    from wsss.cam.classifier import train_cam as train

    samples = _opened(images)
    _settle_device(context)
    net = train(samples, config, context, masks=samples if config.probe else None)
    save_net(net, context.out / "net.safetensors")


@stage(version="1", needs=TRAINING, neutral=("workers", "probe"))
def train_recam(context: Context, images: Source, cam: Path, config: ReCAMTraining) -> None:
    """The classifier, trained on together with ReCAM's second one."""
    from wsss.cam.classifier import CAMNet, load_net, save_net
    from wsss.cam.recam import train_recam as train

    samples, start = _opened(images), load_net(cam / "net.safetensors", CAMNet)
    _settle_device(context)
    net = train(samples, start, config, context, masks=samples if config.probe else None)
    save_net(net, context.out / "net.safetensors")


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


@stage(version="1")
def seed_quality(context: Context, maps: Path, masks: Source, config: SeedQuality) -> None:
    """The confusion matrix of score maps at every threshold, in one pass."""
    from wsss.cam.scores import ScoreMaps
    from wsss.cam.seeds import seed_curve, write_curve

    samples = _opened(masks)
    curve = seed_curve(ScoreMaps(maps), samples, config.bins, context.progress)
    write_curve(context.out / "curve.npz", curve, samples.classes)


@stage(version="1")
def seed_score(context: Context, quality: Path, config: SeedScore) -> Metrics:
    """One point of the curve: a look-up, so that a threshold costs no pass over images."""
    from wsss.cam.seeds import read_curve, seed_scores

    curve, names = read_curve(quality / "curve.npz")
    return seed_scores(curve, names, config.threshold, config.classes)


@stage(version="1")
def seed_pictures(
    context: Context,
    masks: Source,
    plain_maps: Path,
    plain_quality: Path,
    maps: Path,
    quality: Path,
    config: SeedPictures,
) -> None:
    """Threshold curves, overlays with contours, IoU of each class, and what is taken for what."""
    from wsss.cam.pictures import Drawn
    from wsss.cam.pictures import seed_pictures as draw
    from wsss.cam.scores import ScoreMaps
    from wsss.cam.seeds import read_curve

    folders = ((plain_maps, plain_quality), (maps, quality))
    methods = [
        Drawn(name=name, maps=ScoreMaps(scores), curve=read_curve(curve / "curve.npz")[0])
        for name, (scores, curve) in zip(config.names, folders, strict=True)
    ]
    for name, png in draw(methods, _opened(masks), config.classes, config.images):
        (context.out / name).write_bytes(png)


def _opened(source: Source) -> Samples:
    """The split behind a source. ValueError if it is not what was planned with."""
    split, _, location = source.location.partition("@")
    samples = open_samples(location, split)
    here = samples.identity()
    for name, value in source.identity.items():
        if here[name] != value:
            raise ValueError(f"{location} is not what was planned with: {name} of {split} differs")
    return samples


def _settle_device(context: Context) -> torch.device:
    """The device to compute on, which the manifest names and accounts for."""
    from wsss.training import chosen_device

    device = chosen_device(context.device)
    context.device = str(device)
    return device


def _write_maps(
    context: Context, images: Source, net: CAMNet, weight: Tensor, config: CAMMaps
) -> None:
    """Score maps of this shard's images."""
    from wsss.cam.classifier import cam_source
    from wsss.cam.scores import extract, write_scores

    samples, device = _opened(images), _settle_device(context)
    mine = context.shard.of(range(len(samples)))
    net, weight = net.to(device), weight.to(device)

    def counted() -> Iterator[int]:
        for done, i in enumerate(mine):
            context.progress(done, len(mine))
            yield i

    maps = extract(
        samples,
        counted(),
        cam_source(net, weight, config.precision),
        scales=config.scales,
        mean=net.backbone.mean,
        std=net.backbone.std,
        stride=net.backbone.stride,
        device=device,
    )
    write_scores(context.out, maps, first=mine[0] if mine else 0, bits=config.bits)
