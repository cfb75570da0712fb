"""IRNet: where classes meet, and where each pixel's object lies, learned from sparse labels.

Ahn, Cho, Kwak: Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations,
CVPR 2019, arXiv 1904.05044. Two branches read the stem and the four layers of a backbone, which is
frozen (`lr_backbone`, ours, trains one that starts from random weights):

    edge          each: 1x1 to 32, GN, resized, ReLU; all: 1x1 to 1 logit           E = sigmoid
    displacement  1x1 to 64, 128, 256, 256, 256, GN, resized, ReLU; the last three to 256, all
                  to 256, and 1x1 to D [2, h, w], rows and columns                  stride 4

and learn from the pairs (i, j) of `wsss.refine.affinity`, with m the labels and e = 1e-5:

    L_pos = (mean_bg + mean_fg) / 2 of -log(a + e)           mean_m v = sum m v / (sum m + e)
    L_neg = mean_neg of -log(1 + e - a)
    L_fg  = mean_fg |(D_i - D_j) - (j - i)|                  over both coordinates
    L_bg  = mean_bg |D_i - D_j|
    L     = (L_pos + L_neg) / 2 + (L_fg + L_bg) / 2          over the whole batch at once

The release is for a ResNet-50, whose levels have the strides 4, 4, 8, 16, 16. Ours takes any of
our backbones: a level coarser than stride 4 is enlarged by their ratio (bilinear) as there, a finer
one is averaged. The release also measures the mean displacement over the data set after training,
and subtracts it in evaluation. That, and D itself, serve instance segmentation only: the buffer is
kept for checkpoints and stays 0 here; D, which shares no trained weight with E, changes no edge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.cam.scores import STRIDE
from wsss.config.refine import IRNTraining
from wsss.data.samples import VOID, Samples
from wsss.data.transforms import crop, flip, normalise, rescale, strided_size
from wsss.nets.backbones import Backbone, backbone
from wsss.nets.weights import (
    fit_state,
    initial_weights,
    read_metadata,
    read_state,
    save_weights,
)
from wsss.refine.affinity import affinity, affinity_labels, paths, sources, targets
from wsss.refine.walk import Edges
from wsss.training import (
    Example,
    Examples,
    Monitor,
    check_batch,
    drawn,
    fit,
    mixed,
    seeded,
    view_rng,
)

EPSILON = 1e-5

LabelOf = Callable[[int], npt.NDArray[np.uint8]]
"""Image number to its label map, uint8 [H, W] with 255 for open."""


class Projection(nn.Module):
    """A 1 x 1 convolution without bias, and group norm."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] to [B, outputs, h, w]."""
        projected: Tensor = self.norm(self.conv(x))
        return projected


class MeanShift(nn.Module):
    """Subtracts the mean displacement of a data set in evaluation; 0 unless a file gives one."""

    running_mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(2))

    def forward(self, displacement: Tensor) -> Tensor:
        """[B, 2, h, w] to the same."""
        return displacement if self.training else displacement - self.running_mean[:, None, None]


class EdgeBranch(nn.Module):
    """Five levels to a logit for each cell of the stride-4 grid."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        projections = (Projection(inputs, 32, 4) for inputs in channels)
        self.edge1, self.edge2, self.edge3, self.edge4, self.edge5 = projections
        self.edge6 = nn.Conv2d(5 * 32, 1, 1)

    def forward(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Levels [B, D, h, w], finest first, to logits [B, 1, *grid]."""
        projections = (self.edge1, self.edge2, self.edge3, self.edge4, self.edge5)
        parts = [
            _aligned(project(level), stride, STRIDE, grid).relu()
            for project, level, stride in zip(projections, levels, self.strides, strict=True)
        ]
        logits: Tensor = self.edge6(torch.cat(parts, 1))
        return logits


class DisplacementBranch(nn.Module):
    """Five levels to the way to the centre of its object for each cell of the stride-4 grid."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        stem, one, two, three, four = channels
        self.dp1 = Projection(stem, 64, 8)
        self.dp2 = Projection(one, 128, 16)
        self.dp3 = Projection(two, 256, 16)
        self.dp4 = Projection(three, 256, 16)
        self.dp5 = Projection(four, 256, 16)
        self.dp6 = Projection(3 * 256, 256, 16)
        self.dp7 = Projection(64 + 128 + 256, 256, 16)
        self.out = nn.Conv2d(256, 2, 1, bias=False)
        self.mean_shift = MeanShift()

    def forward(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Levels [B, D, h, w], finest first, to rows down and columns right, [B, 2, *grid]."""
        stem, one, two, three, four = levels
        s0, s1, s2, s3, s4 = self.strides
        coarse = (two.shape[-2], two.shape[-1])
        last = ((self.dp3(two), s2), (self.dp4(three), s3), (self.dp5(four), s4))
        merged = self.dp6(torch.cat([_aligned(x, s, s2, coarse).relu() for x, s in last], 1))
        every = ((self.dp1(stem), s0), (self.dp2(one), s1), (merged, s2))
        parts = [_aligned(x, s, STRIDE, grid).relu() for x, s in every]
        found: Tensor = self.mean_shift(self.out(self.dp7(torch.cat(parts, 1)).relu()))
        return found


class IRNet(nn.Module):
    """A backbone with the two branches; only these are trained, unless the backbone `learns`."""

    def __init__(self, backbone: Backbone, learns: bool = False) -> None:
        super().__init__()
        self.learns = learns
        self.backbone = backbone if learns else backbone.requires_grad_(False)
        with torch.no_grad():
            levels = self.levels(torch.zeros(1, 3, 64, 64))
        channels = [level.shape[1] for level in levels]
        strides = [64 // level.shape[-1] for level in levels]
        self.edge = EdgeBranch(channels, strides)
        self.displacement = DisplacementBranch(channels, strides)

    def forward(self, images: Tensor, precision: str = "float32") -> tuple[Tensor, Tensor]:
        """Edge logits [B, 1, h, w] and displacements [B, 2, h, w] of normalised [B, 3, H, W].

        On the stride-4 grid, rounded up. The displacements are in its cells, rows first.
        """
        levels = self.levels(images, precision)
        grid = strided_size(images.shape[-2], images.shape[-1], STRIDE)
        return self.edge(levels, grid), self.displacement(levels, grid)

    def edge_logits(self, images: Tensor, precision: str = "float32") -> Tensor:
        """The first of both alone, which is all that a walk asks for."""
        grid = strided_size(images.shape[-2], images.shape[-1], STRIDE)
        logits: Tensor = self.edge(self.levels(images, precision), grid)
        return logits

    def levels(self, images: Tensor, precision: str = "float32") -> list[Tensor]:
        """What the branches read: stem and layers of the backbone, float32."""
        net = self.backbone
        x = images.to(memory_format=torch.channels_last)
        found = []
        graded = torch.is_grad_enabled() and self.learns
        with mixed(precision, images.device), torch.set_grad_enabled(graded):
            for part in (net.stem, net.layer1, net.layer2, net.layer3, net.layer4):
                x = part(x)
                found.append(x)
        return [level.float() for level in found]

    def train(self, mode: bool = True) -> IRNet:
        """Switch to training or evaluation; the backbone stays in evaluation either way."""
        super().train(mode)
        self.backbone.eval()
        return self


def _aligned(x: Tensor, stride: int, wanted: int, grid: tuple[int, int]) -> Tensor:
    """A level of one stride on the `grid` of another; both cover the image from its top left."""
    if stride > wanted:
        x = F.interpolate(x, scale_factor=stride // wanted, mode="bilinear")
    elif stride < wanted:
        x = F.avg_pool2d(x, wanted // stride, ceil_mode=True)
    return x[..., : grid[0], : grid[1]]


def irn_losses(
    edge_logits: Tensor, displacement: Tensor, label: Tensor, radius: int
) -> dict[str, Tensor]:
    """The terms of a step, "loss" and what it is made of.

    Logits [B, 1, h, w], displacements [B, 2, h, w], and the label map on their grid, uint8
    [B, h, w] with 255 for open.
    """
    background, foreground, negative = affinity_labels(label, radius)
    a = affinity(edge_logits.sigmoid().squeeze(1), radius)
    attract, repel = -(a + EPSILON).log(), -(1 + EPSILON - a).log()
    offsets = torch.tensor([path.offset for path in paths(radius)], device=a.device)
    apart = sources(displacement, radius) - targets(displacement, radius)  # [B, 2, P, S]
    terms = {
        "bg_pos": _mean(attract, background),
        "fg_pos": _mean(attract, foreground),
        "neg": _mean(repel, negative),
        "dp_fg": _mean((apart - offsets.T[:, :, None]).abs(), foreground.unsqueeze(1)),
        "dp_bg": _mean(apart.abs(), background.unsqueeze(1)),
    }
    pos = (terms["bg_pos"] + terms["fg_pos"]) / 2
    loss = (pos + terms["neg"]) / 2 + (terms["dp_fg"] + terms["dp_bg"]) / 2
    return {"loss": loss, "pos": pos, **terms}


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of values [B, ..., P, S] over the pairs of a bool [B, ..., P, S]; 0 without any."""
    repeats = values.numel() // where.numel()  # coordinates of a displacement
    return (values * where).sum() / (repeats * where.sum() + EPSILON)


def train_irnet(samples: Samples, labels: LabelOf, config: IRNTraining, monitor: Monitor) -> IRNet:
    """Train the branches on the label maps of `samples`; returns the network in evaluation mode.

    Raises ValueError for a backbone or weights that cannot be had, where `samples` cannot fill a
    batch, and for a label map of another size than its image; and as `fit` does.
    """
    with seeded(config.seed):
        net = IRNet(backbone(config.backbone, initial_weights(config)), config.lr_backbone > 0)

    rates = {"edge": config.lr_edge, "displacement": config.lr_displacement}
    if net.learns:
        rates["backbone"] = config.lr_backbone

    def objective(images: Tensor, label: Tensor) -> Mapping[str, Tensor]:
        logits, displacement = net(images, config.precision)
        return irn_losses(logits, displacement, label, config.radius)

    fit(
        net,
        rates,
        objective,
        irn_examples(samples, labels, config, net.backbone.mean, net.backbone.std),
        config,
        monitor=monitor,
    )
    return net.eval()


def irn_examples(
    samples: Samples,
    labels: LabelOf,
    config: IRNTraining,
    mean: Sequence[float],
    std: Sequence[float],
) -> Examples:
    """The examples of an affinity network: `irn_view` of each image that `drawn` names, its label.

    Raises ValueError where `samples` cannot fill a batch.
    """
    check_batch(samples, config)

    def example(step: int, i: int) -> Example:
        image, label = samples.image(i), labels(i)
        if label.shape != image.shape[:2]:
            raise ValueError(f"label of {samples.ids[i]} is {label.shape}, not {image.shape[:2]}")
        return irn_view(image, label, config, mean, std, view_rng(config.seed, step, i))

    def examples(step: int) -> list[Callable[[], Example]]:
        chosen = drawn(len(samples), config.batch, config.seed, step)
        return [partial(example, step, i) for i in chosen]

    return examples


def irn_view(
    image: npt.NDArray[np.uint8],
    label: npt.NDArray[np.uint8],
    config: IRNTraining,
    mean: Sequence[float],
    std: Sequence[float],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """An augmented view, float32 [3, S, S], and its label at stride 4, uint8 [S / 4, S / 4].

    Resized by a uniform factor of the range `scale` (cubic; the label by the nearest pixel),
    mirrored with probability one half, cropped at random. Beyond the image the label is open, 255.
    """
    factor = rng.uniform(*config.scale)
    view = normalise(rescale(image, factor, "cubic"), mean, std)
    plane = torch.from_numpy(rescale(label, factor, "nearest"))
    if rng.random() < 0.5:
        view, plane = flip(view), flip(plane)
    across = int(rng.integers(abs(view.shape[-1] - config.crop), endpoint=True))
    down = int(rng.integers(abs(view.shape[-2] - config.crop), endpoint=True))
    placed = crop(plane, config.crop, across, down, VOID)
    at_stride = torch.from_numpy(rescale(placed.numpy(), 1 / STRIDE, "nearest"))
    return crop(view, config.crop, across, down, 0), at_stride


def edge_map(
    net: IRNet, pair: Tensor, pad: int | None = None, precision: str = "float32"
) -> Tensor:
    """How likely each stride-4 cell of an image is on a boundary, [h, w] in (0, 1).

    `pair` is the normalised image and its mirror image, [2, 3, H, W]; E is the sigmoid of the mean
    of both logits. With `pad`, both get zeros on the right and below up to that size, which the
    norms of the branches feel: edges differ by 0.1 and more. No part of an image is cut off.
    """
    height, width = pair.shape[-2:]
    if pad is not None:
        pair = F.pad(pair, (0, max(pad - width, 0), 0, max(pad - height, 0)))
    rows, columns = strided_size(height, width, STRIDE)
    with torch.inference_mode():
        logits = net.edge_logits(pair, precision)[:, 0, :rows, :columns]
        return (logits[0] / 2 + flip(logits[1]) / 2).sigmoid()


def edge_source(net: IRNet, pad: int | None = None, precision: str = "float32") -> Edges:
    """`edge_map` of images uint8 [H, W, 3], where the network lies."""

    def edges(image: npt.NDArray[np.uint8]) -> Tensor:
        view = normalise(image, net.backbone.mean, net.backbone.std)
        pair = torch.stack([view, flip(view)]).to(net.edge.edge6.weight.device)
        return edge_map(net, pair, pad, precision)

    return edges


def save_irnet(net: IRNet, path: Path) -> None:
    """Write a trained network, and the name of its backbone, to a safetensors file."""
    save_weights(net, path, {"backbone": net.backbone.name})


def load_irnet(path: Path) -> IRNet:
    """The network in a file that `save_irnet` wrote, in evaluation mode.

    Raises ValueError, naming the file, where it is absent or holds another kind of network.
    """
    net = IRNet(backbone(read_metadata(path, "backbone")))
    fit_state(net, read_state(path), path)
    return net.eval()
