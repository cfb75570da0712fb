"""What the search of label settings declares."""

from dataclasses import replace

import optuna
import pytest

from stageflow.stage import Node, ancestry
from sweeps.labels import SWEEP, Options, Params, entries, pipeline, space
from wsss.config import IRLabels, PseudoLabels, Walk

SCENES = Options(data="scenes:images=16", seeds=2)


def made(node: Node) -> dict[str, str]:
    return {other.name: other.key for other in ancestry(node)}


def test_the_defaults_are_the_published_ones() -> None:
    node = pipeline(Params(), SCENES)
    assert node.config.threshold == PseudoLabels().threshold
    configs = {other.name: other.config for other in ancestry(node)}
    assert configs["ir_labels"] == IRLabels()
    assert configs["walked_maps"] == Walk()
    assert SWEEP.defaults == Params()


def test_a_walk_costs_no_training_and_a_threshold_no_walk() -> None:
    default = made(pipeline(Params(), SCENES))
    walk = made(pipeline(Params(beta=5.0), SCENES))
    cut = made(pipeline(Params(threshold=0.4), SCENES))
    labels = made(pipeline(Params(gt_prob=0.9), SCENES))
    assert walk["train_irnet"] == default["train_irnet"]
    assert walk["walked_maps"] != default["walked_maps"]
    assert cut["walked_maps"] == default["walked_maps"]
    assert labels["train_irnet"] != default["train_irnet"]
    assert labels["recam_maps"] == default["recam_maps"]


def test_every_proposal_can_be_made() -> None:
    study = optuna.create_study()
    for _ in range(30):
        assert pipeline(space(study.ask(), SCENES), SCENES).name == "seed_score"


def test_what_was_searched_stands_beside_what_was_published() -> None:
    found = entries(Params(beta=5.0), SCENES)
    other = replace(SCENES, method="CAM")  # the defaults are not those that were published for it
    assert len(entries(Params(), other)) == len(found)
    assert {entry.variant.partition(",")[0] for entry in found} == {"published", "searched"}
    assert all(entry.oracle for entry in found if entry.note)
    assert len(entries(Params(), SCENES)) == len(found) / 2


@pytest.mark.parametrize("method", ["SFC", "recam"])
def test_a_method_without_plain_score_maps_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=f"method is '{method}': choose from CAM, ReCAM"):
        replace(SCENES, method=method)
