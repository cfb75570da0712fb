"""A node in flight: reports once, progress added up, and what deaths make to be done again."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow.context import Report
from stageflow.flight import Flight

NOTHING: Any = None


@pytest.fixture
def flight() -> Flight:
    return Flight(NOTHING, NOTHING)


def test_a_report_counts_once(flight: Flight) -> None:
    told = [flight.report(Report(step, {"value": step})) for step in (1, 2, 2, 1, 3)]
    assert told == [True, True, False, False, True]
    assert [report.step for report in flight.reports] == [1, 2, 3]


def test_shards_are_added_up(flight: Flight) -> None:
    assert flight.advance(0, 2, 10) == (2, 10)
    assert flight.advance(1, 3, 11) == (5, 21)
    assert flight.advance(0, 4, 10) == (7, 21)
    assert (flight.total, flight.repeated) == (21, 0)


def test_what_a_death_costs(flight: Flight) -> None:
    """From behind the checkpoint up to where it was: of that shard alone, and once."""
    flight.advance(0, 37, 100)
    flight.advance(1, 9, 100)
    flight.interrupt(0)
    flight.advance(1, 10, 100)
    flight.advance(0, 31, 100)
    flight.advance(0, 32, 100)
    assert flight.repeated == 37 - 30


def test_nothing_is_lost_where_nothing_was_told(flight: Flight) -> None:
    flight.interrupt(0)
    flight.advance(0, 1, 100)
    assert flight.repeated == 0
