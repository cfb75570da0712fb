"""What the experiment declares: options to configs, parameters to nodes, entries to words."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from sweeps.recam_threshold import (
    SWEEP,
    Options,
    Params,
    entries,
    pipeline,
    space,
    tuned,
)

SCENES = Options(data="scenes:images=12")


def photographs(root: Path, **given: object) -> Options:
    return replace(Options(data=f"voc2012:{root}", backbone="efficientnet_lite0"), **given)


def test_the_defaults_are_the_published_ones() -> None:
    assert SWEEP.defaults == Params(loss_weight=1.0, extraction="product", threshold=0.21)


def test_proposals_lie_on_the_grid_of_the_curve() -> None:
    study = optuna.create_study()
    for _ in range(30):
        params = space(study.ask(), SCENES)
        assert params.threshold == round(params.threshold, 2)
        assert 0.05 <= params.threshold <= 0.6


def test_only_what_differs_is_made_again() -> None:
    """A threshold shares everything but the look-up, an extraction weight shares the training."""
    nodes = {
        name: pipeline(params, SCENES)
        for name, params in {
            "published": Params(),
            "threshold": Params(threshold=0.3),
            "extraction": Params(extraction="w"),
            "loss": Params(loss_weight=0.1),
        }.items()
    }
    quality = {name: node.parents[0] for name, node in nodes.items()}
    training = {name: node.parents[0].parents[0] for name, node in quality.items()}
    assert len({node.key for node in nodes.values()}) == 4
    assert quality["threshold"] == quality["published"]
    assert quality["extraction"] != quality["published"]
    assert training["extraction"] == training["published"]
    assert training["loss"] != training["published"]


def test_cam_and_recam_of_one_seed_start_from_one_classifier() -> None:
    shown = entries(Params(), replace(SCENES, seeds=2))
    assert [entry.method for entry in shown] == ["CAM", "CAM", "CAM", "ReCAM", "ReCAM"]

    def classifiers(index: int) -> list[str]:
        found = []
        for target in shown[index].targets:
            node = target
            while node.parents:
                node = node.parents[0]
            found.append(node.key)
        return found

    assert classifiers(0) == classifiers(2) == classifiers(3)
    assert len(set(classifiers(0))) == 2


def test_what_masks_chose_is_said(voc_mini: Path) -> None:
    published = photographs(voc_mini, backbone="resnet50")
    best, fixed, longer, ours, ours_fixed = entries(Params(threshold=0.3), published)
    assert [e.oracle for e in (best, fixed, longer, ours, ours_fixed)] == [
        *(True, False, True, True, True)
    ]
    assert "searched with masks" in ours_fixed.note
    assert "threshold 0.15" in fixed.variant
    assert "threshold 0.3" in ours_fixed.variant
    tuned_with_masks = entries(Params(threshold=0.3), SCENES)
    assert {entry.oracle for entry in tuned_with_masks} == {True}


def test_steps_that_the_user_wants(voc_mini: Path) -> None:
    found = tuned(photographs(voc_mini, cam_steps=2, recam_steps=3))
    assert (found.cam.steps, found.cam.epochs) == (2, 2)
    assert (found.recam.steps, found.recam.epochs) == (3, 3)


@pytest.mark.parametrize(
    ("field", "value"), [("seeds", 0), ("probe", -1), ("cam_steps", -2), ("cam_threshold", 2.0)]
)
def test_options_are_checked(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field} is {value}: give"):
        replace(SCENES, **{field: value})
