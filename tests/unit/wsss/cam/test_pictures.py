"""Which pictures are drawn of two methods, and of which images."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsss.cam import pictures
from wsss.cam.pictures import Drawn, seed_pictures
from wsss.cam.scores import ScoreMap, ScoreMaps, write_scores
from wsss.cam.seeds import seed_curve
from wsss.data import Samples, open_samples


@pytest.fixture(scope="module")
def masks() -> Samples:
    return open_samples("scenes:images=10", "train")


@pytest.fixture(scope="module")
def methods(masks: Samples, tmp_path_factory: pytest.TempPathFactory) -> list[Drawn]:
    """Two methods whose scores are the masks, at the heights .3 and .9."""

    def drawn(name: str, height: float) -> Drawn:
        folder = tmp_path_factory.mktemp(name)
        write_scores(folder, (scores(i, height) for i in range(len(masks))))
        maps = ScoreMaps(folder)
        return Drawn(name=name, maps=maps, curve=seed_curve(maps, masks, 20, lambda *at: None))

    def scores(i: int, height: float) -> ScoreMap:
        mask = masks.mask(i)
        keys = torch.from_numpy(np.flatnonzero(masks.labels[i]))
        coarse = torch.from_numpy(mask[::4, ::4].copy())
        planes = torch.stack([height * (coarse == key + 1) for key in keys])
        return ScoreMap(masks.ids[i], keys, planes, (mask.shape[0], mask.shape[1]))

    return [drawn("Low", 0.3), drawn("High", 0.9)]


def test_each_picture_is_a_png(methods: list[Drawn], masks: Samples) -> None:
    drawn = dict(seed_pictures(methods, masks, (), 2))
    assert set(drawn) == {
        *("threshold_curve.png", "overlays.png", "class_iou.png"),
        *("confused_low.png", "confused_high.png"),
    }
    for png in drawn.values():
        assert Image.open(io.BytesIO(png)).format == "PNG"


def test_each_method_is_drawn_at_its_best_threshold(
    methods: list[Drawn], masks: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, float] = {}
    draw = pictures.threshold_curves

    def spy(curves: object, at: object, chosen: dict[str, float]) -> object:
        seen.update(chosen)
        return draw(curves, at, chosen)  # type: ignore[arg-type]

    monkeypatch.setattr(pictures, "threshold_curves", spy)
    dict(seed_pictures(methods, masks, (), 1))
    assert seen["Low"] < 0.3
    assert 0.3 < seen["High"] < 0.9


def test_bars_keep_to_the_wanted_classes(
    methods: list[Drawn], masks: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, np.ndarray] = {}
    draw = pictures.class_bars

    def spy(iou: dict[str, np.ndarray], names: object, counts: object) -> object:
        seen.update(iou)
        return draw(iou, names, counts)  # type: ignore[arg-type]

    monkeypatch.setattr(pictures, "class_bars", spy)
    dict(seed_pictures(methods, masks, ("background", "cat"), 1))
    shown = np.flatnonzero(~np.isnan(seen["High"]))
    assert shown.tolist() == [0, 1 + masks.classes.index("cat")]


def test_images_with_several_classes_come_first(masks: Samples) -> None:
    several = np.flatnonzero(masks.labels.sum(1) > 1)
    assert set(pictures.shown_images(masks, 3)) <= set(several.tolist())
    assert pictures.shown_images(masks, 50) == list(range(len(masks)))


def test_an_unknown_class_is_named(methods: list[Drawn], masks: Samples, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="class 'kat' is unknown: did you mean cat"):
        dict(seed_pictures(methods, masks, ("kat",), 1))
