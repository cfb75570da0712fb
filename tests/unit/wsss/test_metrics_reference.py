"""Our scores beside those of torchmetrics and scikit-learn, on random and on real masks."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score, precision_score, recall_score
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from wsss.cam.seeds import label_scores
from wsss.config import LabelScore
from wsss.data import open_samples
from wsss.metrics import confusion_matrix, iou, mean_iou

Pairs = list[tuple[Tensor, Tensor]]
"""Truth and prediction of each image."""


def random_pairs(classes: int, absent: tuple[int, ...] = (), void: float = 0.1) -> Pairs:
    """Images of several sizes, half of whose pixels are right; some classes are nowhere."""
    rng = np.random.default_rng(classes)
    present = np.setdiff1d(np.arange(classes), absent)
    pairs = []
    for shape in ((31, 40), (17, 64), (50, 50)):
        truth = rng.choice(present, shape)
        found = np.where(rng.random(shape) < 0.5, truth, rng.choice(present, shape))
        truth[rng.random(shape) < void] = 255
        pairs.append((torch.from_numpy(truth), torch.from_numpy(found)))
    return pairs


def one_sided_pairs() -> Pairs:
    """A class that is only predicted, one that is only true, one under void alone, one nowhere."""
    truth = torch.tensor([[0, 0, 1, 1], [2, 2, 255, 0]])
    return [(truth, torch.tensor([[0, 3, 1, 0], [1, 0, 4, 0]]))]


@pytest.fixture(scope="module")
def real_pairs(voc_mini) -> Pairs:
    """Official masks, and the same moved by some pixels with void as background."""
    samples = open_samples(f"voc2012:{voc_mini}", "val[::12]")
    pairs = []
    for i in range(len(samples)):
        truth = samples.mask(i)
        moved = np.roll(truth, (7 + i, -11), (0, 1))
        moved[moved == 255] = 0
        pairs.append((torch.from_numpy(truth), torch.from_numpy(moved)))
    return pairs


CASES = [
    (lambda: random_pairs(21), 21),
    (lambda: random_pairs(81, absent=(0, 7, 80)), 81),
    (lambda: random_pairs(2, void=0.9), 2),
    (one_sided_pairs, 6),
    ("real_pairs", 21),
]


@pytest.fixture(params=CASES, ids=["21", "81, some absent", "2, mostly void", "one-sided", "VOC"])
def case(request) -> tuple[Pairs, int]:
    make, classes = request.param
    return (make() if callable(make) else request.getfixturevalue(make)), classes


def ours(pairs: Pairs, classes: int) -> Tensor:
    """The confusion of all images."""
    return torch.stack([confusion_matrix(*pair, classes) for pair in pairs]).sum(0)


def valid(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction of all pixels that are not void, in a row."""
    truth = torch.cat([pair[0].flatten() for pair in pairs]).numpy()
    found = torch.cat([pair[1].flatten() for pair in pairs]).numpy()
    return truth[truth != 255], found[truth != 255]


def occurring(pairs: Pairs) -> list[int]:
    truth, found = valid(pairs)
    return sorted(set(truth.tolist()) | set(found.tolist()))


def test_the_confusion_is_that_of_both(case: tuple[Pairs, int]):
    pairs, classes = case
    confusion = ours(pairs, classes)
    metric = MulticlassConfusionMatrix(classes, ignore_index=255)
    for truth, found in pairs:
        metric.update(found.long(), truth.long())
    assert torch.equal(confusion, metric.compute())
    expected = sklearn_confusion(*valid(pairs), labels=range(classes))
    assert np.array_equal(confusion.numpy(), expected)


def test_iou_of_each_class_and_their_mean_are_scikit_learns(case: tuple[Pairs, int]):
    pairs, classes = case
    there = occurring(pairs)
    expected = jaccard_score(*valid(pairs), labels=there, average=None)
    found = iou(ours(pairs, classes))
    assert found[there].tolist() == expected.tolist()
    assert sorted(set(range(classes)) - set(there)) == found.isnan().nonzero().flatten().tolist()
    assert float(mean_iou(ours(pairs, classes))) == pytest.approx(expected.mean(), rel=1e-14)


def test_iou_of_each_class_and_their_mean_are_torchmetrics(case: tuple[Pairs, int]):
    """It computes in float32, and its "macro" leaves out classes that occur nowhere, as ours."""
    pairs, classes = case
    tables = {
        average: MulticlassJaccardIndex(classes, average=average, ignore_index=255, zero_division=0)
        for average in ("macro", "none")
    }
    for metric in tables.values():
        for truth, found in pairs:
            metric.update(found.long(), truth.long())
    confusion = ours(pairs, classes)
    there = occurring(pairs)
    close = {"rtol": 0, "atol": 1e-6}
    each = tables["none"].compute().double()
    torch.testing.assert_close(iou(confusion)[there], each[there], **close)
    torch.testing.assert_close(mean_iou(confusion), tables["macro"].compute().double(), **close)


def test_the_table_of_classes(case: tuple[Pairs, int]):
    """IoU by name, and what is wrong and missed, from scikit-learn's precision and recall."""
    pairs, classes = case
    names = ("background", *(f"class {c}" for c in range(1, classes)))
    table = label_scores(ours(pairs, classes), names, LabelScore())
    there = occurring(pairs)
    each = dict(zip(there, jaccard_score(*valid(pairs), labels=there, average=None), strict=True))
    told = {name.removeprefix("iou/"): v for name, v in table.items() if name.startswith("iou/")}
    assert told == {names[c]: value for c, value in each.items()}
    truth, found = valid(pairs)
    if 0 in there:
        union = np.sum((truth == 0) | (found == 0))
        wrong = (1 - precision_score(truth == 0, found == 0)) * np.sum(found == 0)
        missed = (1 - recall_score(truth == 0, found == 0)) * np.sum(truth == 0)
        assert table["fp/background"] == pytest.approx(wrong / union)
        assert table["fn/background"] == pytest.approx(missed / union)
