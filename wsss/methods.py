"""The label-making methods as they are compared: how each is made, and where it is cut.

A method's seeds come from a map source, and the tail of IRN may refine them. Thresholds are those
of the method's own release, or of the release whose maps it draws on (SFC with response maps, which
nobody released, borrows ReCAM's). No mask of the data at hand chose them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from wsss import pipelines
from wsss.config import AdvCAM, IRLabels, Response, SFCFusion, SFCWalk, Walk
from wsss.data import open_samples
from wsss.pipelines import Refined, ScoredMaps
from wsss.recipes import Recipe
from wsss.setting import Setting


class Seeds(Protocol):
    """Scored maps of the images of a split, from a network of one random seed."""

    def __call__(self, setting: Setting, recipe: Recipe, seed: int, split: str) -> ScoredMaps:
        """Build the chain; nothing runs."""
        ...


class Tail(Protocol):
    """What the tail of IRN makes of them."""

    def __call__(
        self, setting: Setting, recipe: Recipe, seed: int, split: str, taught: str, shift: float
    ) -> Refined:
        """Build the chain; the images of `taught` teach the affinity network.

        `shift` is added to the thresholds of the labels, on the scale of the score maps.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One way to come from images to label maps."""

    name: str
    """On the board."""
    seeds: Seeds
    tail: Tail
    threshold: float
    """That cuts its seeds, on the scale of its score maps."""
    walk_threshold: float
    """That cuts its maps after the walk."""
    paper: str = ""
    """Whose published numbers it is held against, where they do not go by its own name."""
    unlike: tuple[str, ...] = ()
    """What keeps segmentations learned from its labels from being held against its paper's."""
    slow: bool = False
    """Whether it looks at an image again and again."""


def _ordinary(
    seeds: Seeds,
    labels: IRLabels,
    walk: Walk,
    setting: Setting,
    recipe: Recipe,
    seed: int,
    split: str,
    taught: str,
    shift: float,
) -> Refined:
    """The tail of IRN on plain score maps."""
    moved = replace(
        labels,
        threshold_fg=round(min(labels.threshold_fg + shift, 1.0), 6),
        threshold_bg=round(min(labels.threshold_bg + shift, 1.0), 6),
    )
    return pipelines.refined(
        setting,
        recipe,
        lambda part: seeds(setting, recipe, seed, part).maps,
        seed,
        split=split,
        taught=taught,
        labels=moved,
        walk=walk,
    )


def _sfc_tail(
    setting: Setting, recipe: Recipe, seed: int, split: str, taught: str, shift: float
) -> Refined:
    """SFC's own tail: its labels have a background that competes, which a shift strengthens."""
    labels = recipe.reading.labels
    moved = replace(labels, bias=round(labels.bias + (labels.gain + 1) * shift, 6))
    return pipelines.sfc_refined(setting, recipe, seed, split=split, taught=taught, labels=moved)


IRN_LABELS = IRLabels(threshold_fg=0.30, threshold_bg=0.05)
RECAM_LABELS = IRLabels()
ADVCAM_LABELS = IRLabels(threshold_fg=0.35, threshold_bg=0.15)
WALK, ADVCAM_WALK = Walk(), Walk(power=1.5)  # nobody pads here, so that walks are comparable

_cam_response = partial(pipelines.cam, response=Response())
_recam_response = partial(pipelines.recam, response=Response())
_sfc_response = partial(pipelines.sfc_response, response=Response())
_advcam = partial(pipelines.cam, climb=AdvCAM())
_advcam_recam = partial(pipelines.recam, climb=AdvCAM())

CAM = Method(
    name="CAM",
    seeds=pipelines.cam,
    tail=partial(_ordinary, pipelines.cam, IRN_LABELS, WALK),
    threshold=0.15,
    walk_threshold=0.25,
    paper="IRN",
)
RECAM = Method(
    name="ReCAM",
    seeds=pipelines.recam,
    tail=partial(_ordinary, pipelines.recam, RECAM_LABELS, WALK),
    threshold=0.21,
    walk_threshold=0.28,
)
SFC = Method(
    name="SFC",
    seeds=pipelines.sfc,
    tail=_sfc_tail,
    threshold=SFCFusion().threshold(0.4),
    walk_threshold=SFCWalk.plane_threshold(0.25),
)
CAM_RESPONSE = Method(
    name="CAM + response",
    seeds=_cam_response,
    tail=partial(_ordinary, _cam_response, IRN_LABELS, WALK),
    threshold=0.15,
    walk_threshold=0.25,
    paper="InferCam",
    unlike=("published with WideResNet-38, AffinityNet and saliency",),
    slow=True,
)
RECAM_RESPONSE = Method(
    name="ReCAM + response",
    seeds=_recam_response,
    tail=partial(_ordinary, _recam_response, RECAM_LABELS, WALK),
    threshold=0.21,
    walk_threshold=0.28,
    slow=True,
)
SFC_RESPONSE = Method(
    name="SFC + response",
    seeds=_sfc_response,
    tail=partial(_ordinary, _sfc_response, RECAM_LABELS, WALK),
    threshold=0.21,
    walk_threshold=0.28,
    slow=True,
)
ADVCAM = Method(
    name="AdvCAM",
    seeds=_advcam,
    tail=partial(_ordinary, _advcam, ADVCAM_LABELS, ADVCAM_WALK),
    threshold=0.25,  # in the middle of those that its release tries
    walk_threshold=0.25,
    unlike=("published with its own segmentation schedule",),
    slow=True,
)
RECAM_ADVCAM = Method(
    name="ReCAM + AdvCAM",
    seeds=_advcam_recam,
    tail=partial(_ordinary, _advcam_recam, ADVCAM_LABELS, ADVCAM_WALK),
    threshold=0.25,
    walk_threshold=0.25,
    slow=True,
)

METHODS = (
    *(CAM, RECAM, SFC, CAM_RESPONSE, RECAM_RESPONSE),
    *(SFC_RESPONSE, ADVCAM, RECAM_ADVCAM),
)
"""All of them."""


RARE_SEED = "rare classes, seed"
"""The task, on the board, of scoring seeds on `rare_classes` alone."""


def named(name: str, data: str = "") -> Method:
    """The method of this name as its release runs it on the data set at the location `data`.

    Raises ValueError, with all names, where there is none.
    """
    for method in METHODS:
        if method.name == name:
            return _on_coco(method) if data.partition(":")[0] == "coco2014" else method
    raise ValueError(f"method is {name!r}: choose from {', '.join(m.name for m in METHODS)}")


def rare_classes(setting: Setting) -> tuple[str, ...]:
    """The third of the learned classes with the fewest images, the rarest first."""
    learned = open_samples(setting.data, setting.train_split)
    counts = learned.labels.sum(0)
    there = sorted((int(counts[c]), name) for c, name in enumerate(learned.classes) if counts[c])
    return tuple(name for _, name in there[: max(len(there) // 3, 1)])


def _on_coco(method: Method) -> Method:
    """ReCAM's release cuts lower on COCO; that of SFC has no settings for it."""
    if (method.threshold, method.walk_threshold) == (RECAM.threshold, RECAM.walk_threshold):
        return replace(method, threshold=0.15, walk_threshold=0.25)
    if method == SFC:
        return replace(method, unlike=("published settings on COCO are unknown",))
    return method
