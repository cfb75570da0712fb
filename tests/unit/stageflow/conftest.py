"""What tests of the study and of liveness share: a small space, a clock, a process that is dead."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest

from stageflow.study import Study


@dataclass(frozen=True, kw_only=True)
class Params:
    """What is searched."""

    x: float = 0.5
    kind: str = "a"


def space(trial: optuna.Trial) -> Params:
    """The whole of it."""
    return Params(
        x=trial.suggest_float("x", 0, 1), kind=trial.suggest_categorical("kind", ("a", "b"))
    )


def journal(folder: Path) -> str:
    """A storage in one file."""
    return str(folder / "studies.journal")


def sqlite(folder: Path) -> str:
    """A storage in a database."""
    return f"sqlite:///{folder}/studies.db"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A storage of the test's own."""
    return journal(tmp_path)


def opened(url: str, name: str = "sweep", **options: Any) -> Study[Params]:
    """The study as any process finds it."""
    return Study(name, url, space=space, **options)


class Clock:
    """A monotonic clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """As of `time`."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which everything goes."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


def ended_process() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid
