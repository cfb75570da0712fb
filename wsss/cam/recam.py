"""ReCAM: class re-activation maps.

Zhaozheng Chen, Tan Wang, Xiongwei Wu, Xian-Sheng Hua, Hanwang Zhang, Qianru Sun: Class
Re-Activation Maps for Weakly-Supervised Semantic Segmentation, CVPR 2022, arXiv 2203.00962.

BCE treats each class alone, so a pixel may answer to several. ReCAM pulls out one feature for each
class, through the class's own map, and classifies it again with softmax cross entropy (SCE), which
makes classes compete. With features F [D, h, w], the classifier w and a second one w' [C, D]:

    A_c   = ReLU(w_c * F) / (max + 1e-5)                     for all classes, not detached
    f_c   = mean_hw A_c F                                    class feature; not divided by sum A_c
    SCE_b = mean over classes k in image b of -log softmax(w' f_k)[k]
    L     = BCE(w . mean_hw F, y) + lambda / B sum_b SCE_b

Everything is trained at once, from a trained CAM classifier. Maps are extracted with w, w' or their
elementwise product: the release takes the product on VOC and w on COCO.

Where we differ from the release, without changing a number: f is one batched matrix product, which
needs none of the 2.5 GB of the released product over B x C x D x h x w; the loss of a batch without
any label is 0, where the release divides by zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.cam.classifier import CAMNet, cam, check_probe, logits, probe_scores
from wsss.cam.scores import max_normalised
from wsss.config import ExtractionWeight, ReCAMTraining
from wsss.data.samples import Samples
from wsss.nets.backbones import Backbone
from wsss.training import Monitor, classifier_examples, fit, seeded


class ReCAMNet(CAMNet):
    """A CAM classifier with the second classifier w', `recam`."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__(backbone, classes)
        self.recam = nn.Conv2d(backbone.channels[-1], classes, 1, bias=False)


def class_features(features: Tensor, maps: Tensor) -> Tensor:
    """f_c = mean_hw A_c F: features [B, D, h, w] and maps [B, C, h, w] to [B, C, D]."""
    flat = features.flatten(2)
    return torch.bmm(maps.flatten(2), flat.transpose(1, 2)) / flat.shape[2]


def sce(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over images of the mean over their classes k of -log softmax(scores of f_k)[k].

    `scores` [B, C, C] hold in row c what w' says of the class feature f_c; `labels` [B, C] in
    {0, 1}. An image without a class adds 0 but counts in B.
    """
    surprise = -scores.log_softmax(-1).diagonal(dim1=1, dim2=2)
    present = labels.sum(1).clamp(min=1)
    return ((surprise * labels).sum(1) / present).mean()


def sce_accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """Share of the present classes whose feature w' recognises; 0 where there are none."""
    own = torch.arange(scores.shape[1], device=scores.device)
    hits = (scores.argmax(-1) == own) * labels
    return hits.sum() / labels.sum().clamp(min=1)


def recam_losses(
    features: Tensor, w: Tensor, w_prime: Tensor, labels: Tensor, loss_weight: float
) -> dict[str, Tensor]:
    """The terms of a step, "loss" = "bce" + lambda "sce", and the "accuracy" of w'.

    Features [B, D, h, w], weights [C, D, 1, 1], labels [B, C]. The gradient reaches all of them.
    """
    maps = max_normalised(cam(features, w))
    scores = F.linear(class_features(features, maps), w_prime.flatten(1))
    bce = F.multilabel_soft_margin_loss(logits(features, w), labels)
    competition = sce(scores, labels)
    return {
        "loss": bce + loss_weight * competition,
        "bce": bce,
        "sce": competition,
        "accuracy": sce_accuracy(scores, labels),
    }


def extraction_weight(net: ReCAMNet, which: ExtractionWeight) -> Tensor:
    """The weight [C, D, 1, 1] that maps are extracted with: w, w', or their elementwise product."""
    w, w_prime = net.classifier.weight, net.recam.weight
    if which == "product":
        return w * w_prime
    return w if which == "w" else w_prime


def train_recam(
    samples: Samples,
    start: CAMNet,
    config: ReCAMTraining,
    monitor: Monitor,
    masks: Samples | None = None,
) -> ReCAMNet:
    """Train the classifier `start` on, in place, together with w'; returns it in evaluation mode.

    `masks` is the split on whose first images the probe is scored, once for each extraction weight.
    Raises ValueError where `start` knows other classes, and as `fit` does.
    """
    check_probe(config.probe, masks)
    classes = len(samples.classes)
    if start.classifier.out_channels != classes:
        raise ValueError(
            f"classifier knows {start.classifier.out_channels} classes but the data set {classes}"
        )
    with seeded(config.seed):
        net = ReCAMNet(start.backbone, classes)
    net.classifier = start.classifier

    def objective(images: Tensor, labels: Tensor, _: Tensor) -> Mapping[str, Tensor]:
        features = net(images, config.detach_after, config.precision)
        w, w_prime = net.classifier.weight, net.recam.weight
        return recam_losses(features, w, w_prime, labels, config.loss_weight)

    def evaluate() -> Mapping[str, float]:
        names: tuple[ExtractionWeight, ...] = ("w", "w_prime", "product")
        weights: dict[str, Tensor] = {name: extraction_weight(net, name) for name in names}
        return probe_scores(net, weights, masks, config.probe)

    fit(
        net,
        {
            "backbone": config.lr_backbone,
            "classifier": config.lr_head,
            "recam": config.lr_recam,
        },
        objective,
        classifier_examples(samples, config, net.backbone.mean, net.backbone.std),
        config,
        monitor=monitor,
        evaluate=evaluate,
    )
    return net.eval()
