"""The methods as chains of stages, up to scored seeds: what every experiment puts together.

Nothing runs here: the functions return nodes, and what two chains share is one node. Each takes
the setting of its experiment, the recipe for it, and a random seed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from stageflow.stage import Node
from wsss import stages
from wsss.config import ExtractionWeight, ReCAMMaps, SeedQuality, SeedScore
from wsss.data import class_ids, open_samples
from wsss.recipes import Recipe
from wsss.setting import Setting


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredMaps:
    """Score maps, and their threshold curve."""

    maps: Node
    quality: Node


def classifier(setting: Setting, recipe: Recipe, seed: int) -> Node:
    """The CAM classifier, which ReCAM is trained on from."""
    learned = stages.images(setting.data, setting.train_split)
    return stages.train_cam(learned, replace(recipe.cam, seed=seed))


def cam(setting: Setting, recipe: Recipe, seed: int) -> ScoredMaps:
    """Plain CAM."""
    images = stages.images(setting.data, setting.score)
    maps = stages.cam_maps(images, classifier(setting, recipe, seed), recipe.maps)
    return scored(setting, maps)


def recam(
    setting: Setting, recipe: Recipe, seed: int, weight: ExtractionWeight = "product"
) -> ScoredMaps:
    """ReCAM, trained on from the classifier of the same seed."""
    learned = stages.images(setting.data, setting.train_split)
    start, config = classifier(setting, recipe, seed), replace(recipe.recam, seed=seed)
    net = stages.train_recam(learned, start, config)
    images = stages.images(setting.data, setting.score)
    maps = stages.recam_maps(images, net, ReCAMMaps(**asdict(recipe.maps), weight=weight))
    return scored(setting, maps)


def scored(setting: Setting, maps: Node, bins: int = SeedQuality().bins) -> ScoredMaps:
    """Maps with their threshold curve on the scored split."""
    truth = stages.masks(setting.data, setting.score)
    return ScoredMaps(maps=maps, quality=stages.seed_quality(maps, truth, SeedQuality(bins=bins)))


def score(setting: Setting, quality: Node, threshold: float | None) -> Node:
    """One point of a curve; None: the best. Raises ValueError for an unknown class."""
    class_ids(open_samples(setting.data, setting.score).classes, setting.classes)
    return stages.seed_score(quality, SeedScore(threshold=threshold, classes=setting.classes))
