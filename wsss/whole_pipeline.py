"""A whole pipeline, from images to a segmentation: its options, and what they come to.

Which recipe, which splits, and the chain of each method up to the network that learns its pseudo
labels. The leaderboards in `sweeps` put them on the board.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from stageflow.stage import Node
from wsss import pipelines
from wsss.config import (
    BRIEF_CRF,
    DEEPLABV3PLUS,
    UPERNET_SWIN,
    Segmentation,
    SegmentationTraining,
)
from wsss.config.checks import check_choice, check_least, check_rates
from wsss.data import open_samples
from wsss.methods import CAM, CAM_RESPONSE, METHODS, RECAM, SFC, Method, named
from wsss.pipelines import Refined
from wsss.recipes import FEW_IMAGES, LITE0, SCENES, Recipe, hurried
from wsss.setting import Setting, chosen, initial, option, shortened

USUAL = tuple(method.name for method in (CAM, RECAM, SFC, CAM_RESPONSE))
FEW = 40  # images of each split under a small budget
Budget = Literal["auto", "small", "published"]
Cut = Literal["fixed", "best"]
Pseudo = Literal["auto", "walk", "crf"]
Network = Literal["auto", "deeplabv2", "deeplabv3plus", "upernet"]
Loss = Literal["auto", "ce", "balanced"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Setting):
    """What a user may choose; "auto" stands for what suits the data and the budget."""

    score: str = option("split whose masks score the maps; auto: train, or all own images", "auto")
    seeds: int = option("random seeds behind each row; 0: 3, and 1 under a small budget", 0)
    methods: tuple[str, ...] = option(
        f"of {', '.join(method.name for method in METHODS)}", USUAL
    )
    budget: Budget = option("auto, small (two cores, half an hour) or published", "auto")
    images: int = option(
        "most images of a split that are refined, learned as labels, or scored; 0: all; -1: all, "
        f"and {FEW} under a small budget",
        -1,
    )
    labelled: str = option(
        "split that gets pseudo labels, which the segmentation learns, whole; auto: all that is "
        "learned, or as many images as are wanted",
        "auto",
    )
    val: str = option("split that the segmentation network is scored on", "auto")
    shift: float = option("added to the thresholds of the labels that the CRF refines", 0.0)
    cut: Cut = option("pseudo labels at the fixed threshold of the release, or the best", "fixed")
    pseudo: Pseudo = option("labels to learn: walk, crf; auto: crf for SFC on COCO", "auto")
    network: Network = option("auto, deeplabv2, deeplabv3plus, upernet", "auto")
    network_backbone: str = option("of the segmentation network", "auto")
    network_weights: str = option(
        "of it at the start: imagenet (downloaded, but for efficientnet_lite0), random, or a file",
        "auto",
    )
    loss: Loss = option("of the segmentation network: auto, ce, balanced", "auto")
    gpus: int = option("GPUs that one training of a segmentation network runs on", 1)
    saliency: str = option("folder of saliency maps for the mask refinement loss", "")
    aamr: float = option("weight of that loss, 0.1 to 1; with --saliency", 0.0)
    test: bool = option("whether to pack segmentations for VOC's test server", False)
    steps: int = option("training steps of every network; 0: what suits the data", 0)

    def __post_init__(self) -> None:
        check_least(0, seeds=self.seeds, steps=self.steps)
        check_least(-1, images=self.images)
        check_least(1, gpus=self.gpus)
        check_rates(aamr=self.aamr)
        for field, kind in (("budget", Budget), ("cut", Cut), ("pseudo", Pseudo)):
            check_choice(field, getattr(self, field), kind)
        check_choice("network", self.network, Network)
        check_choice("loss", self.loss, Loss)
        for name in self.methods:
            named(name)
        if bool(self.saliency) != bool(self.aamr):
            given = f"saliency is {self.saliency!r} and aamr {self.aamr}"
            raise ValueError(f"{given}: the mask refinement loss takes both, a folder and a weight")
        if self.test and not self.on("voc2012"):
            raise ValueError("test is yes: only VOC has a test server, give --data voc2012:PATH")
        self._pin("data", "saliency")

    def on(self, kind: str) -> bool:
        """Whether the data set is of this kind."""
        return self.kind == kind

    @property
    def small(self) -> bool:
        """Whether the budget is small."""
        return self.budget == "small" or (self.budget == "auto" and self.learned < FEW_IMAGES)


@dataclass(frozen=True, kw_only=True)
class WholePipeline:
    """What the options come to: the recipe, the splits, and the chains of each method."""

    options: Options

    @property
    def randoms(self) -> range:
        """The random seeds."""
        return range(self.options.seeds or (1 if self.options.small else 3))

    @property
    def shifted(self) -> bool:
        """Whether thresholds were moved: whoever does that has seen how good the seeds are."""
        return bool(self.options.shift)

    @cached_property
    def setting(self) -> Options:
        """The options with what they leave open: a small classifier for a small budget, say."""
        given = self.options
        small = given.small and not given.on_scenes and given.backbone == "auto"
        backbone = LITE0.cam.backbone if small else given.backbone
        return replace(given, backbone=backbone, score=self.scored)

    @cached_property
    def recipe(self) -> Recipe:
        """Of the setting, with the segmentation network and the steps that the user wants."""
        given = self.options
        found = chosen(self.setting, few=given.small)
        if given.small:  # whatever the classifier, the segmentation network is small
            like = (SCENES if given.on_scenes else LITE0).computed_in(given.precision)
            found = replace(found, segmentation=like.segmentation, readings=like.readings)
            found = hurried(found)
        found = replace(
            found,
            segmentation=self._network(found.segmentation),
            readings=self._readings(found.readings),
        )
        return replace(
            found,
            cam=shortened(found.cam, given.steps),
            recam=shortened(found.recam, given.steps),
            sfc=shortened(found.sfc, given.steps),
            irn=shortened(found.irn, given.steps),
            segmentation=shortened(found.segmentation, given.steps),
        )

    def _network(self, usual: SegmentationTraining) -> SegmentationTraining:
        given = self.options
        kinds = {"deeplabv3plus": DEEPLABV3PLUS, "upernet": UPERNET_SWIN}
        found = replace(kinds.get(given.network, usual), precision=given.precision)
        if given.small and given.network in kinds:  # its own rates, on what the budget allows
            same = ("steps", "epochs", "batch", "accumulation", "crop", "scales")
            allowed = {name: getattr(usual, name) for name in same}
            found = replace(found, **allowed, warm_up=0, backbone=LITE0.segmentation.backbone)
        if given.network_backbone != "auto":
            found = replace(found, backbone=given.network_backbone)
        if given.network_weights != "auto":
            weights, file = initial(given.network_weights)
            found = replace(found, weights=weights, weights_file=file)
        if given.loss != "auto":
            found = replace(found, loss=given.loss)
        return replace(found, aamr_weight=given.aamr if given.saliency else 0.0)

    def _readings(self, usual: tuple[Segmentation, ...]) -> tuple[Segmentation, ...]:
        """DeepLabV3+ and UPerNet end in a weaker CRF, in the codebase that has them."""
        if self.options.network not in ("deeplabv3plus", "upernet"):
            return usual
        return tuple(replace(found, crf=found.crf and BRIEF_CRF) for found in usual)

    @cached_property
    def scored(self) -> str:
        """The split whose masks score seeds and pseudo labels."""
        usual = "all" if self.options.on("images") else "train"
        return self._part(usual if self.options.score == "auto" else self.options.score)

    @cached_property
    def labelled(self) -> str:
        """The split that gets pseudo labels: all that is learned, unless only a part is wanted."""
        if self.options.labelled != "auto":
            return self.options.labelled
        return self.scored if self._most else self.options.train_split

    @cached_property
    def val(self) -> str:
        """The split that the segmentation is scored on."""
        usual = "all" if self.options.on("images") else "val"
        return self._part(usual if self.options.val == "auto" else self.options.val)

    @property
    def _most(self) -> int:
        usual = FEW if self.options.small else 0
        return usual if self.options.images < 0 else self.options.images

    def _part(self, split: str) -> str:
        """So much of a split as is wanted, spread over it; a part that the user names is left."""
        images = len(open_samples(self.options.data, split))
        step = -(-images // self._most) if self._most else 1
        return f"{split}[::{step}]" if step > 1 and not split.endswith("]") else split

    def has_masks(self, split: str) -> bool:
        """Whether a split can score."""
        return open_samples(self.options.data, split).has_masks

    @cached_property
    def methods(self) -> list[Method]:
        """Those that are wanted, as their releases run them on the data."""
        return [named(name, self.options.data) for name in self.options.methods]

    @cached_property
    def mapped(self) -> str:
        """The split whose maps are scored: the labelled one if it holds all that is scored."""
        scored, labelled = (
            open_samples(self.options.data, split).ids for split in (self.scored, self.labelled)
        )
        return self.labelled if set(scored) <= set(labelled) else self.scored

    def tail(self, method: Method, seed: int, split: str) -> Refined:
        """The labels and walked maps of a split; what is labelled teaches the affinity network."""
        return method.tail(
            self.setting, self.recipe, seed, split, self.labelled, self.options.shift
        )

    def of_crf(self, method: Method) -> bool:
        """Whether its pseudo labels are those that the CRF is sure of, as SFC's are on COCO."""
        if self.options.pseudo == "auto":
            return method.name == SFC.name and self.options.on("coco2014")
        return self.options.pseudo == "crf"

    def cut_by_masks(self, method: Method) -> bool:
        """Whether masks chose the threshold of its pseudo labels."""
        return self.options.cut == "best" and not self.of_crf(method)

    @cached_property
    def partly(self) -> bool:
        """Whether the segmentation network learns other images than the classifier."""
        return self.labelled != self.options.train_split

    @cached_property
    def overlapping(self) -> bool:
        """Whether the segmentation is scored on images that it learned from."""
        pairs = (self.labelled, self.val)
        learned, scored = (set(open_samples(self.options.data, split).ids) for split in pairs)
        return bool(learned & scored)

    def pseudo_labels(self, method: Method, seed: int) -> Node:
        """What its segmentation network learns."""
        tail = self.tail(method, seed, self.labelled)
        if self.of_crf(method):
            return tail.labels
        if not self.cut_by_masks(method):
            return pipelines.pseudo_labels(self.setting, tail, method.walk_threshold)
        curve = self.tail(method, seed, self.mapped).walked.quality_on(self.scored)
        return pipelines.pseudo_labels(self.setting, tail, None, curve)

    def segmentation(self, method: Method, seed: int, split: str, reading: Segmentation) -> Node:
        """The label maps of a split by the network that learned its pseudo labels."""
        targets = None
        if self.options.saliency:
            maps = method.seeds(self.setting, self.recipe, seed, self.labelled).maps
            folder = self.options.saliency
            targets = pipelines.aamr_targets(self.setting, folder, maps, self.labelled)
        net = pipelines.segmenter(
            self.setting,
            self.recipe,
            self.pseudo_labels(method, seed),
            seed,
            split=self.labelled,
            targets=targets,
            gpus=self.options.gpus,
        )
        return pipelines.segmented(self.setting, net, split, reading)

    def selected(self, method: Method) -> bool:
        """Whether masks chose the network behind its maps."""
        return method.name == SFC.name and self.recipe.sfc.select != "last"
