"""One at a time, by a file that whoever is at work keeps locked.

A process that dies gives up its lock with everything else it had.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def alone(lock: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[OSError | None]:
    """Of all threads and processes of this machine that name this file, one is inside.

    On a shared file system that passes locks on, one of all machines. `waiting` is called before
    another is waited for. What is yielded is None, or why this file system has no locks: then
    nobody waits for anybody.
    """
    with lock.open("a") as file:
        absent = _locked(file, waiting)
        try:
            yield absent
        finally:
            if absent is None:  # closing is not enough while a forked child has the file open too
                fcntl.flock(file, fcntl.LOCK_UN)


def _locked(file: IO[str], waiting: Callable[[], None]) -> OSError | None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        return error
    return None
