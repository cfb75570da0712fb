"""Recipes: the training settings that suit a backbone and a data set, where the published do not.

The published settings are the defaults of `wsss.config`; they belong to a ResNet-50 with
ImageNet weights and to the 10,582 images of VOC's train_aug. A recipe is what was measured to work
elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from wsss.config import (
    DEEPLABV2_COCO,
    MULTI_SCALE,
    CAMTraining,
    Extraction,
    ExtractionWeight,
    IRNTraining,
    Precision,
    ReCAMTraining,
    Schedule,
    Segmentation,
    SegmentationTraining,
    SFCFusion,
    SFCLabels,
    SFCTraining,
    SFCWalk,
    Walk,
)

AnyTraining = TypeVar("AnyTraining", bound=Schedule)

FEW_IMAGES = 2000
"""Below this, training is counted in steps and not in passes over the data."""

COCO_BATCH = 6
"""Of ReCAM on COCO."""

PLAIN = Segmentation(crf=None)
MIRRORED = replace(PLAIN, flip=True, fusion="mean_logits")


@dataclass(frozen=True, kw_only=True, slots=True)
class SFCReading:
    """How SFC's two maps are mixed, for each of their uses."""

    seeds: SFCFusion = field(default_factory=SFCFusion)
    labels: SFCLabels = field(default_factory=SFCLabels)
    walk: SFCWalk = field(default_factory=SFCWalk)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of every training, and of the extraction of maps."""

    cam: CAMTraining
    recam: ReCAMTraining
    sfc: SFCTraining
    irn: IRNTraining
    maps: Extraction
    weight: ExtractionWeight = "product"
    """What ReCAM's maps are extracted with."""
    reading: SFCReading = field(default_factory=SFCReading)
    """How SFC's two maps are mixed."""
    segmentation: SegmentationTraining = field(default_factory=SegmentationTraining)
    readings: tuple[Segmentation, ...] = (PLAIN, MIRRORED, MULTI_SCALE, Segmentation())
    """How the segmentation network is read: each makes a row of its own."""
    tuned: str = ""
    """The data set whose training masks its settings were chosen with; "" for what papers say."""

    @property
    def trainings(self) -> tuple[CAMTraining, ReCAMTraining, SFCTraining, IRNTraining]:
        """All that is trained."""
        return self.cam, self.recam, self.sfc, self.irn

    def computed_in(self, precision: Precision) -> Recipe:
        """The recipe with the products of every backbone made in this precision."""
        return replace(
            self,
            cam=replace(self.cam, precision=precision),
            recam=replace(self.recam, precision=precision),
            sfc=replace(self.sfc, precision=precision),
            irn=replace(self.irn, precision=precision),
            maps=replace(self.maps, precision=precision),
            segmentation=replace(self.segmentation, precision=precision),
            readings=tuple(replace(found, precision=precision) for found in self.readings),
        )

    def starting_from(self, weights: str, file: str) -> Recipe:
        """The recipe with other initial weights of the backbone; they are named by content."""
        return replace(
            self,
            cam=replace(self.cam, weights=weights, weights_file=file),
            sfc=replace(self.sfc, weights=weights, weights_file=file),
            irn=replace(self.irn, weights=weights, weights_file=file),
        )


CLASSIFIER_ALONE = SFCReading(
    seeds=SFCFusion(classifier_weight=1.0, prototype_weight=0.0),
    labels=SFCLabels(classifier_weight=1.0, prototype_weight=0.0),
    walk=SFCWalk(classifier_weight=1.0, prototype_weight=0.0, walk=Walk()),
)
"""After few steps the prototypes guide the training, but are not worth mixing in."""

FEW_VIEWS = (PLAIN, MIRRORED, replace(MIRRORED, scales=(0.75, 1.0, 1.25)), Segmentation())
"""How small segmentation networks are read."""

SCENES = Recipe(
    cam=CAMTraining(
        backbone="tiny",
        weights="random",
        steps=700,
        epochs=7,
        momentum=0.9,
        crop=72,
        long_side=(56, 88),
    ),
    recam=ReCAMTraining(
        steps=200,
        epochs=4,
        momentum=0.9,
        crop=72,
        long_side=(56, 88),
        lr_backbone=3e-3,
        lr_head=0.1,
        lr_recam=3.0,
    ),
    sfc=SFCTraining(
        backbone="tiny",
        weights="random",
        steps=900,
        epochs=9,
        momentum=0.9,
        clip=None,
        crop=72,
        long_side=(56, 88),
        detach_after=None,
        warm_up=4,
    ),
    irn=IRNTraining(
        backbone="tiny",
        weights="random",
        steps=300,
        epochs=3,
        batch=16,
        momentum=0.9,
        crop=80,
        lr_backbone=0.02,
        lr_edge=0.02,
        lr_displacement=0.02,
    ),
    maps=Extraction(scales=(1.0,)),
    weight="w_prime",
    reading=CLASSIFIER_ALONE,
    segmentation=SegmentationTraining(
        backbone="tiny",
        weights="random",
        steps=400,
        epochs=4,
        batch=16,
        accumulation=1,
        crop=72,
        pyramid=(),
        lr=0.02,
        classifier_rate=1.0,
        bias_rate=2.0,
        stairs=1,
    ),
    readings=FEW_VIEWS,
    tuned="scenes",
)
"""For the built-in scenes: a tiny network from random weights, so with real momentum.

The published proportion is kept: a nearly frozen backbone and a fast second classifier. The class
feature is not divided by the area of its map, so with a fast backbone the softmax loss is answered
by maps that spill over the background. Measured, seeds 0, 1, 2 at the best threshold: CAM 40.9,
45.4, 38.4; the same steps with loss weight 0 41.1, 45.8, 38.7; with 1 (w_prime) 49.5, 52.3, 43.7.
"""

LITE0 = Recipe(
    cam=CAMTraining(
        backbone="efficientnet_lite0",
        steps=128,
        epochs=4,
        crop=256,
        long_side=(320, 400),
        lr_backbone=0.005,
        lr_head=3.0,
        detach_after=3,
    ),
    recam=ReCAMTraining(
        steps=48,
        epochs=4,
        crop=256,
        long_side=(320, 400),
        lr_backbone=0.001,
        lr_head=0.1,
        lr_recam=2.0,
        detach_after=3,
    ),
    sfc=SFCTraining(
        backbone="efficientnet_lite0",
        steps=128,
        epochs=4,
        crop=256,
        long_side=(320, 400),
        lr_backbone=0.005,
        lr_head=3.0,
        lr_sfc=0.1,
        p_weight=0.4,
        clip=None,
        detach_after=3,
    ),
    irn=IRNTraining(
        backbone="efficientnet_lite0",
        steps=96,
        epochs=3,
        batch=8,
        crop=256,
    ),
    maps=Extraction(scales=(1.0, 0.5)),
    reading=CLASSIFIER_ALONE,
    segmentation=SegmentationTraining(
        backbone="efficientnet_lite0",
        steps=120,
        epochs=3,
        batch=8,
        accumulation=1,
        crop=192,
        scales=(0.5, 0.75, 1.0),
        pyramid=(),
        lr=0.001,
        stairs=1,
    ),
    readings=FEW_VIEWS,
    tuned="voc2012",
)
"""For EfficientNet-Lite0 on a few hundred photographs, within minutes on two cores.

The gradient stops behind the third layer. The second classifier is fast: at the published rate it
is still random after 50 steps, and the product is CAM times noise. Scales above 1 cost most and are
left out; on half of the images of a first run all four scales were worth 1.7 points of mIoU more
for CAM and 4.8 for ReCAM. Segmentation learned from the true masks of 74 images: 44.2 on every
fifth image of val (background and five animals), and 9.5 with five times the rate.
"""


def recipe(data: str, backbone: str | None, images: int) -> Recipe:
    """The recipe for `images` training images of the data set at the location `data`.

    Without a `backbone`, scenes get the tiny one and photographs the published ResNet-50. Any pair
    for which nothing was measured gets the published settings, for as many passes over the data.
    """
    if data.partition(":")[0] == "scenes" and backbone in (None, "tiny"):
        return SCENES
    photographs = data.partition(":")[0] != "scenes"
    if photographs and backbone == LITE0.cam.backbone and images < FEW_IMAGES:
        return LITE0
    return usual(data, backbone or CAMTraining().backbone, images)


def hurried(found: Recipe) -> Recipe:
    """The recipe with half of its steps everywhere: enough to see a pipeline work."""
    return replace(
        found,
        cam=_half(found.cam),
        recam=_half(found.recam),
        sfc=_half(found.sfc),
        irn=_half(found.irn),
        segmentation=_half(found.segmentation),
    )


def _half(training: AnyTraining) -> AnyTraining:
    return replace(training, steps=max(training.epochs, training.steps // 2))


def usual(data: str, backbone: str, images: int) -> Recipe:
    """The published schedules, on COCO as ReCAM's release changes them; SFC's is unknown there."""
    found = published(backbone, images)
    if data.partition(":")[0] != "coco2014":
        return found
    steps = found.recam.epochs * max(1, images // COCO_BATCH)
    recam = replace(found.recam, batch=COCO_BATCH, steps=steps, loss_weight=0.1)
    return replace(found, recam=recam, weight="w", segmentation=DEEPLABV2_COCO)


def published(backbone: str, images: int) -> Recipe:
    """The published schedules on VOC: passes over the data, 5 for CAM, 4 ReCAM, 6 SFC, 3 IRN."""
    weights = "random" if backbone == SCENES.cam.backbone else "imagenet"
    cam, recam = CAMTraining(backbone=backbone, weights=weights), ReCAMTraining()
    sfc = SFCTraining(backbone=backbone, weights=weights)
    irn = IRNTraining(backbone=backbone, weights=weights)

    def passes(training: Schedule) -> int:
        return training.epochs * max(1, images // training.batch)

    return Recipe(
        cam=replace(cam, steps=passes(cam)),
        recam=replace(recam, steps=passes(recam)),
        sfc=replace(sfc, steps=passes(sfc)),
        irn=replace(irn, steps=passes(irn)),
        maps=Extraction(),
    )
