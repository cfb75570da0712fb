"""Class activation maps of a classifier that learns from image-level labels: the baseline of WSSS.

Zhou, Khosla, Lapedriza, Oliva, Torralba: Learning Deep Features for Discriminative Localization,
CVPR 2016, arXiv 1512.04150; trained as in IRN (Ahn, Cho, Kwak, CVPR 2019, arXiv 1904.05044) and
ReCAM (Chen et al., CVPR 2022, arXiv 2203.00962). With features F [D, h, w] and a weight W [C, D]:

    z = W . mean_hw F                                         logits
    L = mean over batch and classes of BCE(sigmoid z, y)      multilabel soft margin
    A = ReLU(W * F)                                           class activation maps

IRN stops the gradient behind layer2, ReCAM does not: `detach_after`. The published rates belong to
SGD almost without momentum, see `wsss.training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.cam.scores import (
    MapSource,
    Views,
    best_class,
    mirrored_sum,
    multiscale_maps,
    present,
    score_planes,
    upsample,
)
from wsss.config import CAMTraining
from wsss.data.samples import Samples
from wsss.metrics import mean_iou, threshold_curve, threshold_histogram
from wsss.nets.backbones import Backbone, backbone
from wsss.nets.weights import (
    fit_state,
    initial_weights,
    read_metadata,
    read_state,
    save_weights,
)
from wsss.training import Monitor, classifier_examples, fit, mixed, seeded

PROBE_BINS = 100
"""Thresholds that the probe tries, less one."""


class CAMNet(nn.Module):
    """A backbone, and a 1 x 1 convolution without bias that classifies its last features."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Conv2d(backbone.channels[-1], classes, 1, bias=False)

    def forward(
        self, images: Tensor, detach_after: int | None = None, precision: str = "float32"
    ) -> Tensor:
        """Last features [B, D, h, w], float32, of normalised images [B, 3, H, W]."""
        with mixed(precision, images.device):
            levels: tuple[Tensor, ...] = self.backbone(images, detach_after)
        return levels[-1].float()

    def views(self, scales: tuple[float, ...]) -> Views:
        """How this network is shown an image at several `scales`, where it lies now."""
        net, device = self.backbone, self.classifier.weight.device
        return Views(scales=scales, mean=net.mean, std=net.std, stride=net.stride, device=device)


Net = TypeVar("Net", bound=CAMNet)


def logits(features: Tensor, weight: Tensor) -> Tensor:
    """z = W . mean_hw F: features [B, D, h, w] and weight [C, D, 1, 1] to [B, C]."""
    return F.linear(features.mean((2, 3)), weight.flatten(1))


def cam(features: Tensor, weight: Tensor) -> Tensor:
    """A = ReLU(W * F), not normalised: [B, D, h, w] and [C, D, 1, 1] to [B, C, h, w]."""
    return F.relu(F.conv2d(features, weight))


def cam_source(net: CAMNet, weight: Tensor, precision: str = "float32") -> MapSource:
    """The class maps of `net` under the `weight` [C, D, 1, 1], ReLU before the mirrored sum.

    In "bfloat16" the backbone's products take less than half the time on processors that know it.
    """

    def source(pair: Tensor, keys: Tensor) -> Tensor:
        with torch.inference_mode():
            return mirrored_sum(cam(net(pair, precision=precision), weight[keys]))

    return source


def train_cam(
    samples: Samples, config: CAMTraining, monitor: Monitor, masks: Samples | None = None
) -> CAMNet:
    """Train a classifier on the image-level labels of `samples`; returns it in evaluation mode.

    `masks` is the split on whose first images the probe is scored, see `probe_scores`. Raises
    ValueError for a backbone, weights or probe that cannot be had, and as `fit` does.
    """
    check_probe(config.probe, masks)
    with seeded(config.seed):
        net = CAMNet(backbone(config.backbone, initial_weights(config)), len(samples.classes))

    def objective(images: Tensor, labels: Tensor, _: Tensor) -> Mapping[str, Tensor]:
        features = net(images, config.detach_after, config.precision)
        z = logits(features, net.classifier.weight)
        return {"loss": F.multilabel_soft_margin_loss(z, labels)}

    fit(
        net,
        {"backbone": config.lr_backbone, "classifier": config.lr_head},
        objective,
        classifier_examples(samples, config, net.backbone.mean, net.backbone.std),
        config,
        monitor=monitor,
        evaluate=lambda: probe_scores(net, {"w": net.classifier.weight}, masks, config.probe),
    )
    return net.eval()


def check_probe(images: int, masks: Samples | None) -> None:
    """Raise ValueError where images are to be scored and there are no masks to score them on."""
    if images and (masks is None or not masks.has_masks):
        raise ValueError(f"probe is {images} but there is no split with masks: set probe to 0")


def probe_scores(
    net: CAMNet, weights: Mapping[str, Tensor], masks: Samples | None, images: int
) -> dict[str, float]:
    """Best-threshold mIoU of single-scale maps on the first `images` of `masks`, for each weight.

    A yardstick on the way, by which a hopeless training can be ended early; it influences none.
    Each is reported as "probe_miou_" and the name of its weight, the best as "probe_miou".
    """
    if masks is None or not images:
        return {}
    source = cam_source(net.eval(), torch.cat(list(weights.values())))
    views = net.views((1.0,))
    ids = len(masks.classes) + 1
    histograms = torch.zeros((len(weights), PROBE_BINS + 2, ids - 1, ids), dtype=torch.int64)
    for i in range(min(images, len(masks))):
        truth, keys = torch.from_numpy(masks.mask(i)), present(masks, i)
        size = (truth.shape[0], truth.shape[1])
        rows = torch.cat([keys + n * len(masks.classes) for n in range(len(weights))])
        [maps] = multiscale_maps(masks.image(i), source, rows, views)
        for histogram, part in zip(histograms, maps.chunk(len(weights)), strict=True):
            planes = score_planes([part], size, views.stride)
            score, best = best_class(upsample(planes, size), keys)
            histogram += threshold_histogram(score, best, truth, PROBE_BINS, ids)
    net.train()
    found = [float(mean_iou(threshold_curve(histogram)).max()) for histogram in histograms]
    named = {f"probe_miou_{name}": score for name, score in zip(weights, found, strict=True)}
    return {**named, "probe_miou": max(found)}


def save_net(net: CAMNet, path: Path) -> None:
    """Write a trained network, and the name of its backbone, to a safetensors file."""
    save_weights(net, path, {"backbone": net.backbone.name})


def load_net(path: Path, kind: type[Net]) -> Net:
    """The network in a file that `save_net` wrote, as a `kind`, in evaluation mode.

    Raises ValueError, naming the file, where it is absent or holds another kind of network.
    """
    name, state = read_metadata(path, "backbone"), read_state(path)
    net = kind(backbone(name), len(state["classifier.weight"]))
    fit_state(net, state, path)
    return net.eval()
