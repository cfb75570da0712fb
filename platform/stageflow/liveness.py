"""Is another process still there? Without comparing the clocks of two machines.

A living process writes a beat somewhere, over and over. Who watches it sees by its own clock
whether the beat changes. Where both run on one machine the operating system knows at once.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Silence:
    """For how long values have stood still, as far as one has looked.

    A watcher that slept, or whose view was blocked, has not seen anybody be silent: of the time
    between two looks no more than `gap_seconds` count.
    """

    def __init__(self, gap_seconds: float) -> None:
        self._gap = gap_seconds
        self._seen: dict[str, tuple[Any, float]] = {}
        self._looked = time.monotonic()

    def look(self, values: Mapping[str, Any]) -> dict[str, float]:
        """The seconds for each of the values, by name; one that was not there begins anew."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, self._gap), now
        before = self._seen
        self._seen = {
            name: (value, before[name][1] + passed)
            if name in before and before[name][0] == value
            else (value, 0.0)
            for name, value in values.items()
        }
        return {name: seconds for name, (_, seconds) in self._seen.items()}


def whereabouts() -> dict[str, str | int]:
    """Host, process, and what tells process numbers apart: the start of the machine, and Linux's
    namespace of processes, where there is one."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "world": _world()}


def has_died_here(told: Mapping[str, Any]) -> bool:
    """Whether these whereabouts are of a process that ran in this very world and has ended."""
    here = (told["host"], told["world"]) == (socket.gethostname(), _world())
    return here and not lives_here(int(told["pid"]))


def lives_here(process: int) -> bool:
    """Whether a process of this very world has this number."""
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is someone else's
    return True


def _world() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux: a host name has to do
        return ""
