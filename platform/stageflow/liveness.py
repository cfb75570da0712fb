"""Is another process still there? Without comparing the clocks of two machines.

A living process writes a beat somewhere, over and over. Who watches it sees by its own clock
whether the beat changes. Where both run on one machine the operating system knows at once.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Watch:
    """Looks at beats of others; each counts as living until its beat stands still too long."""

    lease_seconds: float
    beats: dict[str, tuple[Any, float]] = field(default_factory=dict)
    """The last beat of each that was seen, and when it was new by the clock here."""

    def lives(self, name: str, beat: Any, told: Mapping[str, Any]) -> bool:
        """Whether `name` lives, whose newest beat this is and who has `told` its whereabouts."""
        now = time.monotonic()
        seen, since = self.beats.get(name, (None, now))
        if beat != seen:
            self.beats[name] = (beat, since := now)
        return now - since <= self.lease_seconds and not has_died_here(told)


def whereabouts() -> dict[str, str | int]:
    """Host, process, and what tells process numbers apart: the start of the machine, and Linux's
    namespace of processes, where there is one."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "world": _world()}


def has_died_here(told: Mapping[str, Any]) -> bool:
    """Whether these whereabouts are of a process that ran in this very world and has ended."""
    if (told["host"], told["world"]) != (socket.gethostname(), _world()):
        return False
    try:
        os.kill(int(told["pid"]), 0)  # sends nothing
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _world() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux: a host name has to do
        return ""
