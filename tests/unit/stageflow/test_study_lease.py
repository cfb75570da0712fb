"""Who drives a study: leases judged without comparing clocks, and dead processes seen at once."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from stageflow import study_lease as module
from stageflow.study_lease import BEAT_SECONDS, LEASE_SECONDS, Drivers
from tests.unit.stageflow.conftest import Clock, ended_process


class Notes:
    """Notes that all drivers of a test see."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def note(self, name: str, value: Any) -> None:
        self.kept[name] = None if value is None else dict(value)

    def notes(self) -> Mapping[str, Any]:
        return dict(self.kept)


@pytest.fixture
def notes() -> Notes:
    return Notes()


def entered(notes: Notes, name: str) -> Drivers:
    drivers = Drivers(notes, name)
    drivers.enter()
    return drivers


def change(notes: Notes, driver: str, **changes: object) -> None:
    notes.kept[f"driver/{driver}"].update(changes)


def look_for(seconds: float, drivers: Drivers, clock: Clock) -> list[str]:
    """Whom it holds for dead after it has looked as often as a driver does."""
    until = clock.now + seconds
    dead = drivers.look()[1]
    while clock.now < until:
        clock.now += BEAT_SECONDS
        dead = drivers.look()[1]
    return dead


class TestDrivers:
    def test_come_and_go(self, notes: Notes) -> None:
        one = entered(notes, "one")
        assert one.look() == (["one"], [])
        assert one.others() == []
        two = entered(notes, "a second")
        assert one.look() == two.look() == (["one", "a second"], [])
        assert one.others() == [f"process {os.getpid()} on {socket.gethostname()}"]
        assert (one.is_first(), two.is_first()) == (True, False)
        one.leave()
        assert two.look() == (["a second"], [])
        assert two.is_first()

    def test_at_once(self, notes: Notes) -> None:
        """Two that saw nobody else agree who is first."""
        one, two = entered(notes, "one"), Drivers(Notes(), "two")
        two.enter()
        notes.note("driver/two", two._study.notes()["driver/two"])
        two._study = notes
        assert (one.is_first(), two.is_first()) == (True, False)

    def test_dead_process(self, notes: Notes) -> None:
        """Nobody has to wait for a driver that is known to be dead."""
        entered(notes, "dead")
        change(notes, "dead", pid=ended_process())
        assert entered(notes, "me").look() == (["me"], ["dead"])

    def test_of_another_place_a_process_says_nothing(self, notes: Notes) -> None:
        """Two containers of one host name number their processes each for itself."""
        entered(notes, "other")
        change(notes, "other", pid=ended_process(), world="boot/1")
        assert entered(notes, "me").look() == (["other", "me"], [])

    def test_silent_for_long(self, notes: Notes, clock: Clock) -> None:
        entered(notes, "other")
        change(notes, "other", host="elsewhere")
        me = entered(notes, "me")
        assert look_for(LEASE_SECONDS, me, clock) == []
        assert look_for(BEAT_SECONDS, me, clock) == ["other"]

    def test_signs_of_life_count_and_no_clock(self, notes: Notes, clock: Clock) -> None:
        """Whatever the clock of the other says, who changes its beat lives."""
        entered(notes, "other")
        change(notes, "other", host="elsewhere")
        me = entered(notes, "me")
        for beat in range(10):
            change(notes, "other", beat=beat)
            assert look_for(LEASE_SECONDS - BEAT_SECONDS, me, clock) == []

    def test_one_that_only_slept_is_back(self, notes: Notes, clock: Clock) -> None:
        """It gives a sign of life before it asks for anything."""
        slept = entered(notes, "slept")
        me = entered(notes, "me")
        me.bury("slept")
        assert me.look() == (["me"], [])
        slept.show()
        assert me.look() == (["me"], [])  # it has beaten a moment ago
        clock.now += 3 * BEAT_SECONDS
        slept.show()
        assert me.look() == (["slept", "me"], [])

    def test_who_never_entered_shows_nothing(self, notes: Notes, clock: Clock) -> None:
        looks = Drivers(notes, "looks")
        clock.now += 1000
        looks.show()
        assert notes.kept == {}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    return


@pytest.mark.usefixtures("fast")
class TestBeating:
    def test_renews(self, notes: Notes) -> None:
        me = entered(notes, "me")
        done: list[int] = []
        with me.beating(lambda: done.append(1)):
            wait_for(lambda: len(done) > 3)
        assert notes.kept["driver/me"]["beat"] > 3
        last = len(done)
        time.sleep(0.1)
        assert len(done) == last

    def test_a_storage_that_is_away_for_a_moment(self, notes: Notes) -> None:
        me = entered(notes, "me")
        done: list[int] = []

        def then() -> None:
            done.append(1)
            if len(done) < 3:
                raise OSError("away")

        with me.beating(then):
            wait_for(lambda: len(done) > 3)


def wait_for(true: Any) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)
