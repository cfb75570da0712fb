"""Of several drivers one writes to MLflow, and what it writes last is not lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stageflow import tracking
from stageflow.artifact import Artifacts
from stageflow.store import FolderStore
from stageflow.tracking import Background, Links, Tracked


class Written:
    """An MLflow that takes note of what it is told, and refuses some of it."""

    def __init__(self) -> None:
        self.rounds = 0
        self.refused: set[int] = set()

    def project(self, tracked: Tracked, artifacts: Artifacts) -> Links:
        self.rounds += 1
        if self.rounds in self.refused:
            raise OSError("a run was deleted")
        return Links("http://mlflow", "1", "a")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    written = Written()
    monkeypatch.setattr(tracking, "Tracker", lambda uri: written)
    return written


def background(folder: Path, **options: object) -> Background:
    artifacts = Artifacts(FolderStore(folder / "store"), folder / "cache")
    latest: Callable[[], Tracked] = lambda: Tracked(  # noqa: E731
        experiment="e", study="s", trials=(), options={}, metric="m"
    )
    return Background(latest, artifacts, "http://mlflow", **options)  # type: ignore[arg-type]


def test_while_another_writes(written: Written, tmp_path: Path) -> None:
    asked: list[int] = []
    keeper = background(tmp_path, is_mine=lambda: bool(asked.append(1)), period=0.01, turn=0.0)
    with keeper:
        wait_until(lambda: len(asked) > 3)
    assert keeper.complete
    assert written.rounds == 0
    assert keeper.verdict() == "MLflow: another driver of this study writes it"


def test_once_the_other_is_gone(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end it waits for its turn a little, in case that one is about to leave."""
    monkeypatch.setattr(tracking, "LOOK_SECONDS", 0.01)
    asked: list[int] = []

    def is_mine() -> bool:
        asked.append(1)
        return len(asked) > 5

    with background(tmp_path, is_mine=is_mine, period=60.0, turn=60.0) as keeper:
        wait_until(lambda: len(asked) == 1)
    assert written.rounds == 1
    assert keeper.verdict() == "MLflow: " + str(Links("http://mlflow", "1", "a"))


@pytest.mark.parametrize(("refused", "complete"), [({2}, True), ({2, 3}, False)])
def test_the_last_round_is_tried_twice(
    written: Written, tmp_path: Path, refused: set[int], complete: bool
) -> None:
    """There is no other to mend what somebody did in its middle."""
    written.refused = refused
    with background(tmp_path, period=60.0) as keeper:
        wait_until(lambda: keeper.links is not None)
    assert written.rounds == 3
    assert keeper.complete == complete


def test_a_server_that_was_away_already_is_not_asked_twice(
    written: Written, tmp_path: Path
) -> None:
    written.refused = {1, 2, 3}
    with background(tmp_path, period=60.0, say=lambda line: None) as keeper:
        wait_until(lambda: bool(keeper.problem))
    assert written.rounds == 2


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
