"""The machines of a cluster that is imagined: what fits on them, and what happens as they go."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from stageflow import machines_ray
from stageflow.machines_ray import VARIABLE, Machines, capacity, startable
from stageflow.stage import Needs

ONE = Needs(cpus=1)
TWO = Needs(cpus=2)
GPU = Needs(cpus=1, gpus=1)

Imagine = Callable[..., Machines]


@pytest.fixture
def imagine(monkeypatch: pytest.MonkeyPatch) -> Imagine:
    monkeypatch.delenv(VARIABLE, raising=False)

    def imagined(*machines: Needs, known: Machines | None = None) -> Machines:
        """A cluster of these machines, to a driver that has known another one before."""
        nodes = [
            {"Alive": True, "Resources": {"CPU": m.cpus, "GPU": m.gpus, "memory": m.memory}}
            for m in machines
        ]
        dead = {"Alive": False, "Resources": {"CPU": 1000.0}}
        monkeypatch.setattr(machines_ray, "ray", SimpleNamespace(nodes=lambda: [*nodes, dead]))
        return known or Machines()

    return imagined


@pytest.mark.parametrize(
    ("machines", "needs", "count"),
    [
        ([Needs(cpus=4)], ONE, 4),
        ([Needs(cpus=3), Needs(cpus=3)], TWO, 2),
        ([Needs(cpus=1), Needs(cpus=1)], TWO, 1),
        ([Needs(cpus=8, gpus=2)], Needs(gpus=0.5), 4),
        ([Needs(cpus=8, gpus=2)], Needs(gpus=0.6), 2),
        ([Needs(cpus=8, gpus=2)], Needs(gpus=0.34), 4),
        ([Needs(cpus=99, gpus=1)], Needs(gpus=0.1), 10),
        ([Needs(cpus=1, gpus=1)], Needs(gpus=0.1), 1),
        ([Needs(cpus=8, gpus=4), Needs(cpus=8, gpus=1)], Needs(gpus=2), 2),
        ([Needs(cpus=8, gpus=3), Needs(cpus=8, gpus=1)], Needs(gpus=2), 2),
        ([Needs(cpus=2, gpus=4), Needs(cpus=8, gpus=4)], Needs(cpus=8, gpus=4), 1),
        ([Needs(cpus=8)], Needs(gpus=0.5), 8),
        ([Needs(cpus=8, memory=100)], Needs(memory=30), 3),
        ([Needs(cpus=8)], Needs(cpus=0), 1),
    ],
)
def test_slots(imagine: Imagine, machines: list[Needs], needs: Needs, count: int) -> None:
    """As many as fit in whole pieces: half a core here and half there hold nothing."""
    assert imagine(*machines).slots(needs) == count


def test_capacity(imagine: Imagine) -> None:
    imagine(Needs(cpus=4, gpus=1, memory=10), Needs(cpus=8, memory=5))
    assert capacity() == Needs(cpus=12, gpus=1, memory=15)


def test_fitted(imagine: Imagine) -> None:
    """Without any GPU a stage gets at least a core; with one, what it asks for."""
    without = imagine(Needs(cpus=4))
    assert without.fitted(Needs(cpus=0.5, gpus=0.5, memory=3)) == Needs(cpus=1, memory=3)
    assert without.fitted(Needs(cpus=2, gpus=4)) == Needs(cpus=2)
    assert imagine(Needs(cpus=4, gpus=1)).fitted(Needs(cpus=0.5, gpus=0.5)) == Needs(
        cpus=0.5, gpus=0.5
    )


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Needs(cpus=4, gpus=1), ""),
        (Needs(cpus=5, gpus=1), "needs 5 CPU cores, the largest node has 4"),
        (Needs(cpus=6, gpus=3), ""),
        (
            Needs(gpus=4),
            "needs 4 processes of 0.25 CPU cores and 1 GPU each, the cluster has room for 3",
        ),
        (
            Needs(cpus=9, gpus=3),
            "needs 3 processes of 3 CPU cores and 1 GPU each, the cluster has room for 2",
        ),
        (
            Needs(cpus=4, gpus=4, memory=4000),
            "needs 4 processes of 1 CPU cores, 1,000 bytes and 1 GPU each, the cluster has room for"
            " 3",
        ),
        (Needs(cpus=10, gpus=2), "needs 5 CPU cores, the largest node has 4"),
    ],
)
def test_lacking(imagine: Imagine, needs: Needs, reason: str) -> None:
    """The processes of a group may be on different machines; each of them is on one."""
    machines = imagine(Needs(cpus=4, gpus=2, memory=9000), Needs(cpus=4, gpus=1, memory=9000))
    assert machines.lacking(needs) == reason


class TestGone:
    """GPUs that were there, and are not any more."""

    def test_their_work_waits(self, imagine: Imagine) -> None:
        machines = imagine(Needs(cpus=4, gpus=2), ONE)
        assert machines.missing(GPU) == machines.lacking(Needs(gpus=2)) == ""
        imagine(ONE, known=machines)
        assert machines.fitted(GPU) == GPU
        assert machines.lacking(GPU) == machines.lacking(Needs(gpus=2)) == ""
        assert machines.missing(GPU) == (
            "no machine is there with 1 CPU cores and 1 GPU: waits for one to join"
        )
        assert machines.missing(ONE) == ""

    def test_what_never_was_there_is_not_waited_for(self, imagine: Imagine) -> None:
        machines = imagine(Needs(cpus=4, gpus=2))
        machines.now()
        imagine(ONE, known=machines)
        assert machines.lacking(Needs(gpus=3)) != ""


class TestStartable:
    """Machines that the cluster starts when work waits for them."""

    @pytest.mark.parametrize(
        ("text", "machines"),
        [
            ("", []),
            ("2:cpus=15,gpus=1", 2 * [Needs(cpus=15, gpus=1)]),
            ("1:gpus=1,memory=1000 1:cpus=2", [Needs(cpus=0, gpus=1, memory=1000), TWO]),
        ],
    )
    def test_reads(self, text: str, machines: list[Needs]) -> None:
        assert startable(text) == machines

    @pytest.mark.parametrize("text", ["8", "x:cpus=1", "1:cores=2", "1:cpus=2;gpus=1", "1:cpus="])
    def test_refuses(self, text: str) -> None:
        with pytest.raises(ValueError, match=f"{VARIABLE} holds"):
            startable(text)

    def test_they_count_before_they_are_there(
        self, imagine: Imagine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else nothing would wait for them, and none be started."""
        machines = imagine(Needs(cpus=0))
        monkeypatch.setenv(VARIABLE, "3:cpus=4,gpus=1")
        assert machines.fitted(GPU) == GPU
        assert machines.slots(GPU) == 3
        assert machines.capacity() == Needs(cpus=12, gpus=3)
        assert machines.lacking(Needs(gpus=3)) == ""
        assert machines.lacking(Needs(gpus=4)) != ""
        assert machines.missing(GPU) != ""
