"""The live view: one line an event where nothing can be redrawn, else a table."""

from __future__ import annotations

import io
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from stageflow import live
from stageflow.executor import Event, Kind
from stageflow.live import LiveView

KEY = "0123456789abcdef0123"


def view(*, terminal: bool = False, width: int = 80) -> tuple[LiveView, Callable[[], str]]:
    """A view, and what it has printed so far."""
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=width, highlight=False, no_color=True
    )

    def printed() -> str:
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    return LiveView(console, headline=lambda: "study: 1 of 3 trials [best]"), printed


def event(kind: Kind, text: str = "", key: str = KEY, **more: object) -> Event:
    return Event(kind, "recam_train", key, text, **more)  # type: ignore[arg-type]


def table(shown: LiveView, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, no_color=True)
    console.print(shown.table())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (event(Kind.HIT), "0:00  hit         recam_train 012345"),
        (event(Kind.STARTED, "shard 1 of 2"), "started     recam_train 012345  shard 1 of 2"),
        (
            event(Kind.FINISHED, metrics={"miou": 0.51234, "iou/cat": 0.5, "a": 1}, seconds=12.34),
            "finished    recam_train 012345  miou 0.5123  a 1  12.3 s",
        ),
        (
            event(Kind.FAILED, "OSError: [a/b] gone"),
            "failed      recam_train 012345  OSError: [a/b] gone",
        ),
        (event(Kind.BLOCKED, "x: [/]"), "blocked     recam_train 012345  x: [/]"),
        (event(Kind.CANCELLED, "no trial wants"), "cancelled   recam_train 012345  no trial wants"),
        (event(Kind.INTERRUPTED, "died"), "interrupted recam_train 012345  died"),
        (event(Kind.WAITING, "process 7"), "waiting     recam_train 012345  process 7"),
    ],
)
def test_lines(told: Event, line: str) -> None:
    """Texts of errors are shown as they are: brackets are no markup."""
    shown, printed = view()
    shown(told)
    assert printed().endswith(f"{line}\n")


def test_one_line_an_event() -> None:
    """However long: a log is searched line by line."""
    shown, printed = view(width=40)
    shown(event(Kind.FAILED, "word " * 100))
    shown(event(Kind.HIT))
    assert len(printed().splitlines()) == 2


def test_reports_and_progress_make_no_lines_at_once() -> None:
    shown, printed = view()
    shown(event(Kind.STARTED))
    for done in range(100):
        shown(event(Kind.PROGRESS, "steps", done=done, total=100))
        shown(event(Kind.REPORT, done=done, metrics={"loss": 1.0}))
    assert len(printed().splitlines()) == 1


def test_progress_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    shown, printed = view(width=30)
    shown.begun = clock[0]
    shown(event(Kind.STARTED))
    for second in range(1, 36):
        clock[0] = 100.0 + second
        shown(event(Kind.PROGRESS, "[red]loss[/] 0.5, going on", done=second, total=40))
    lines = printed().splitlines()[1:]
    assert [line.strip() for line in lines] == [
        f"0:{second}  recam_train 012345  {second}/40 [red]loss[/] 0.5, going on"
        for second in (11, 22, 33)
    ]


def test_table() -> None:
    """What runs and how far it is, what was made, what came from the store."""
    shown, _ = view(terminal=True)
    shown(event(Kind.STARTED))
    shown(event(Kind.PROGRESS, "[b]steps[/b]", done=30, total=40))
    shown(event(Kind.STARTED, key="f" * 20))
    for key in ("a", "b", "c"):
        shown(event(Kind.STARTED, key=key))
        shown(event(Kind.FINISHED, key=key, seconds=1.0))
    shown(event(Kind.HIT, key="d"))
    text = table(shown)
    assert text.startswith("study: 1 of 3 trials [best]   0:00")
    assert re.search(r"recam_train 012345 .* 0:00 +30/40 \[b\]steps\[/b\]", text)
    assert "recam_train ffffff" in text
    assert "made recam_train ×3   from the store 1" in text


@pytest.mark.parametrize("end", [Kind.FINISHED, Kind.FAILED, Kind.CANCELLED])
def test_what_ended_runs_no_more(end: Kind) -> None:
    shown, _ = view(terminal=True)
    shown(event(Kind.STARTED))
    assert "012345" in table(shown)
    shown(event(end))
    assert "012345" not in table(shown)


def test_interrupted_still_runs() -> None:
    shown, _ = view(terminal=True)
    shown(event(Kind.STARTED))
    shown(event(Kind.INTERRUPTED))
    assert "012345" in table(shown)


def test_terminal_prints_what_matters() -> None:
    """Not each hit and start, which the table counts; failures stay on the screen."""
    shown, printed = view(terminal=True)
    with shown.shown():
        shown(event(Kind.HIT))
        shown(event(Kind.STARTED))
        shown(event(Kind.FAILED, "OSError: gone"))
    assert "hit" not in printed()
    assert "OSError: gone" in printed()


@pytest.fixture
def _restless() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_restless")
def test_events_while_it_is_drawn() -> None:
    """They come from another thread than the one that draws."""
    shown, _ = view(terminal=True)
    over = threading.Event()

    def tell() -> None:
        number = 0
        while not over.is_set():
            number += 1
            shown(Event(Kind.STARTED, f"stage{number}", f"key{number}"))
            shown(Event(Kind.FINISHED, f"stage{number}", f"key{number}"))
            if number % 1000 == 0:
                shown.finished_stages.clear()

    telling = threading.Thread(target=tell)
    telling.start()
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            shown.table()
    finally:
        over.set()
        telling.join()


def test_what_deaths_have_cost() -> None:
    """At the end, for each stage of which a worker died; nothing where none did."""
    shown, printed = view()
    with shown.shown():
        shown(event(Kind.FINISHED))
    assert "done again" not in printed()
    with shown.shown():
        for _ in range(2):
            shown(event(Kind.INTERRUPTED, "died"))
        shown(event(Kind.FINISHED, repeated=12, total=220))
        shown(event(Kind.INTERRUPTED, "died", key="fedcba9876543210"))
    table = [re.split(r"\s{2,}", line.strip()) for line in printed().splitlines()]
    assert ["stage", "key", "deaths", "done again"] in table
    assert ["recam_train", KEY[:8], "2", "12 of 220"] in table
    assert ["recam_train", "fedcba98", "1", "not finished"] in table
