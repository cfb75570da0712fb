"""Golden unit 8: seed labels and mIoU as the released code and chainercv's metric, exactly."""

import numpy as np
import pytest
import torch

from wsss.metrics import (
    confusion_matrix,
    false_negatives,
    false_positives,
    iou,
    mean_iou,
    seed_label,
    threshold_curve,
    threshold_histogram,
    void_as_background,
)

CLASSES = 21


@pytest.fixture(scope="module")
def unit(golden) -> dict[str, torch.Tensor]:
    arrays = golden("unit08_seed_and_miou")
    return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}


def images(unit: dict[str, torch.Tensor]):
    """Score planes, keys and truth of the two images."""
    return [(unit[f"cam{n}"], unit[f"keys{n}"], unit[f"gt{n}"]) for n in (0, 1)]


def test_seed_labels(unit):
    names = {0.0: "0", 0.15: "0_15", 0.21: "0_21", 0.5: "0_5", 0.8: "0_8"}
    assert unit["thresholds"].tolist() == list(names)
    for threshold, name in names.items():
        for n, (scores, keys, _) in enumerate(images(unit)):
            assert torch.equal(seed_label(scores, keys, threshold), unit[f"seed{n}_t{name}"])


def test_confusion_and_miou_of_the_seeds(unit):
    for t, threshold in enumerate(unit["thresholds"].tolist()):
        confusion = sum(
            confusion_matrix(truth, seed_label(scores, keys, threshold), CLASSES)
            for scores, keys, truth in images(unit)
        )
        assert torch.equal(confusion, unit["confusion"][t])
        assert float(mean_iou(confusion)) == pytest.approx(float(unit["miou"][t]), abs=1e-12)


def test_one_pass_curve_holds_the_same_matrices(unit):
    bins = 100  # the maps have two decimals: every score lies on a threshold
    histogram = sum(
        threshold_histogram(scores.amax(0), keys[scores.argmax(0)], truth, bins, CLASSES)
        for scores, keys, truth in images(unit)
    )
    curve = threshold_curve(histogram)
    for t, threshold in enumerate(unit["thresholds"].tolist()):
        assert torch.equal(curve[round(threshold * bins)], unit["confusion"][t])


def test_pseudo_labels_with_void_as_background(unit):
    confusion = sum(
        confusion_matrix(unit[f"gt{n}"], void_as_background(unit[f"pl_pred{n}"]), CLASSES)
        for n in (0, 1)
    )
    assert torch.equal(confusion, unit["pl_confusion"])
    close = {"rtol": 0, "atol": 1e-12, "equal_nan": True}
    torch.testing.assert_close(iou(confusion), unit["pl_iou"], **close)
    torch.testing.assert_close(false_positives(confusion), unit["pl_fp"], **close)
    torch.testing.assert_close(false_negatives(confusion), unit["pl_fn"], **close)
    assert float(mean_iou(confusion)) == pytest.approx(float(unit["pl_miou"]), abs=1e-12)
