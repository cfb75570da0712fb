"""Who lives: by how long a beat stands still, and by the process on this machine."""

from __future__ import annotations

import os

import pytest

from stageflow.liveness import Silence, has_died_here, lives_here, whereabouts
from tests.unit.stageflow.conftest import Clock, ended_process


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

    def test_someone_else_s_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who may not send it a signal has found it."""

        def refuse(process: int, signal: int) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "kill", refuse)
        assert lives_here(1)
        assert not has_died_here(whereabouts())

    @pytest.mark.parametrize("other", [{"host": "another"}, {"world": "another start/or space"}])
    def test_elsewhere_its_number_means_nothing(self, other: dict[str, str]) -> None:
        assert not has_died_here({**whereabouts(), "pid": ended_process(), **other})
