"""SFC: shared feature calibration.

Xinqiao Zhao, Feilong Tang, Xiaoyang Wang, Jimin Xiao: SFC: Shared Feature Calibration in Weakly
Supervised Semantic Segmentation, AAAI 2024, arXiv 2401.11719.

In a long-tailed data set, classifier weights of frequent classes take up the features that they
share with rare ones. A prototype, the mean feature of a class within one image, is free of that; so
maps of the classifier are pulled towards maps of prototypes, most for the classes whose counts
differ most from the others'. With C classes, the outputs x1..x4 of the layers, the image I, the
mask V of valid pixels and the label y (V_0 = V, V_c = V y_c):

    z   = mean_hw W * x4                                     logits
    a_c = ReLU(W_c * x4) / (max + 1e-5)                      for all classes
    A   = [1 - max_c a_c, a] V                               background first
    f   = unit(f9 * [I, x4])                                 unit(v) = v / (|v| + 1e-5)
    S   = ReLU(f^T f), each column / (sum + 1e-5)            between the hw cells of an image
    M   = A S S                                              the classifier's map
    H   = [unit(side_i * x_i) for i = 1..4]                  x_i detached; at the size of x3
    s   = onehot(argmax [0.3 M_0, M_1, ..., M_C]) V          seeds
    p_c = mean_hw s_c H                                      prototypes; not divided by sum s_c
    P_c = ReLU(cos(H, p_c))                                  the prototype map

Each step sees its images twice, the second time at half size (z', M'):

    L   = (BCE(z, y) + BCE(z', y)) / 2 + L_P + L_W
    L_P = 1.6 mean |M - P / (max + 1e-5)| d                  d_0 = 1; over all C + 1 maps
    L_W = 0.8 mean |half(M) y - M' y| d                      over the C foreground maps
    d_c = D_c / mean D,    D_c = sum_j |n_c - n_j| / (n_c + N)

n_c counts the images of class c, N those that the bank of `wsss.cam.sfc_bank` adds to each class.

At inference, features, image and W * x4 of an image and its mirror image are summed first. The
release then leaves y out of A, so absent classes stay in the smoothing, and win pixels that then
belong to nobody; and it sums W * x4 before the ReLU. That made the published numbers and is the
default; `compat="none"` sums behind the ReLU and multiplies A by y, as training does.

Where we differ from the release, without changing a number: cosines are one matrix product, without
torch's own tensor of B x (C + 1) x 768 x h x w (1.3 GB); layers may lie on grids of their own.
The release hard-codes d for VOC; a class without any image has no part in it here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.cam.classifier import CAMNet
from wsss.cam.scores import max_normalised, mirrored_sum
from wsss.config.checks import Compat
from wsss.config.sfc import SFCTraining
from wsss.nets.backbones import Backbone
from wsss.training import mixed

SIDES = (128, 128, 256, 256)
"""Channels that each layer has in H."""


class Shared(NamedTuple):
    """What all maps of a batch are made of; of the images' own precision, float32."""

    raw: Tensor
    """W * x4 [B, C, h, w] on the grid of x4, before the ReLU."""
    last: Tensor
    """x4 [B, D, h, w] on the grid of x3, as everything below."""
    hierarchy: Tensor
    """H [B, 768, h, w]."""
    image: Tensor
    """I [B, 3, h, w]."""


class Maps(NamedTuple):
    """What a batch of B images is learned from."""

    score: Tensor
    """Logits z [B, C]."""
    classifier: Tensor
    """M [B, C + 1, h, w], background first, not normalised after the smoothing."""
    prototype: Tensor
    """P [B, C + 1, h, w] in [0, 1]."""
    original: Tensor
    """A [B, C + 1, h, w] in [0, 1]."""


class SFCNet(CAMNet):
    """A CAM classifier with the projections `sfc`: side1 to side4 of H, and f9 of the affinity."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__(backbone, classes)
        sides = {
            f"side{i}": nn.Conv2d(inputs, outputs, 1, bias=False)
            for i, (inputs, outputs) in enumerate(zip(backbone.channels, SIDES, strict=True), 1)
        }
        last = backbone.channels[-1]
        self.sfc = nn.ModuleDict({**sides, "f9": nn.Conv2d(3 + last, last, 1, bias=False)})

    def shared(
        self, images: Tensor, detach_after: int | None = None, precision: str = "float32"
    ) -> Shared:
        """What the maps of normalised images [B, 3, H, W] are made of."""
        with mixed(precision, images.device):
            levels: tuple[Tensor, ...] = self.backbone(images, detach_after)
        levels = tuple(level.to(images.dtype) for level in levels)
        grid = levels[2].shape[-2:]
        sides = [
            _at(unit(self.sfc[f"side{i}"](level.detach())), grid, corners=False)
            for i, level in enumerate(levels, 1)
        ]
        return Shared(
            raw=self.classifier(levels[-1]),
            last=_at(levels[-1], grid, corners=True),
            hierarchy=torch.cat(sides, 1),
            image=_at(images, grid, corners=True),
        )


def _at(maps: Tensor, grid: torch.Size, corners: bool) -> Tensor:
    """Maps [B, D, h, w] resized to the `grid`, bilinear, `corners` aligned or not."""
    if maps.shape[-2:] == grid:
        return maps
    return F.interpolate(maps, grid, mode="bilinear", align_corners=corners)


def unit(features: Tensor) -> Tensor:
    """Features [B, D, h, w], each divided by its norm + 1e-5."""
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (length + 1e-5)


def with_background(raw: Tensor) -> Tensor:
    """W * x4 [B, C, h, w] to A before its mask, [B, C + 1, h, w]: each in [0, 1]."""
    maps = max_normalised(F.relu(raw))
    return torch.cat([1 - maps.amax(1, keepdim=True), maps], 1)


def affinity(features: Tensor) -> Tensor:
    """S [B, hw, hw] of features [B, D, h, w]: cosines above 0, each column divided by its sum."""
    flat = unit(features).flatten(2)
    likeness = F.relu(torch.bmm(flat.transpose(1, 2), flat))
    return likeness / (likeness.sum(1, keepdim=True) + 1e-5)


def smoothed(net: SFCNet, maps: Tensor, shared: Shared) -> Tensor:
    """M = A S S: maps [B, C + 1, h, w] spread twice among cells with like features."""
    features: Tensor = net.sfc["f9"](torch.cat([shared.image, shared.last], 1))
    steps = affinity(features)
    return torch.bmm(torch.bmm(maps.flatten(2), steps), steps).view_as(maps)


def prototype_maps(maps: Tensor, hierarchy: Tensor, mask: Tensor, bg_factor: float) -> Tensor:
    """P [B, C + 1, h, w] of M [B, C + 1, h, w], H [B, 768, h, w] and a mask that broadcasts to M.

    A class that wins no pixel has the prototype 0, and a map of zeros.
    """
    weakened = torch.cat([bg_factor * maps[:, :1], maps[:, 1:]], 1)
    seeds = F.one_hot(weakened.argmax(1), maps.shape[1]).movedim(-1, 1) * mask
    flat = hierarchy.flatten(2)
    prototypes = torch.bmm(seeds.flatten(2).to(flat), flat.transpose(1, 2)) / flat.shape[2]
    cosines = torch.bmm(F.normalize(prototypes, dim=2, eps=1e-8), F.normalize(flat, dim=1))
    return F.relu(cosines).view_as(maps)


def training_maps(
    net: SFCNet, images: Tensor, labels: Tensor, valid: Tensor, config: SFCTraining
) -> Maps:
    """The maps of normalised images [B, 3, H, W] with labels [B, C] and valid pixels [B, 1, H, W].

    The mask is resized, nearest, to the grid of x3.
    """
    shared = net.shared(images, config.detach_after, config.precision)
    grid = shared.image.shape[-2:]
    mask = label_mask(labels) * F.interpolate(valid, grid, mode="nearest")
    original = _at(with_background(shared.raw), grid, corners=True) * mask
    maps = smoothed(net, original, shared)
    prototypes = prototype_maps(maps, shared.hierarchy, mask, config.bg_factor)
    return Maps(shared.raw.mean((2, 3)), maps, prototypes, original)


def label_mask(labels: Tensor) -> Tensor:
    """[1, y] of labels y [B, C]: [B, C + 1, 1, 1]."""
    return F.pad(labels, (1, 0), value=1)[:, :, None, None]


def pair_maps(
    net: SFCNet,
    pair: Tensor,
    labels: Tensor,
    *,
    bg_factor: float,
    compat: Compat,
    precision: str = "float32",
) -> Maps:
    """The maps of one normalised image and its mirror image, [2, 3, H, W], with its label [1, C].

    B of the result is 1. With `compat` "release", M and A hold absent classes too, and P does not.
    """
    both, mask = net.shared(pair, precision=precision), label_mask(labels)
    if compat == "none":
        both = both._replace(raw=F.relu(both.raw))
    shared = Shared(*(mirrored_sum(part)[None] for part in both))
    original = _at(with_background(shared.raw), shared.image.shape[-2:], corners=True)
    if compat == "none":
        original = original * mask
    maps = smoothed(net, original, shared)
    prototypes = prototype_maps(maps, shared.hierarchy, mask, bg_factor)
    return Maps(shared.raw.mean((2, 3)), maps, prototypes, original)


def distribution_coefficient(counts: Tensor, extra: float) -> Tensor:
    """d [C], float32, of the number of images of each class, [C], and N, `extra`.

    Its mean over the classes that occur is 1; a class without any image gets 0, and classes that
    are all equally frequent get 1.
    """
    n = counts[counts > 0].double()
    distance = (n[:, None] - n).abs().sum(1) / (n + extra)
    weights = torch.zeros(len(counts), dtype=torch.float64)
    weights[counts > 0] = distance / distance.mean() if distance.any() else torch.ones_like(n)
    return weights.float()


def bank_images(images: int, classes: int, config: SFCTraining) -> int:
    """N: images that the bank adds to each class in `bank_epochs`, whole ones; 396 on train_aug."""
    drawn = (images // config.batch) * config.n_bank * config.bank_epochs
    return int(drawn / classes)


def sfc_losses(
    whole: Maps, half: Maps, labels: Tensor, coefficient: Tensor, p_weight: float, w_weight: float
) -> dict[str, Tensor]:
    """The terms of a step: "bce", "l_p" and "l_w", which add up to "loss".

    `whole` and `half` are the maps of the same images at two scales, `labels` [B, C], `coefficient`
    d [C]. The gradient reaches both maps of `whole`, and M of `half`.
    """
    d, y = coefficient[:, None, None], labels[:, :, None, None]
    scores = (whole.score, half.score)
    bce = torch.stack([F.multilabel_soft_margin_loss(z, labels) for z in scores]).mean()
    apart = (whole.classifier - max_normalised(whole.prototype)).abs()
    l_p = p_weight * (apart * F.pad(d, (0, 0, 0, 0, 1, 0), value=1)).mean()
    coarse = _at(whole.classifier[:, 1:], half.classifier.shape[-2:], corners=True)
    l_w = w_weight * (d * (coarse * y - half.classifier[:, 1:] * y).abs()).mean()
    return {"loss": bce + l_p + l_w, "bce": bce, "l_p": l_p, "l_w": l_w}
