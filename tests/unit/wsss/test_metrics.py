"""Confusion and IoU by hand, and the one-pass threshold curve against the naive loop."""

import math

import pytest
import torch

from wsss.metrics import (
    background_share,
    confusion_matrix,
    false_negatives,
    false_positives,
    iou,
    mean_iou,
    seed_label,
    threshold_curve,
    threshold_histogram,
    thresholds,
    void_as_background,
)

TRUTH = torch.tensor([[0, 0, 1, 1], [0, 2, 2, 255]], dtype=torch.uint8)
PREDICTION = torch.tensor([[0, 1, 1, 1], [0, 0, 2, 2]], dtype=torch.uint8)


def test_a_tiny_example_by_hand():
    matrix = confusion_matrix(TRUTH, PREDICTION, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert matrix.dtype == torch.int64
    scores = iou(matrix)
    assert scores.dtype == torch.float64
    assert scores[:3].tolist() == pytest.approx([2 / 4, 2 / 3, 1 / 2])
    assert math.isnan(scores[3])
    assert float(mean_iou(matrix)) == pytest.approx((1 / 2 + 2 / 3 + 1 / 2) / 3)
    assert float(mean_iou(matrix, only=[0, 1, 3])) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert math.isnan(mean_iou(matrix, only=[3]))
    assert false_positives(matrix)[:3].tolist() == pytest.approx([1 / 4, 1 / 3, 0])
    assert false_negatives(matrix)[:3].tolist() == pytest.approx([1 / 4, 0, 1 / 2])
    assert float(background_share(matrix)) == pytest.approx(1 / 4)


def test_void_predictions_are_refused_unless_made_background():
    label = PREDICTION.clone()
    label[0, 0] = 255
    with pytest.raises(ValueError, match=r"prediction holds ids 0\.\.255, beyond 0\.\.3"):
        confusion_matrix(TRUTH, label, 4)
    expected = confusion_matrix(TRUTH, PREDICTION, 4)
    assert torch.equal(confusion_matrix(TRUTH, void_as_background(label), 4), expected)


def test_truth_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match=r"truth holds ids 0\.\.2, beyond 0\.\.1"):
        confusion_matrix(TRUTH, PREDICTION.clamp(max=1), 2)


def test_all_void_counts_nothing():
    assert int(confusion_matrix(torch.full_like(TRUTH, 255), PREDICTION, 4).sum()) == 0


@pytest.mark.parametrize(("bins", "classes"), [(1, 2), (7, 5), (100, 21), (64, 81)])
def test_the_curve_equals_the_naive_loop(bins: int, classes: int):
    generator = torch.Generator().manual_seed(bins)
    histogram, naive = 0, [0] * (bins + 1)
    for height in (19, 33):
        shape = (height, 40)
        # Half of the scores lie exactly on a threshold, and some just off one.
        on_edge = thresholds(bins)[torch.randint(bins + 1, shape, generator=generator)]
        score = torch.where(
            torch.rand(shape, generator=generator) < 0.5,
            on_edge,
            torch.rand(shape, generator=generator) * 1.2 - 0.1,
        )
        score[0] = torch.nextafter(on_edge[0], torch.tensor(2.0))
        score[1] = torch.nextafter(on_edge[1], torch.tensor(-2.0))
        best = torch.randint(classes - 1, shape, generator=generator)
        truth = torch.randint(classes, shape, generator=generator).to(torch.uint8)
        truth[torch.rand(shape, generator=generator) < 0.1] = 255
        histogram += threshold_histogram(score, best, truth, bins, classes)
        for k in range(bins + 1):
            prediction = torch.where(score > k / bins, best + 1, 0)
            naive[k] += confusion_matrix(truth, prediction, classes)
    curve = threshold_curve(histogram)
    assert curve.dtype == torch.int64
    assert torch.equal(curve, torch.stack(naive))
    assert torch.equal(iou(curve)[bins], iou(naive[bins]).double())


def test_diverged_scores_are_refused():
    score = torch.tensor([[0.5, math.nan]])
    truth = torch.zeros(1, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="score map holds NaN"):
        threshold_histogram(score, truth, truth, 10, 3)


def test_seed_label_ties_go_to_background_then_to_the_first_key():
    scores = torch.tensor([[[0.3, 0.5, 0.6, 0.2]], [[0.3, 0.6, 0.6, 0.9]]])
    label = seed_label(scores, torch.tensor([4, 19]), 0.3)
    assert label.dtype == torch.uint8
    assert label.tolist() == [[0, 20, 5, 20]]


def test_seed_label_of_an_image_without_class_is_background():
    label = seed_label(torch.zeros(0, 2, 3), torch.zeros(0, dtype=torch.int64), 0.0)
    assert label.tolist() == [[0, 0, 0], [0, 0, 0]]
