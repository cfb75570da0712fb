"""Storages of studies: busy, away for a moment, or left torn by a process that died."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DataError, OperationalError

from stageflow import study_storage as module
from stageflow.study import Completed, Study, StudyError
from stageflow.study_storage import Patient, open_storage

URL = "postgresql+psycopg2://me:geheim@host/db"


def space(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def opened(url: str) -> Study[float]:
    return Study("sweep", url, space=space)


class Failing:
    """Answers after so many errors."""

    def __init__(self, cause: Exception, times: int) -> None:
        self.cause, self.times, self.asked = cause, times, 0

    def answer(self, given: int) -> int:
        self.asked += 1
        if self.asked <= self.times:
            raise StorageInternalError("An exception is raised during the commit.") from self.cause
        return given


def away(text: str = "connection refused") -> OperationalError:
    return OperationalError("SELECT 1", {}, Exception(text))


class Clock:
    """Time passes in sleep only."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def patient(storage: Any) -> Any:
    return Patient(storage, module.safe(URL))


class TestPatient:
    def test_away_for_a_moment(self, clock: Clock) -> None:
        assert patient(Failing(away(), 8)).answer(7) == 7
        assert 5 < clock.now < module.PATIENCE_SECONDS

    def test_gives_up_in_one_line_without_the_password(self, clock: Clock) -> None:
        storage = patient(Failing(away(f"no answer\nfrom {URL}"), 10**6))
        with pytest.raises(StudyError, match=r"has been away for 60 s \(.*no answer\): ") as caught:
            storage.answer(7)
        assert clock.now <= module.PATIENCE_SECONDS
        assert "geheim" not in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_having_given_up_it_does_not_wait_as_long_again(self, clock: Clock) -> None:
        failing = Failing(away(), 10**6)
        storage = patient(failing)
        for _ in range(2):
            with pytest.raises(StudyError):
                storage.answer(7)
            assert clock.now <= module.PATIENCE_SECONDS
        failing.times = failing.asked
        assert storage.answer(7) == 7
        failing.times = failing.asked + 2
        assert storage.answer(8) == 8

    def test_what_is_refused_is_refused(self, clock: Clock) -> None:
        with pytest.raises(StorageInternalError):
            patient(Failing(DataError("INSERT", {}, Exception("too long")), 1)).answer(7)
        assert clock.now == 0


def test_sqlite_that_another_process_holds(tmp_path: Path) -> None:
    """It waits for as long as one minute, in SQLite itself."""
    url = f"sqlite:///{tmp_path}/studies.db"
    storage: Any = open_storage(url)
    with storage._backend.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000


def test_sqlite_transactions_do_not_overlap(tmp_path: Path) -> None:
    """What one reads it may write: nobody else has changed it in between."""
    storage: Any = open_storage(f"sqlite:///{tmp_path}/studies.db")
    other = sqlite3.connect(tmp_path / "studies.db", timeout=0, isolation_level=None)
    with storage._backend.engine.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM trials")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


class TestJournal:
    def test_torn_last_line(self, tmp_path: Path) -> None:
        """Its writer died before it was whole: nobody counts on it, and others go on after it."""
        url = str(tmp_path / "studies.journal")
        living = opened(url)
        living.tell(living.ask().number, Completed(1.0, "t"))
        with Path(url).open("ab") as file:
            file.write(b'{"op_code": 4, "worker_id": "dead", "study_')
        study = opened(url)
        assert len(study.trials()) == 1
        study.tell(study.ask().number, Completed(2.0, "t"))
        living.tell(living.ask().number, Completed(3.0, "t"))
        for looked in (living, study, opened(url)):
            assert [trial.value for trial in looked.trials()] == [1.0, 2.0, 3.0]

    def test_a_torn_first_line(self, tmp_path: Path) -> None:
        url = tmp_path / "studies.journal"
        url.write_bytes(b'{"op_co')
        assert opened(str(url)).ask().number == 0

    def test_a_damaged_line_is_named(self, tmp_path: Path) -> None:
        url = tmp_path / "studies.journal"
        opened(str(url)).ask()
        lines = url.read_bytes().splitlines(keepends=True)
        url.write_bytes(b"".join([lines[0], b'{"op_code": 5, "wor' + lines[1], *lines[1:]]))
        with pytest.raises(StudyError, match=f"^line 2 of the journal {url} is damaged: ") as error:
            opened(str(url))
        assert "\n" not in str(error.value)
