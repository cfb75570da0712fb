"""Training of classifiers on image-level labels."""

from __future__ import annotations

from pathlib import Path

from stageflow.context import Context
from stageflow.stage import Needs, Source, stage
from wsss.config import CAMTraining, ReCAMTraining, SFCTraining
from wsss.data import Samples
from wsss.stages.data import opened, settle_device

TRAINING = Needs(cpus=1, gpus=1)
NEUTRAL = ("workers", "probe")  # training fields that cannot change the weights


@stage(version="1", needs=TRAINING, neutral=(*NEUTRAL, "weights_file"))
def train_cam(context: Context, images: Source, config: CAMTraining) -> None:
    """The classifier whose class activation maps everything starts from."""
    from wsss.cam.classifier import save_net
    from wsss.cam.classifier import train_cam as train

    samples = opened(images)
    settle_device(context)
    net = train(samples, config, context, masks=samples if config.probe else None)
    save_net(net, context.out / "net.safetensors")


@stage(version="1", needs=TRAINING, neutral=NEUTRAL)
def train_recam(context: Context, images: Source, cam: Path, config: ReCAMTraining) -> None:
    """The classifier, trained on together with ReCAM's second one."""
    from wsss.cam.classifier import CAMNet, load_net, save_net
    from wsss.cam.recam import train_recam as train

    samples, start = opened(images), load_net(cam / "net.safetensors", CAMNet)
    settle_device(context)
    net = train(samples, start, config, context, masks=samples if config.probe else None)
    save_net(net, context.out / "net.safetensors")


@stage(version="1", needs=TRAINING, neutral=(*NEUTRAL, "weights_file"))
def train_sfc(context: Context, images: Source, config: SFCTraining) -> None:
    """SFC's network after the last epoch, from the initial weights of its backbone."""
    if config.select != "last":
        raise ValueError(f"select is {config.select!r}, which takes masks: use train_selected_sfc")
    samples = opened(images)
    _train_sfc(context, samples, config, samples if config.probe else None)


@stage(version="1", needs=TRAINING, neutral=("workers", "weights_file"))
def train_selected_sfc(
    context: Context, images: Source, masks: Source, config: SFCTraining
) -> None:
    """SFC's network after the epoch whose seeds agree best with pixel masks, as published."""
    _train_sfc(context, opened(images), config, opened(masks))


def _train_sfc(
    context: Context, samples: Samples, config: SFCTraining, masks: Samples | None
) -> None:
    from wsss.cam.classifier import save_net
    from wsss.cam.sfc_training import train_sfc as train

    settle_device(context)
    save_net(train(samples, config, context, masks=masks), context.out / "net.safetensors")
