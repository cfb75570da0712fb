"""From score maps to pseudo labels: the CRF, the affinity network, and the random walk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stageflow.context import Context
from stageflow.stage import Metrics, Needs, Source, stage
from wsss.config import (
    IRLabels,
    IRNTraining,
    LabelPictures,
    LabelScore,
    SFCLabels,
    SFCWalk,
    Walk,
)
from wsss.stages.classify import TRAINING
from wsss.stages.data import first, mine, opened, settle_device

if TYPE_CHECKING:
    from wsss.refine.walk import Edges

WALKING = Needs(cpus=1, gpus=0.25)


@stage(version="1", sharded=True)
def ir_labels(context: Context, images: Source, maps: Path, config: IRLabels) -> None:
    """What score maps are sure of, after a CRF: labels for the training of an affinity network."""
    from wsss.cam.scores import ScoreMaps
    from wsss.data.label_maps import write_labels
    from wsss.labels import seed_ir_label

    samples = opened(images)
    scores = ScoreMaps(maps).of(samples.ids)
    found = (
        (samples.ids[i], seed_ir_label(samples.image(i), scores[i], config).numpy())
        for i in mine(context, len(samples))
    )
    write_labels(context.out, found)


@stage(version="1", sharded=True)
def sfc_ir_labels(context: Context, images: Source, maps: Path, config: SFCLabels) -> None:
    """The same of SFC's two maps, whose background competes."""
    from wsss.cam.scores import ScoreMaps
    from wsss.cam.sfc_labels import sfc_ir_label
    from wsss.data.label_maps import write_labels

    samples = opened(images)
    m, p = (ScoreMaps(maps / name).of(samples.ids) for name in ("classifier", "prototype"))
    found = (
        (samples.ids[i], sfc_ir_label(samples.image(i), m[i], p[i], config).numpy())
        for i in mine(context, len(samples))
    )
    write_labels(context.out, found)


@stage(version="1", needs=TRAINING, neutral=("workers", "weights_file"))
def train_irnet(context: Context, images: Source, labels: Path, config: IRNTraining) -> None:
    """The affinity network, on label maps that are sure of what they say."""
    from wsss.data.label_maps import Labels
    from wsss.refine.irnet import save_irnet
    from wsss.refine.irnet import train_irnet as train

    samples, known = opened(images), Labels(labels)
    known.check(samples.ids)
    settle_device(context)
    net = train(samples, lambda i: known[samples.ids[i]], config, context)
    save_irnet(net, context.out / "net.safetensors")


@stage(version="1", needs=WALKING, sharded=True)
def walked_maps(
    context: Context, images: Source, maps: Path, irnet: Path, config: Walk
) -> None:
    """Score maps after a random walk that stops at edges; their threshold curve comes free."""
    from wsss.cam.scores import ScoreMaps, write_scores
    from wsss.refine.walk import walked

    samples = opened(images)
    scores = ScoreMaps(maps).of(samples.ids)
    places = context.shard.of(range(len(samples)))
    edges = _edges(context, irnet, config)
    found = walked(
        samples, mine(context, len(samples)), (scores[i] for i in places), edges, config
    )
    write_scores(context.out, found, first=first(context, len(samples)), bits=config.bits)


@stage(version="1", needs=WALKING, sharded=True)
def sfc_walked_maps(
    context: Context, images: Source, maps: Path, irnet: Path, config: SFCWalk
) -> None:
    """SFC's two walks as plain score maps, see `wsss.cam.sfc_labels`."""
    from wsss.cam.scores import ScoreMaps, write_scores
    from wsss.cam.sfc_labels import sfc_walked
    from wsss.cam.sfc_maps import SFCScores

    samples = opened(images)
    m, p = (ScoreMaps(maps / name).of(samples.ids) for name in ("classifier", "prototype"))
    both = (SFCScores(m[i], p[i]) for i in context.shard.of(range(len(samples))))
    edges = _edges(context, irnet, config.walk)
    found = sfc_walked(samples, mine(context, len(samples)), both, edges, config)
    write_scores(context.out, found, first=first(context, len(samples)), bits=16)


def _edges(context: Context, irnet: Path, config: Walk) -> Edges:
    """What a trained affinity network takes for edges, computed where the stage may compute."""
    from wsss.refine.irnet import edge_source, load_irnet

    net = load_irnet(irnet / "net.safetensors").to(settle_device(context))
    return edge_source(net, config.pad, config.precision)


@stage(version="1")
def label_pictures(
    context: Context,
    masks: Source,
    maps: Path,
    quality: Path,
    labels: Path,
    walked: Path,
    walked_quality: Path,
    config: LabelPictures,
) -> None:
    """Film strips: an image, its seed, what is sure after the CRF, the walk, and the truth."""
    import torch

    from wsss.cam.scores import ScoreMaps
    from wsss.cam.seeds import best_threshold, read_curve
    from wsss.data.label_maps import Labels
    from wsss.refine.pictures import LabelOf, cut_at
    from wsss.refine.pictures import label_pictures as draw

    samples, known = opened(masks), Labels(labels)

    def best(scores: Path, curve: Path) -> LabelOf:
        at = best_threshold(*read_curve(curve / "curve.npz"), config.classes)
        return cut_at(ScoreMaps(scores).of(samples.ids), at)

    stages = (
        ("seed", best(maps, quality)),
        ("sure after the CRF", lambda i: torch.from_numpy(known[samples.ids[i]])),
        ("after the walk", best(walked, walked_quality)),
    )
    for name, png in draw(stages, samples, config.images):
        (context.out / name).write_bytes(png)


@stage(version="1")
def label_score(context: Context, labels: Path, masks: Source, config: LabelScore) -> Metrics:
    """How label maps agree with masks; what they leave open counts as background."""
    from wsss.cam.seeds import label_scores
    from wsss.data.label_maps import Labels
    from wsss.labels import label_confusion

    samples = opened(masks)
    confusion = label_confusion(Labels(labels), samples, context.progress)
    return label_scores(confusion, ("background", *samples.classes), config)
