"""What the search of SFC's weights declares."""

from dataclasses import replace

import optuna
import pytest

from stageflow.stage import Node, ancestry
from sweeps.sfc_weights import SWEEP, UNCALIBRATED, Options, Params, entries, pipeline, space
from wsss.config import SFCTraining

SCENES = Options(data="scenes:images=16", seeds=2)


def training(node: Node) -> Node:
    [found] = [other for other in ancestry(node) if other.name == "train_sfc"]
    return found


def test_the_defaults_are_the_published_ones() -> None:
    published = SFCTraining()
    assert SWEEP.defaults.p_weight == published.p_weight
    assert SWEEP.defaults.w_weight == published.w_weight
    assert SWEEP.defaults.n_bank == published.n_bank
    assert pipeline(Params(), SCENES).config.threshold == pytest.approx(1.4 / 3)


def test_a_mixture_and_a_bias_cost_no_training() -> None:
    default = training(pipeline(Params(), SCENES))
    assert training(pipeline(Params(prototype_share=0.5, bias=0.1), SCENES)) == default
    assert training(pipeline(Params(n_bank=0), SCENES)) != default


def test_every_proposal_lies_on_the_curve() -> None:
    study = optuna.create_study()
    for _ in range(20):
        params = space(study.ask(), SCENES)
        place = (params.bias + 1) / 3 * 300
        assert place == pytest.approx(round(place), abs=1e-6)


def test_what_was_searched_stands_beside_what_was_not() -> None:
    found = entries(Params(p_weight=0.8), SCENES)
    words = {entry.variant.partition(",")[0] for entry in found if entry.method == "SFC"}
    assert words == {"published", "no losses", "p 0.8"}
    assert all(entry.oracle for entry in found if "searched with masks" in entry.note)
    assert not any("searched" in entry.note for entry in entries(Params(), SCENES))
    assert UNCALIBRATED.p_weight == UNCALIBRATED.w_weight == UNCALIBRATED.n_bank == 0


def test_steps_that_the_user_wants() -> None:
    config = training(pipeline(Params(), replace(SCENES, sfc_steps=5))).config
    assert (config.steps, config.epochs) == (5, 5)
