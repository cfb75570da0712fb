"""How many trials a search on Ray runs at once, on a cluster that is imagined."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stageflow import machines_ray
from stageflow.machines_ray import VARIABLE
from stageflow.search_ray import StudySearcher
from tests.unit.stageflow.conftest import opened


class Cluster:
    """One machine, whose cores and GPUs change."""

    def __init__(self, cpus: int, gpus: int) -> None:
        self.cpus, self.gpus = cpus, gpus

    def nodes(self) -> list[dict[str, Any]]:
        """As of `ray`."""
        return [{"Alive": True, "Resources": {"CPU": self.cpus, "GPU": self.gpus}}]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster(16, 2)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(machines_ray, "ray", cluster)
    return cluster


def begun(searcher: StudySearcher) -> int:
    """How many trials run after all have begun that may."""
    searcher.rest = 0.0
    while isinstance(searcher.suggest(str(len(searcher.numbers))), dict):
        pass
    return len(searcher.numbers)


def test_as_many_as_fit(url: str, cluster: Cluster) -> None:
    """Two for each GPU, and no more where those are gone; they come again, and more."""
    searcher = StudySearcher(opened(url), SimpleNamespace(), 100, 0)
    assert begun(searcher) == 4
    cluster.gpus = 0
    assert begun(searcher) == 4
    cluster.gpus = 3
    assert begun(searcher) == 6


def test_without_gpus(url: str, cluster: Cluster) -> None:
    cluster.gpus = 0
    assert begun(StudySearcher(opened(url), SimpleNamespace(), 100, 0)) == 16
    assert begun(StudySearcher(opened(url, "few"), SimpleNamespace(), 100, 3)) == 3
