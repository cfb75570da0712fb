"""What a group consists of, and how its end is told."""

from __future__ import annotations

import pickle

import pytest

from stageflow.executor import Failed
from stageflow.group_ray import RankFailed, ranks, share
from stageflow.stage import Needs


@pytest.mark.parametrize(
    ("needs", "count", "each"),
    [
        (Needs(cpus=2), 1, Needs(cpus=2)),
        (Needs(cpus=2, gpus=0.5), 1, Needs(cpus=2, gpus=0.5)),
        (Needs(cpus=2, gpus=1, memory=9), 1, Needs(cpus=2, gpus=1, memory=9)),
        (Needs(cpus=2, gpus=4, memory=9), 4, Needs(cpus=0.5, gpus=1, memory=2)),
    ],
)
def test_ranks(needs: Needs, count: int, each: Needs) -> None:
    """One for each whole GPU, with an equal share of everything."""
    assert ranks(needs) == count
    assert share(needs) == each


def test_a_failure_travels() -> None:
    failed = Failed("LookupError: no such", "Traceback ...")
    assert pickle.loads(pickle.dumps(RankFailed(failed))).failed == failed
