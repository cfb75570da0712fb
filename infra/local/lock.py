"""One command at a time works on a stack."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.local.service import StackError


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Hold a folder, which is made if need be. Raises StackError if another process holds it."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    held = os.open(home, os.O_RDONLY)
    try:
        _take(held, home)
        yield
    finally:
        os.close(held)


def _take(held: int, home: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StackError(f"another command works on {home}: wait until it is done") from error
