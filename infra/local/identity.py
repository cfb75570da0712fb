"""Which process was started: its id, and the moment of its start, lest a later process with the
same id be taken for it. The moment is counted from the machine's start, since clocks are set."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

BOOT = Path("/proc/sys/kernel/random/boot_id")
START_TIME = 19  # among the words after the name in /proc/PID/stat: field 22


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that leads a session, in which all that it starts is."""

    pid: int
    boot: str
    started: str

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Of a process that exists. Raises psutil.NoSuchProcess."""
        return cls(pid, _boot(), _started(pid))

    def process(self) -> psutil.Process | None:
        """The process itself, unless it has ended."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if Identity.of(self.pid) == self and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def session(self) -> list[psutil.Process]:
        """All that live in its session, after its own end too."""
        if self.boot != _boot():
            return []
        with suppress(psutil.NoSuchProcess):
            if Identity.of(self.pid) != self:
                return []  # the id is another's by now, and so is the session
        return in_sessions({self.pid})


def in_sessions(leaders: set[int]) -> list[psutil.Process]:
    """All living processes of the sessions that these lead, or led."""
    found = []
    for pid in psutil.pids():
        with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(pid) in leaders:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


def _boot() -> str:
    return BOOT.read_text().strip() if BOOT.exists() else ""


def _started(pid: int) -> str:
    if not BOOT.exists():  # no Linux
        return str(psutil.Process(pid).create_time())
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(pid) from error
    return stat.rpartition(")")[2].split()[START_TIME]
