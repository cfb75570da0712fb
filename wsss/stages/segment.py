"""From pseudo labels to a segmentation network, and what it makes of images.

A CRF at test runs where the network runs, image by image: what it needs, the probabilities of all
classes at full size, would fill disks.
"""

from __future__ import annotations

from pathlib import Path

from stageflow.context import Context
from stageflow.stage import Metrics, Source, stage
from wsss.config import (
    AAMRTargets,
    BestPseudoLabels,
    PseudoLabels,
    Segmentation,
    SegmentationPictures,
    SegmentationTraining,
    VOCSubmission,
)
from wsss.stages.classify import NEUTRAL, TRAINING
from wsss.stages.data import mine, opened, opened_saliency, settle_device
from wsss.stages.maps import EXTRACTION

LEARNING = (*NEUTRAL, "weights_file", "compile")


@stage(version="1", sharded=True)
def pseudo_labels(context: Context, images: Source, maps: Path, config: PseudoLabels) -> None:
    """Label maps cut from score maps, as palette PNGs: what a segmentation network learns."""
    _cut(context, images, maps, config)


@stage(version="1", sharded=True)
def best_pseudo_labels(
    context: Context, images: Source, maps: Path, quality: Path, config: BestPseudoLabels
) -> None:
    """The same at the best threshold of a curve, which was found with masks."""
    from wsss.cam.seeds import best_threshold, read_curve

    best = best_threshold(*read_curve(quality / "curve.npz"), config.classes)
    _cut(context, images, maps, PseudoLabels(threshold=best))


def _cut(context: Context, images: Source, maps: Path, config: PseudoLabels) -> None:
    from wsss.cam.scores import ScoreMaps
    from wsss.data.label_maps import write_labels
    from wsss.labels import pseudo_label

    samples = opened(images)
    scores = ScoreMaps(maps).of(samples.ids)
    places = mine(context, len(samples))
    found = ((samples.ids[i], pseudo_label(scores[i], config).numpy()) for i in places)
    write_labels(context.out, found)


@stage(version="1", sharded=True)
def aamr_targets(
    context: Context, images: Source, saliency: Source, maps: Path, config: AAMRTargets
) -> None:
    """Where the mask refinement loss pulls to, from saliency and score maps; our own proposal."""
    from wsss.cam.scores import ScoreMaps
    from wsss.data.label_maps import write_labels
    from wsss.segment.aamr import aamr_targets as targets

    samples = opened(images)
    salient = opened_saliency(saliency, samples.ids)
    scores = ScoreMaps(maps).of(samples.ids)
    shown = (scores[i] for i in mine(context, len(samples)))
    write_labels(context.out, targets(salient, shown, config))


@stage(version="1", needs=TRAINING, neutral=LEARNING)
def train_segmenter(
    context: Context, images: Source, labels: Path, config: SegmentationTraining
) -> None:
    """A segmentation network on label maps."""
    _train(context, images, labels, None, config)


@stage(version="1", needs=TRAINING, neutral=LEARNING)
def train_refined_segmenter(
    context: Context, images: Source, labels: Path, targets: Path, config: SegmentationTraining
) -> None:
    """The same with the mask refinement loss."""
    _train(context, images, labels, targets, config)


def _train(
    context: Context,
    images: Source,
    labels: Path,
    targets: Path | None,
    config: SegmentationTraining,
) -> None:
    from wsss.data.label_maps import Labels
    from wsss.nets.segmenters import save_segmenter
    from wsss.segment.training import train_segmenter as train

    samples = opened(images)
    planes = [Labels(folder) for folder in (labels, targets) if folder is not None]
    for plane in planes:
        plane.check(samples.ids)
    label_of, *target_of = ((lambda i, of=plane: of[samples.ids[i]]) for plane in planes)
    settle_device(context)
    net = train(
        samples,
        label_of,
        config,
        context,
        targets=target_of[0] if target_of else None,
        masks=samples if config.probe else None,
    )
    save_segmenter(net, context.out / "net.safetensors")


@stage(version="1", needs=EXTRACTION, sharded=True)
def segment(context: Context, images: Source, net: Path, config: Segmentation) -> None:
    """The label maps that a segmentation network makes, as palette PNGs."""
    from wsss.data.label_maps import write_labels
    from wsss.nets.segmenters import load_segmenter
    from wsss.segment.inference import segment_images

    samples = opened(images)
    network = load_segmenter(net / "net.safetensors").to(settle_device(context))
    found = segment_images(network, samples, mine(context, len(samples)), config)
    write_labels(context.out, found)


@stage(version="1")
def segmentation_pictures(
    context: Context, masks: Source, labels: Path, config: SegmentationPictures
) -> None:
    """Images of a split with their label maps beside the truth."""
    import torch

    from wsss.data.label_maps import Labels
    from wsss.refine.pictures import label_pictures as draw

    samples, known = opened(masks), Labels(labels)
    found = (("segmentation", lambda i: torch.from_numpy(known[samples.ids[i]])),)
    for name, png in draw(found, samples, config.images):
        (context.out / name).write_bytes(png)


@stage(version="1")
def voc_submission(
    context: Context, images: Source, labels: Path, config: VOCSubmission
) -> Metrics:
    """The archive that PASCAL VOC's test server takes, read back and checked."""
    from wsss.data.label_maps import Labels
    from wsss.voc_submission import check_submission, write_submission

    samples = opened(images)
    path = context.out / f"results{'.tar.gz' if config.compress else '.tar'}"
    write_submission(path, Labels(labels), samples.ids)
    sizes = {}
    for i, name in enumerate(samples.ids):
        height, width = samples.image(i).shape[:2]
        sizes[name] = (height, width)
        context.progress(i + 1, len(samples))
    check_submission(path, sizes)
    return {"images": len(samples)}
