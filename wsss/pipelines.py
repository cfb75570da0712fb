"""The methods as chains of stages, from images to scored maps, labels and segmentations.

Nothing runs here: the functions return nodes, and what two chains share is one node. Each takes
the setting of its experiment, the recipe for it, and a random seed; maps are extracted of the
images of a split, the scored one unless another is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from stageflow.stage import Node
from wsss import stages
from wsss.config import (
    AAMRTargets,
    AdvCAM,
    AdvCAMMaps,
    AdvReCAMMaps,
    BestPseudoLabels,
    CAMMaps,
    ExtractionWeight,
    IRLabels,
    LabelPictures,
    LabelScore,
    PseudoLabels,
    ReCAMMaps,
    Response,
    SeedQuality,
    SeedScore,
    Segmentation,
    SegmentationPictures,
    SFCClassMaps,
    SFCFusion,
    SFCLabels,
    SFCMaps,
    SFCWalk,
    VOCSubmission,
    Walk,
)
from wsss.data import class_ids, open_samples
from wsss.recipes import Recipe
from wsss.setting import Setting

SFC_BINS = 300
"""Of a curve over SFC's scores: the published bias and walk plane fall on one of its thresholds."""

Config = TypeVar("Config")
MapsOf = Callable[[str], Node]
"""A split to the score maps of its images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredMaps:
    """Score maps of the images of a split, and their threshold curve."""

    maps: Node
    data: str
    split: str
    bins: int

    @property
    def quality(self) -> Node:
        """The curve on the masks of these images; ValueError where one has none."""
        return self.quality_on(self.split)

    def quality_on(self, split: str) -> Node:
        """The curve on the masks of a split all of whose images have maps here."""
        truth = stages.masks(self.data, split)
        return stages.seed_quality(self.maps, truth, SeedQuality(bins=self.bins))


@dataclass(frozen=True, kw_only=True, slots=True)
class Refined:
    """What the tail of IRN makes of score maps."""

    labels: Node
    """What is sure after a CRF."""
    walked: ScoredMaps
    """The maps after the random walk."""


def classifier(setting: Setting, recipe: Recipe, seed: int) -> Node:
    """The CAM classifier, which ReCAM is trained on from."""
    return stages.train_cam(_learned(setting), replace(recipe.cam, seed=seed))


def recam_net(setting: Setting, recipe: Recipe, seed: int) -> Node:
    """ReCAM's network, trained on from the classifier of the same seed."""
    start = classifier(setting, recipe, seed)
    return stages.train_recam(_learned(setting), start, replace(recipe.recam, seed=seed))


def sfc_net(setting: Setting, recipe: Recipe, seed: int) -> Node:
    """SFC's network: of the last epoch, or of one that masks select if the recipe says so."""
    config, images = replace(recipe.sfc, seed=seed), _learned(setting)
    if config.select == "last":
        return stages.train_sfc(images, config)
    masks = stages.masks(setting.data, setting.train_split)
    return stages.train_selected_sfc(images, masks, config)


def cam(
    setting: Setting,
    recipe: Recipe,
    seed: int,
    split: str = "",
    response: Response | None = None,
    climb: AdvCAM | None = None,
) -> ScoredMaps:
    """Plain CAM; or response maps of it, AdvCAM with a `climb`, or both."""
    net, images = classifier(setting, recipe, seed), _shown(setting, split)
    if climb is None:
        maps = stages.cam_maps(images, net, _as(CAMMaps, recipe.maps, response=response))
    else:
        config = _as(AdvCAMMaps, recipe.maps, response=response, climb=climb)
        maps = stages.advcam_maps(images, net, config)
    return scored(setting, maps, split)


def recam(
    setting: Setting,
    recipe: Recipe,
    seed: int,
    split: str = "",
    response: Response | None = None,
    climb: AdvCAM | None = None,
    weight: ExtractionWeight | None = None,
) -> ScoredMaps:
    """ReCAM under one of its weights; or response maps of it, AdvCAM with a `climb`, or both."""
    net, images = recam_net(setting, recipe, seed), _shown(setting, split)
    given = {"response": response, "weight": weight or recipe.weight}
    if climb is None:
        maps = stages.recam_maps(images, net, _as(ReCAMMaps, recipe.maps, **given))
    else:
        config = _as(AdvReCAMMaps, recipe.maps, **given, climb=climb)
        maps = stages.advcam_recam_maps(images, net, config)
    return scored(setting, maps, split)


def sfc_maps(setting: Setting, recipe: Recipe, seed: int, split: str = "") -> Node:
    """SFC's two maps, as they are."""
    config = _as(SFCMaps, recipe.maps, bits=SFCMaps().bits, bg_factor=recipe.sfc.bg_factor)
    return stages.sfc_maps(_shown(setting, split), sfc_net(setting, recipe, seed), config)


def sfc(
    setting: Setting, recipe: Recipe, seed: int, split: str = "", fusion: SFCFusion | None = None
) -> ScoredMaps:
    """SFC's maps, mixed as the recipe says unless told otherwise."""
    raw = sfc_maps(setting, recipe, seed, split)
    plain = stages.sfc_scores(_shown(setting, split), raw, fusion or recipe.reading.seeds)
    return scored(setting, plain, split, SFC_BINS)


def sfc_response(
    setting: Setting, recipe: Recipe, seed: int, split: str, response: Response
) -> ScoredMaps:
    """Response maps of SFC's foreground."""
    config = _as(
        SFCClassMaps,
        recipe.maps,
        bg_factor=recipe.sfc.bg_factor,
        fusion=recipe.reading.seeds,
        response=response,
    )
    net = sfc_net(setting, recipe, seed)
    return scored(setting, stages.sfc_class_maps(_shown(setting, split), net, config), split)


def refined(
    setting: Setting,
    recipe: Recipe,
    maps: MapsOf,
    seed: int,
    *,
    split: str,
    taught: str,
    labels: IRLabels | None = None,
    walk: Walk | None = None,
) -> Refined:
    """The tail of IRN: the labels of `taught` teach an affinity network, the walk is on `split`."""
    config = labels or IRLabels()

    def sure(part: str) -> Node:
        return stages.ir_labels(_shown(setting, part), maps(part), config)

    net = _affinity(setting, recipe, sure(taught), taught, seed)
    going = replace(walk or Walk(), precision=recipe.irn.precision)
    walked = stages.walked_maps(_shown(setting, split), maps(split), net, going)
    return Refined(labels=sure(split), walked=scored(setting, walked, split))


def sfc_refined(
    setting: Setting,
    recipe: Recipe,
    seed: int,
    *,
    split: str,
    taught: str,
    labels: SFCLabels | None = None,
    walk: SFCWalk | None = None,
) -> Refined:
    """The tail of IRN as SFC's release runs it, on SFC's two maps."""
    config, going = labels or recipe.reading.labels, walk or recipe.reading.walk

    def sure(part: str) -> Node:
        raw = sfc_maps(setting, recipe, seed, part)
        return stages.sfc_ir_labels(_shown(setting, part), raw, config)

    net = _affinity(setting, recipe, sure(taught), taught, seed)
    going = replace(going, walk=replace(going.walk, precision=recipe.irn.precision))
    raw = sfc_maps(setting, recipe, seed, split)
    walked = stages.sfc_walked_maps(_shown(setting, split), raw, net, going)
    return Refined(labels=sure(split), walked=scored(setting, walked, split, SFC_BINS))


def _affinity(setting: Setting, recipe: Recipe, labels: Node, taught: str, seed: int) -> Node:
    """The affinity network; ValueError, before anything runs, where a batch cannot be filled."""
    images, config = len(open_samples(setting.data, taught)), replace(recipe.irn, seed=seed)
    if images < config.batch:
        raise ValueError(
            f"{taught} has {images} images, which fill no batch of {config.batch} for the affinity"
            " network: name a larger part"
        )
    return stages.train_irnet(_shown(setting, taught), labels, config)


def scored(
    setting: Setting, maps: Node, split: str = "", bins: int = SeedQuality().bins
) -> ScoredMaps:
    """Maps of the images of a split, with a threshold curve of so many bins."""
    _check_classes(setting, split or setting.score)
    return ScoredMaps(maps=maps, data=setting.data, split=split or setting.score, bins=bins)


def score(
    setting: Setting, quality: Node, threshold: float | None, counted: LabelScore | None = None
) -> Node:
    """One point of a curve; None: the best. Raises ValueError for an unknown class."""
    config = _as(SeedScore, _counted(setting, counted), threshold=threshold)
    return stages.seed_score(quality, config)


def label_score(
    setting: Setting, labels: Node, split: str = "", counted: LabelScore | None = None
) -> Node:
    """How label maps of a split agree with its masks."""
    part = split or setting.score
    _check_classes(setting, part)
    truth = stages.masks(setting.data, part)
    return stages.label_score(labels, truth, _counted(setting, counted))


def label_pictures(setting: Setting, seeds: ScoredMaps, tail: Refined, split: str = "") -> Node:
    """Film strips of what each stage made of some images of a split."""
    part, walked = split or setting.score, tail.walked
    curve, walked_curve = seeds.quality_on(part), walked.quality_on(part)
    config = LabelPictures(classes=setting.classes)
    return stages.label_pictures(
        stages.masks(setting.data, part),
        *(seeds.maps, curve, tail.labels, walked.maps, walked_curve),
        config,
    )


def pseudo_labels(
    setting: Setting, tail: Refined, threshold: float | None, curve: Node | None = None
) -> Node:
    """Label maps of the walked images at a threshold; None: at the best of a `curve`."""
    walked = tail.walked
    images = _shown(setting, walked.split)
    if threshold is not None:
        return stages.pseudo_labels(images, walked.maps, PseudoLabels(threshold=threshold))
    best = BestPseudoLabels(classes=setting.classes)
    return stages.best_pseudo_labels(images, walked.maps, curve or walked.quality, best)


def segmenter(
    setting: Setting,
    recipe: Recipe,
    labels: Node,
    seed: int,
    *,
    split: str,
    targets: Node | None = None,
    gpus: int = 1,
) -> Node:
    """A segmentation network on the label maps of `split`.

    `targets` are for the mask refinement loss, where the recipe gives it a weight. Raises
    ValueError, before anything runs, where a step cannot be filled or a batch not be shared.
    """
    images, config = _shown(setting, split), replace(recipe.segmentation, seed=seed)
    there, wanted = len(open_samples(setting.data, split)), config.batch * config.accumulation
    if there < wanted:
        raise ValueError(
            f"{split} has {there} images, which fill no step of {wanted} for the segmentation"
            " network: name a larger split"
        )
    if config.batch < gpus:
        raise ValueError(f"{gpus} GPUs cannot share a batch of {config.batch}: ask for fewer")
    if targets is None:
        return stages.train_segmenter.on(cpus=gpus, gpus=gpus)(images, labels, config)
    train = stages.train_refined_segmenter.on(cpus=gpus, gpus=gpus)
    return train(images, labels, targets, config)


def aamr_targets(
    setting: Setting, folder: str, maps: Node, split: str, config: AAMRTargets | None = None
) -> Node:
    """Where the mask refinement loss pulls to: from saliency in a `folder`, and score maps."""
    salient = stages.saliency(folder, setting.data, split)
    return stages.aamr_targets(_shown(setting, split), salient, maps, config or AAMRTargets())


def segmented(setting: Setting, net: Node, split: str, config: Segmentation) -> Node:
    """The label maps that a segmentation network makes of the images of a split."""
    return stages.segment(_shown(setting, split), net, config)


def segmentation_pictures(setting: Setting, labels: Node, split: str) -> Node:
    """Some of these label maps beside the truth."""
    truth = stages.masks(setting.data, split)
    return stages.segmentation_pictures(truth, labels, SegmentationPictures())


def voc_submission(setting: Setting, labels: Node, split: str) -> Node:
    """The label maps of a split in the archive that PASCAL VOC's test server takes."""
    return stages.voc_submission(_shown(setting, split), labels, VOCSubmission())


def _check_classes(setting: Setting, split: str) -> None:
    """Raise ValueError where a split numbers its classes otherwise than the learned one."""
    learned, other = (open_samples(setting.data, name) for name in (setting.train_split, split))
    if learned.classes != other.classes:
        raise ValueError(
            f"{setting.data}: the classes of {split} are not those of {setting.train_split}: give"
            " both the same list, so that an id means the same in both"
        )


def _counted(setting: Setting, counted: LabelScore | None) -> LabelScore:
    """Which classes count, checked while nothing runs yet."""
    found = replace(counted or LabelScore(), classes=setting.classes)
    known = open_samples(setting.data, setting.score).classes
    for names in (found.classes, found.tail, *found.pairs):
        class_ids(known, names)
    return found


def _learned(setting: Setting) -> Any:
    return stages.images(setting.data, setting.train_split)


def _shown(setting: Setting, split: str) -> Any:
    return stages.images(setting.data, split or setting.score)


def _as(kind: type[Config], base: Any, **given: Any) -> Config:
    """A configuration of a `kind` that adds fields to that of `base`, or replaces some."""
    return kind(**{f.name: getattr(base, f.name) for f in fields(base)} | given)
