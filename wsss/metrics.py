"""Scores of label maps against masks, and of score maps at every threshold in one pass.

Confusion N[i, j] = pixels of class i that were predicted as j, over all images of a split, without
the pixels whose truth is void. IoU_c = N_cc / (sum_j N_cj + sum_i N_ic - N_cc); mIoU is the mean
over classes, background included, that occur in the truth or the prediction (chainercv's rule).

A threshold t on finished score maps predicts the best class where its score is above t, and
background elsewhere. So the pixel's score, best class and truth say what it counts for at *every*
t, and one histogram of them holds all confusion matrices, exactly. Ties go to background.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wsss.data.samples import VOID


def seed_label(scores: Tensor, keys: Tensor, threshold: float) -> Tensor:
    """Label map of score planes cut at `threshold`.

    `scores` [n, H, W] are the planes of the classes `keys` [n] (0-based, without background), of
    which there may be none. Returns uint8 [H, W]: 0 background, else key + 1. The first of equals
    wins, in the order background, keys.
    """
    background = scores.new_full((1, *scores.shape[1:]), threshold)
    ids = torch.cat([keys.new_zeros(1), keys + 1]).to(torch.uint8)
    return ids[torch.cat([background, scores]).argmax(0)]


def void_as_background(label: Tensor) -> Tensor:
    """A label map with 255 replaced by 0, as pseudo labels are before they are scored."""
    return label.masked_fill(label == VOID, 0)


def confusion_matrix(truth: Tensor, prediction: Tensor, classes: int, ignore: int = VOID) -> Tensor:
    """Confusion of two integer label maps of one shape, int64 [classes, classes], rows truth.

    `classes` counts background. Pixels whose truth is `ignore` are left out. Raises ValueError for
    any other id beyond the classes; a prediction that holds 255 goes through
    `void_as_background` first.
    """
    valid = truth != ignore
    rows = _ids(truth[valid], classes, "truth")
    columns = _ids(prediction[valid], classes, "prediction")
    return torch.bincount(rows * classes + columns, minlength=classes**2).view(classes, classes)


def iou(confusion: Tensor) -> Tensor:
    """Intersection over union of each class of [..., K, K], float64 [..., K]; NaN where absent."""
    return _hits(confusion) / _union(confusion)


def mean_iou(confusion: Tensor, only: Sequence[int] | None = None) -> Tensor:
    """Mean IoU of [..., K, K], float64 [...], over classes that occur, or those of them in `only`.

    `only` holds class ids, 0 for background. NaN where none of them occurs.
    """
    scores = iou(confusion)
    return (scores if only is None else scores[..., list(only)]).nanmean(-1)


def false_positives(confusion: Tensor) -> Tensor:
    """Pixels wrongly given to each class, as a share of its union; float64 [..., K]."""
    return 1 - confusion.sum(-1).double() / _union(confusion)


def false_negatives(confusion: Tensor) -> Tensor:
    """Pixels of each class that were missed, as a share of its union; float64 [..., K]."""
    return 1 - confusion.sum(-2).double() / _union(confusion)


def background_share(confusion: Tensor) -> Tensor:
    """Share of the pixels predicted as foreground whose truth is background; float64 [...]."""
    foreground = confusion[..., 1:].double()
    return foreground[..., 0, :].sum(-1) / foreground.sum((-2, -1))


def thresholds(bins: int) -> Tensor:
    """The thresholds k / bins for k = 0..bins, float32 [bins + 1], as scores are compared with."""
    return (torch.arange(bins + 1, dtype=torch.float64) / bins).float()


def threshold_index(threshold: float, bins: int) -> int:
    """Place of a threshold among `thresholds(bins)`. Raises ValueError where it is none of them."""
    place = round(threshold * bins)
    if abs(threshold * bins - place) > 1e-6 or not 0 <= place <= bins:
        raise ValueError(f"threshold is {threshold}: give a multiple of {1 / bins:g} in [0, 1]")
    return place


def threshold_histogram(
    score: Tensor, argmax: Tensor, truth: Tensor, bins: int, classes: int
) -> Tensor:
    """Count an image's pixels by score level, best class and truth; sums over images add up.

    `score` [H, W] is the best score (compared in float32), `argmax` [H, W] its class (0-based,
    without background), `truth` [H, W] a mask with 255 for void; `classes` counts background.
    Returns int64 [bins + 2, classes - 1, classes]; a pixel's level is the number of thresholds
    below its score. Raises ValueError for a NaN score and for an id beyond the classes.
    """
    if score.isnan().any():
        raise ValueError("score map holds NaN: the network that made it has diverged")
    valid = truth != VOID
    level = torch.bucketize(score[valid].float(), thresholds(bins).to(score.device))
    best = _ids(argmax[valid], classes - 1, "argmax")
    actual = _ids(truth[valid], classes, "truth")
    shape = (bins + 2, classes - 1, classes)
    index = (level * shape[1] + best) * shape[2] + actual
    return torch.bincount(index, minlength=shape[0] * shape[1] * shape[2]).view(shape)


def threshold_curve(histogram: Tensor) -> Tensor:
    """The confusion matrix at each of `thresholds(bins)`, int64 [bins + 1, K, K], rows truth.

    `histogram` is the sum of `threshold_histogram` over the images. Equal to predicting `argmax`
    where score > threshold, and background elsewhere, for each threshold in turn.
    """
    above = histogram.flip(0).cumsum(0).flip(0)[1:]  # pixels of level > k, for k = 0..bins
    foreground = above.transpose(1, 2)
    background = histogram.sum((0, 1)) - foreground.sum(-1)
    return torch.cat([background.unsqueeze(-1), foreground], dim=-1)


def _hits(confusion: Tensor) -> Tensor:
    return confusion.diagonal(dim1=-2, dim2=-1).double()


def _union(confusion: Tensor) -> Tensor:
    return confusion.sum(-1) + confusion.sum(-2) - _hits(confusion)


def _ids(labels: Tensor, classes: int, what: str) -> Tensor:
    labels = labels.long()
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"{what} holds ids {int(labels.min())}..{int(labels.max())}, beyond 0..{classes - 1}"
        )
    return labels
