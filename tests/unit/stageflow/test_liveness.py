"""Who lives: by the beat, by the process on this machine, and never by a clock elsewhere."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stageflow import liveness
from stageflow.liveness import Watch, has_died_here, whereabouts

ELSEWHERE = {"host": "another", "pid": 1, "world": "w"}


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


class TestWatch:
    def test_a_beat_that_changes_is_a_life(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watch, clock = Watch(10.0), iter([0.0, 9.0, 18.0])
        monkeypatch.setattr(liveness.time, "monotonic", lambda: next(clock))
        assert all(watch.lives("driver", beat, ELSEWHERE) for beat in (b"1", b"2", b"3"))

    def test_one_that_stands_still_too_long_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watch, clock = Watch(10.0), iter([0.0, 9.0, 11.0, 12.0])
        monkeypatch.setattr(liveness.time, "monotonic", lambda: next(clock))
        told = [watch.lives("driver", b"1", ELSEWHERE) for _ in range(3)]
        assert told == [True, True, False]
        assert watch.lives("driver", b"2", ELSEWHERE), "it only slept"

    def test_what_others_do_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watch, clock = Watch(10.0), iter([0.0, 5.0, 11.0])
        monkeypatch.setattr(liveness.time, "monotonic", lambda: next(clock))
        watch.lives("one", b"1", ELSEWHERE)
        watch.lives("two", b"2", ELSEWHERE)
        assert not watch.lives("one", b"1", ELSEWHERE)


class TestDeathHere:
    def test_this_process_lives(self) -> None:
        assert not has_died_here(whereabouts())

    def test_an_ended_one_does_not(self) -> None:
        assert has_died_here({**whereabouts(), "pid": ended_process()})

    @pytest.mark.parametrize("other", [{"host": "another"}, {"world": "another start/or space"}])
    def test_elsewhere_its_number_means_nothing(self, other: dict[str, str]) -> None:
        assert not has_died_here({**whereabouts(), "pid": ended_process(), **other})

    def test_an_ended_one_needs_no_waiting(self) -> None:
        assert not Watch(1e9).lives("driver", b"1", {**whereabouts(), "pid": ended_process()})
