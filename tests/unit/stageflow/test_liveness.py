"""Who lives: by how long a beat stands still, and by the process on this machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stageflow import liveness
from stageflow.liveness import Silence, has_died_here, whereabouts


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


class Clock:
    """A monotonic clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(liveness.time, "monotonic", clock.monotonic)
    return clock


class TestSilence:
    def test_stands_still(self, clock: Clock) -> None:
        silence = Silence(10.0)
        told = []
        for value in (1, 1, 1, 2, 2):
            told.append(silence.look({"a": value})["a"])
            clock.now += 4
        assert told == [0, 4, 8, 0, 4]

    def test_while_nobody_looks_no_time_runs(self, clock: Clock) -> None:
        """A watcher that slept has not seen anybody be silent."""
        silence = Silence(10.0)
        silence.look({"a": 1})
        clock.now += 100_000
        assert silence.look({"a": 1}) == {"a": 10.0}

    def test_who_is_gone_begins_anew(self, clock: Clock) -> None:
        silence = Silence(10.0)
        silence.look({"a": 1})
        clock.now += 5
        assert silence.look({}) == {}
        assert silence.look({"a": 1}) == {"a": 0}


class TestDeathHere:
    def test_this_process_lives(self) -> None:
        assert not has_died_here(whereabouts())

    def test_an_ended_one_does_not(self) -> None:
        assert has_died_here({**whereabouts(), "pid": ended_process()})

    @pytest.mark.parametrize("other", [{"host": "another"}, {"world": "another start/or space"}])
    def test_elsewhere_its_number_means_nothing(self, other: dict[str, str]) -> None:
        assert not has_died_here({**whereabouts(), "pid": ended_process(), **other})
