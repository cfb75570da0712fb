"""Curves of score maps: against masks cut by hand, and what is said of one point."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from wsss.cam.scores import ScoreMap, ScoreMaps, write_scores
from wsss.cam.seeds import label_scores, read_curve, seed_curve, seed_scores, write_curve
from wsss.config import LabelScore, SeedScore
from wsss.data import open_samples

NAMES = ("background", "cat", "dog")


def test_perfect_maps_reach_all_of_it(tmp_path: Path) -> None:
    samples = open_samples("scenes:images=6", "train")

    def perfect(i: int) -> ScoreMap:
        mask = samples.mask(i)
        keys = torch.from_numpy(np.flatnonzero(samples.labels[i]))
        every = torch.from_numpy(mask[::4, ::4].copy())
        planes = torch.stack([(every == key + 1).float() for key in keys])
        return ScoreMap(samples.ids[i], keys, planes, (mask.shape[0], mask.shape[1]))

    write_scores(tmp_path, (perfect(i) for i in range(6)))
    told: list[tuple[int, int]] = []
    curve = seed_curve(ScoreMaps(tmp_path), samples, 20, lambda *at: told.append(at))
    found = seed_scores(curve, ("background", *samples.classes), SeedScore())
    assert found["miou"] > 0.8  # what a quarter of the resolution leaves
    assert 0.1 < found["threshold"] < 0.9
    assert told[-1] == (6, 6)


def test_masks_without_maps_are_named(tmp_path: Path) -> None:
    samples = open_samples("scenes:images=6", "train")
    only = ScoreMap("stranger", torch.tensor([0]), torch.zeros(1, 2, 2), (8, 8))
    write_scores(tmp_path, [only])
    with pytest.raises(
        ValueError, match=f"6 images have no score maps, {samples.ids[0]} first"
    ):
        seed_curve(ScoreMaps(tmp_path), samples, 20, lambda *at: None)


def test_one_point_of_a_curve() -> None:
    """At threshold 0 all is cat; at .5 half of it; at 1 nothing is."""
    curve = torch.zeros(3, 3, 3, dtype=torch.int64)
    curve[0, 0, 1], curve[0, 1, 1] = 60, 40
    curve[1, 0, 0], curve[1, 0, 1], curve[1, 1, 1] = 50, 10, 40
    curve[2, 0, 0], curve[2, 1, 0] = 60, 40
    best = seed_scores(curve, NAMES, SeedScore())
    assert best["threshold"] == 0.5
    assert best["iou/cat"] == pytest.approx(40 / 50)
    assert best["iou/background"] == pytest.approx(50 / 60)
    assert best["miou"] == pytest.approx((40 / 50 + 50 / 60) / 2)
    assert best["background_share"] == pytest.approx(10 / 50)
    assert "iou/dog" not in best
    only_cat = SeedScore(threshold=0.0, classes=("cat",))
    assert seed_scores(curve, NAMES, only_cat)["miou"] == pytest.approx(0.4)


def test_rare_classes_and_classes_that_come_together_are_scored_by_themselves() -> None:
    confusion = torch.tensor([[50, 0, 0, 0], [2, 6, 2, 0], [5, 3, 22, 0], [4, 0, 0, 6]])
    names = ("background", "boat", "water", "cat")
    config = LabelScore(tail=("boat", "cat"), pairs=(("boat", "water"),))
    found = label_scores(confusion, names, config)
    assert found["pair_confusion"] == pytest.approx((2 + 3) / (10 + 30))
    assert found["tail_miou"] == pytest.approx((6 / 13 + 6 / 10) / 2)
    assert not {"tail_miou", "pair_confusion"} & set(label_scores(confusion, names, LabelScore()))
    with pytest.raises(ValueError, match="class 'watre' is unknown"):
        label_scores(confusion, names, LabelScore(pairs=(("boat", "watre"),)))


def test_curves_on_disk(tmp_path: Path) -> None:
    curve = torch.arange(27).reshape(3, 3, 3)
    write_curve(tmp_path / "curve.npz", curve, NAMES[1:])
    read, names = read_curve(tmp_path / "curve.npz")
    assert torch.equal(read, curve)
    assert names == NAMES


def test_an_unknown_class_gets_advice() -> None:
    message = re.escape("class 'dgo' is unknown: did you mean dog?")
    with pytest.raises(ValueError, match=message):
        seed_scores(torch.ones(3, 3, 3), NAMES, SeedScore(classes=("dgo",)))
