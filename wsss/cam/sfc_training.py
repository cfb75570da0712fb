"""Training of SFC: two scales, the bank, and which epoch's weights are kept.

The published numbers are those of the checkpoint with the best seeds by the pixel masks of the
training images, looked at every 300 steps. `select="best"` does as much at the end of each epoch
with the images of the probe; the default is the last epoch, which needs no masks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.cam.classifier import check_probe
from wsss.cam.sfc import (
    SFCNet,
    bank_images,
    distribution_coefficient,
    sfc_losses,
    training_maps,
)
from wsss.cam.sfc_bank import banked_examples
from wsss.config.sfc import SFCTraining
from wsss.data.samples import Samples
from wsss.data.transforms import normalise
from wsss.metrics import confusion_matrix, mean_iou
from wsss.nets.backbones import backbone
from wsss.nets.weights import initial_weights
from wsss.training import Monitor, fit, seeded


class Best(nn.Module):
    """A network in training beside a copy of it from when its seeds were best.

    One module, so that a checkpoint holds both and a resumed training ends with the same choice.
    """

    score: Tensor

    def __init__(self, net: SFCNet) -> None:
        super().__init__()
        self.backbone, self.classifier, self.sfc = net.backbone, net.classifier, net.sfc
        self.kept = copy.deepcopy(net).requires_grad_(False)
        self.register_buffer("score", torch.tensor(-1.0, dtype=torch.float64))

    def offer(self, net: SFCNet, score: float) -> None:
        """Keep the weights of `net` if its `score` is above that of those kept."""
        if score > self.score:
            self.kept.load_state_dict(net.state_dict())
            self.score.fill_(score)


def halved(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] at half their size, bilinear with aligned corners."""
    return F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=True)


def train_sfc(
    samples: Samples, config: SFCTraining, monitor: Monitor, masks: Samples | None = None
) -> SFCNet:
    """Train SFC on the image-level labels of `samples`; returns it in evaluation mode.

    `masks` is the split on whose first images the probe is scored, see `sfc_probe`; with the
    selection "best" it decides which epoch's weights are returned. Raises ValueError for a
    backbone, weights or probe that cannot be had and where `samples` cannot fill a batch, and as
    `fit` does.
    """
    check_probe(config.probe, masks)
    classes = len(samples.classes)
    with seeded(config.seed):
        net = SFCNet(backbone(config.backbone, initial_weights(config)), classes)
    counts = torch.from_numpy(samples.labels.sum(0))
    d = distribution_coefficient(counts, bank_images(len(samples), classes, config))
    best = Best(net) if config.select == "best" else None

    def objective(
        images: Tensor, labels: Tensor, valid: Tensor, active: Tensor
    ) -> Mapping[str, Tensor]:
        scales = (images, halved(images))
        whole, half = (training_maps(net, x, labels, valid, config) for x in scales)
        p, w = (float(active[0]) * weight for weight in (config.p_weight, config.w_weight))
        return sfc_losses(whole, half, labels, d.to(images.device), p, w)

    def evaluate() -> Mapping[str, float]:
        scores = sfc_probe(net, masks, config)
        if best is not None:
            best.offer(net, scores["probe_miou"])
        return scores

    fit(
        net if best is None else best,
        {"backbone": config.lr_backbone, "classifier": config.lr_head, "sfc": config.lr_sfc},
        objective,
        banked_examples(samples, config, net.backbone.mean, net.backbone.std),
        config,
        monitor=monitor,
        evaluate=evaluate,
    )
    if best is not None:
        net.load_state_dict(best.kept.state_dict())
    return net.eval()


def sfc_probe(net: SFCNet, masks: Samples | None, config: SFCTraining) -> dict[str, float]:
    """mIoU of the argmax of M and of P, of whole images at one scale, on the probe's first images.

    They see the image-level labels and are neither mirrored nor shifted, as in the release, whose
    criterion is the sum of the two; half of it is reported as "probe_miou".
    """
    if masks is None or not config.probe:
        return {}
    ids = len(masks.classes) + 1
    confusions = torch.zeros((2, ids, ids), dtype=torch.int64)
    net.eval()
    for i in range(min(config.probe, len(masks))):
        truth = torch.from_numpy(masks.mask(i))
        for confusion, maps in zip(confusions, _probed(net, masks, i, config), strict=True):
            found = F.interpolate(maps, truth.shape, mode="bilinear").argmax(1)[0]
            confusion += confusion_matrix(truth, found.cpu(), ids)
    net.train()
    m, p = (float(mean_iou(confusion)) for confusion in confusions)
    return {"probe_miou_m": m, "probe_miou_p": p, "probe_miou": (m + p) / 2}


def _probed(net: SFCNet, masks: Samples, i: int, config: SFCTraining) -> tuple[Tensor, Tensor]:
    """M and P of a whole image under its label, [1, C + 1, h, w] each."""
    view = normalise(masks.image(i), net.backbone.mean, net.backbone.std)[None]
    labels = torch.from_numpy(masks.labels[[i]]).float()
    device = net.classifier.weight.device
    with torch.inference_mode():
        images, labels = view.to(device), labels.to(device)
        maps = training_maps(net, images, labels, torch.ones_like(images[:, :1]), config)
    return maps.classifier, maps.prototype
