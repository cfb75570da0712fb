"""Where studies are kept: an Optuna storage by its URL, made to outlast what happens on a cluster.

A database may be away for a moment, several processes may create its tables at the same time, and
a process may die in the middle of a line of a journal file. None of that ends a sweep.
"""

import contextlib
import functools
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage

from stageflow.redact import safe

PATIENCE_SECONDS = 60.0  # how long a storage may be away
LONGEST_WAIT = 5.0  # between two tries
BUSY_SECONDS = 60  # for SQLite to wait for other processes
TRIES = 20  # to create tables that others create at the same time
RACE = re.compile("already exists|duplicate (?:key|column)|unique constraint|is locked", re.I)
PSYCOPG = ("postgresql", "postgresql+psycopg2", "postgresql+psycopg")
PSYCOPG_OPTIONS = {  # a server that is gone without a word is noticed, too
    "connect_timeout": 10,
    "tcp_user_timeout": 30_000,
}


class StudyError(RuntimeError):
    """The study cannot be used now; the message says why and what to do."""


def open_storage(url: str) -> BaseStorage:
    """The storage: a SQLAlchemy URL, or the path of a journal file. Raises what they raise."""
    if "://" not in url:
        return JournalStorage(Journal(url))
    database = _database(url)
    if database.engine.dialect.name == "sqlite":
        _one_at_a_time(database)
    cached = optuna.storages.get_storage(database)
    return cast(BaseStorage, Patient(cached, safe(url)))


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Patient:
    """A storage that tries again while its database is away, for as long as PATIENCE_SECONDS.

    A request whose answer was lost is made twice. At worst that leaves a trial that nobody runs,
    which is found like those of a dead driver.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._is_lost = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self._storage, name)
        return functools.partial(self._call, found) if callable(found) else found

    def _call(self, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        until = time.monotonic() + PATIENCE_SECONDS
        wait = 0.1
        while True:
            try:
                answer = method(*given, **named)
            except StorageInternalError as error:
                if not _may_pass(error):
                    raise
                if self._is_lost or time.monotonic() + wait > until:
                    self._is_lost = True  # whoever winds up does not wait as long again
                    raise StudyError(self._lost(error)) from error
            else:
                self._is_lost = False
                return answer
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _lost(self, error: StorageInternalError) -> str:
        reason = safe(first_line(error.__cause__ or error))
        return (
            f"the study's storage {self._name} has been away for {PATIENCE_SECONDS:g} s "
            f"({reason}): once it is back, the same command goes on"
        )


class Journal(JournalFileBackend):
    """A journal file whose last line may be torn: Optuna would glue the next one to it."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append whole lines, after what is left of one whose writer died (it counts for nothing).

        Without that part: by its lack of an end one knows that nobody has been told it was written.
        """
        with _held(self._lock):
            _cut_torn_line(Path(self._file_path))
        super().append_logs(logs)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The entries from this number on. Raises StudyError where a line is no entry."""
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            raise StudyError(
                f"line {_damaged_line(Path(self._file_path))} of the journal {self._file_path} is "
                "damaged: take this line out with an editor (what it told is lost), or give "
                "another --studies"
            ) from error


def _database(url: str) -> RDBStorage:
    """Open a database, and create its tables though others may be about to do the same."""
    for attempt in range(1, TRIES + 1):
        try:
            return RDBStorage(url, engine_kwargs=_engine(url))
        except Exception as error:
            text = f"{error} {error.__cause__ or ''}"
            if attempt == TRIES or not RACE.search(text):
                raise
        time.sleep(random.uniform(0.05, 0.5))
    raise AssertionError


def _engine(url: str) -> dict[str, Any]:
    """How to keep connections to a database."""
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    connect = PSYCOPG_OPTIONS if parsed.drivername in PSYCOPG else {}
    few = {"pool_pre_ping": True, "pool_size": 2, "max_overflow": 3}  # as many as threads that ask
    return {"connect_args": dict(connect), **few}


def _one_at_a_time(database: RDBStorage) -> None:
    """Have SQLite take its lock before a transaction reads, as other databases lock rows.

    Else two processes may read of the same trial that it waits, and both run it.
    """
    from sqlalchemy import event

    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None  # Python's module shall not begin transactions itself

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(database.engine, "connect", connect)
    event.listen(database.engine, "begin", begin)
    database.engine.dispose()  # of connections from before


def _may_pass(error: StorageInternalError) -> bool:
    """Whether the database is away or busy, rather than that it refuses what is asked."""
    from sqlalchemy import exc

    passing = exc.InterfaceError | exc.OperationalError | exc.TimeoutError
    return isinstance(error.__cause__, passing)


@contextlib.contextmanager
def _held(lock: Any) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _cut_torn_line(journal: Path) -> None:
    with journal.open("rb+") as file:
        size = file.seek(0, 2)
        if not size:
            return
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _damaged_line(journal: Path) -> int:
    """The number of the first line that is no entry."""
    number = 0
    with journal.open("rb") as lines, contextlib.suppress(ValueError):
        for line in lines:
            number += 1
            json.loads(line)
    return number
