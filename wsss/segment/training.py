"""Training of a segmentation network on label maps.

The published recipe, kazuto1011/deeplab-pytorch's DeepLabV2 from ImageNet weights, is known to fall
over in other hands: the loss becomes NaN, or everything background (mIoU 0.03). What helped there
is the balanced loss, a lower learning rate, and the right file of initial weights; a loss that is
not finite ends the training with this advice.

Several processes may train one network together, see `wsss.training`, and end where one would, up
to rounding; only dropout draws differently.

`torch.compile` and the like work on what the objective calls; the optimiser, checkpoints and the
probe see the network itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from wsss.cam.classifier import check_probe
from wsss.config.segment import Segmentation, SegmentationTraining
from wsss.data.samples import Samples
from wsss.metrics import confusion_matrix, mean_iou
from wsss.nets.segmenters import Network, Segmenter, segmenter
from wsss.nets.weights import initial_weights
from wsss.ranks import share_norms
from wsss.segment.inference import label_map
from wsss.segment.losses import segmentation_losses
from wsss.segment.optimiser import optimiser_of, set_shares
from wsss.segment.views import LabelOf, segmentation_examples
from wsss.training import Descent, Monitor, chosen_device, descend, mixed, seeded

ADVICE = (
    "set loss to balanced, lower lr, and check that the file of initial weights is the right one"
)


def train_segmenter(
    samples: Samples,
    labels: LabelOf,
    config: SegmentationTraining,
    monitor: Monitor,
    *,
    targets: LabelOf | None = None,
    masks: Samples | None = None,
) -> Segmenter:
    """Train a network on the label maps of `samples`; returns it in evaluation mode.

    `targets` are the maps of `aamr_targets`, for an `aamr_weight` above 0. `masks` is the split on
    whose first images the probe is scored. Raises ValueError for a network or weights that cannot
    be had, without targets or masks where they are needed, and as `segmentation_examples`,
    `share_norms` and `descend` do; FloatingPointError, with advice, where the loss is not finite.
    """
    check_probe(config.probe, masks)
    if (targets is None) != (config.aamr_weight == 0):
        raise ValueError(
            f"aamr_weight is {config.aamr_weight}: targets of the mask refinement loss are for"
            " weights above 0, and there only"
        )
    with seeded(config.seed):
        net = segmenter(
            Network(
                architecture=config.architecture,
                backbone=config.backbone,
                classes=len(samples.classes) + 1,
                pyramid=config.pyramid,
            ),
            initial_weights(config),
        )
    net = share_norms(net, chosen_device(monitor.device))
    planes = [labels] if targets is None else [labels, targets]
    descend(
        net,
        Descent(
            optimiser=lambda _: optimiser_of(net, config),
            set_rates=partial(set_shares, config=config),
            passes=config.accumulation,
            advice=ADVICE,
        ),
        objective(net, config),
        segmentation_examples(samples, planes, config, net.mean, net.std),
        config,
        monitor=monitor,
        evaluate=lambda: probe_scores(net, masks, config),
    )
    return net.eval()


def objective(net: Segmenter, config: SegmentationTraining) -> Callable[..., Mapping[str, Tensor]]:
    """What a batch of views, label maps, and targets if any, is worth."""
    forward: nn.Module | Callable[..., tuple[Tensor, ...]] = net
    if config.compile:
        forward = torch.compile(net)

    def terms(images: Tensor, label: Tensor, *target: Tensor) -> Mapping[str, Tensor]:
        with mixed(config.precision, images.device):
            outputs = forward(images)
        return segmentation_losses(outputs, label, config, *target)

    return terms


def probe_scores(
    net: Segmenter, masks: Samples | None, config: SegmentationTraining
) -> dict[str, float]:
    """mIoU of the first images of `masks`, seen once and without a CRF, as "probe_miou".

    A yardstick on the way, by which a hopeless training can be ended early; it influences none.
    """
    if masks is None or not config.probe:
        return {}
    plain = Segmentation(crf=None, precision=config.precision)
    classes = len(masks.classes) + 1
    confusion = torch.zeros((classes, classes), dtype=torch.int64)
    net.eval()
    for i in range(min(config.probe, len(masks))):
        truth = torch.from_numpy(masks.mask(i))
        found = torch.from_numpy(label_map(net, masks.image(i), plain))
        confusion += confusion_matrix(truth, found, classes)
    net.train()
    return {"probe_miou": float(mean_iou(confusion))}
