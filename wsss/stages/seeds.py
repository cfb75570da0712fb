"""Scores and pictures of score maps, as seeds and as what a walk made of them."""

from __future__ import annotations

from pathlib import Path

from stageflow.context import Context
from stageflow.stage import Metrics, Source, stage
from wsss.config import SeedPictures, SeedQuality, SeedScore
from wsss.stages.data import opened


@stage(version="1")
def seed_quality(context: Context, maps: Path, masks: Source, config: SeedQuality) -> None:
    """The confusion matrix of score maps at every threshold, in one pass."""
    from wsss.cam.scores import ScoreMaps
    from wsss.cam.seeds import seed_curve, write_curve

    samples = opened(masks)
    curve = seed_curve(ScoreMaps(maps), samples, config.bins, context.progress)
    write_curve(context.out / "curve.npz", curve, samples.classes)


@stage(version="1")
def seed_score(context: Context, quality: Path, config: SeedScore) -> Metrics:
    """One point of the curve: a look-up, so that a threshold costs no pass over images."""
    from wsss.cam.seeds import read_curve, seed_scores

    curve, names = read_curve(quality / "curve.npz")
    return seed_scores(curve, names, config)


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
    for name, png in draw(methods, opened(masks), config.classes, config.images):
        (context.out / name).write_bytes(png)
