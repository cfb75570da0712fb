"""The methods as chains of stages, from images to scored maps and labels.

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
    AdvCAM,
    AdvCAMMaps,
    AdvReCAMMaps,
    CAMMaps,
    ExtractionWeight,
    IRLabels,
    LabelPictures,
    LabelScore,
    ReCAMMaps,
    Response,
    SeedQuality,
    SeedScore,
    SFCClassMaps,
    SFCFusion,
    SFCLabels,
    SFCMaps,
    SFCWalk,
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
    """Score maps, and their threshold curve."""

    maps: Node
    quality: Node


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
    """Maps with their threshold curve on a split."""
    truth = stages.masks(setting.data, split or setting.score)
    return ScoredMaps(maps=maps, quality=stages.seed_quality(maps, truth, SeedQuality(bins=bins)))


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
    truth = stages.masks(setting.data, split or setting.score)
    return stages.label_score(labels, truth, _counted(setting, counted))


def label_pictures(setting: Setting, seeds: ScoredMaps, tail: Refined, split: str = "") -> Node:
    """Film strips of what each stage made of some images of a split."""
    truth = stages.masks(setting.data, split or setting.score)
    walked, config = tail.walked, LabelPictures(classes=setting.classes)
    return stages.label_pictures(
        truth, seeds.maps, seeds.quality, tail.labels, walked.maps, walked.quality, config
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
