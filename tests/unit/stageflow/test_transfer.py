"""Many files at once: order, errors, and what people see of it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import pytest

from stageflow import transfer
from stageflow.transfer import bar, each, lines, shown


@dataclass(frozen=True)
class Number:
    size: int


def test_results_keep_the_order_of_the_items(capsys: pytest.CaptureFixture[str]) -> None:
    done = each("counting", range(100), Number, shown)
    assert [number.size for number in done] == [*range(100)]
    assert capsys.readouterr().err == ""  # it took no two seconds


def test_several_are_done_at_a_time() -> None:
    together = threading.Barrier(transfer.THREADS, timeout=30)

    def work(size: int) -> Number:
        together.wait()
        return Number(size)

    assert len(each("meeting", range(transfer.THREADS), work, shown)) == transfer.THREADS


def test_the_first_error_leaves_what_has_not_begun() -> None:
    begun = []

    def work(size: int) -> Number:
        begun.append(size)
        time.sleep(0.01)
        raise ValueError(f"number {size}")

    with pytest.raises(ValueError, match="number 0"):
        each("failing", range(10_000), work, shown)
    assert len(begun) < 10_000


def test_lines_say_what_has_come(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 3.0, 4.0, 20.0])
    monkeypatch.setattr(transfer.time, "monotonic", lambda: next(clock))
    with lines("fetching s3://bucket/voc", 9) as advance:
        for _ in range(4):
            advance(5_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "fetching s3://bucket/voc: 2/9 files, 10 MB, 3 MB/s",
        "fetching s3://bucket/voc: 4/9 files, 20 MB, 1 MB/s",
    ]


def test_a_bar_takes_names_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with bar("reading [bold]/data", 2) as advance:
        advance(5_000_000)
        advance(7_000_000)
    told = capsys.readouterr().err
    assert "reading [bold]/data  12 MB" in told
    assert "2/2" in told


class Size(int):
    """Bytes that count how often they are added to something."""

    added = 0

    def __radd__(self, other: int) -> int:
        Size.added += 1
        return other + int(self)


def test_a_bar_adds_each_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To sum all up for each file takes minutes for a hundred thousand."""
    monkeypatch.setattr(Size, "added", 0)
    with bar("fetching", 100) as advance:
        for _ in range(100):
            advance(Size(5))
    assert Size.added == 100
