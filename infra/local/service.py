"""A server process of the stack: started apart from this one, recorded, looked after, stopped.

Each leads a session of its own, so that what it started is found even after its end.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from infra.local.identity import Identity

START_SECONDS = 180  # a busy machine takes a minute for MLflow alone
LOG_LINES = 15  # of a server that did not start
ROUNDS = 2  # of killing: what is killed may just have started something


class StackError(RuntimeError):
    """The stack cannot be started or stopped; the message says why, and where the log is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A command that serves until it is told to end.

    Attributes:
        name: of its log and its record.
        command: what is executed, found by its path.
        environment: all of it; nothing is inherited.
        healthy: whether it answers as it should; errors of the connection count as no.
        folder: its working directory.
        stop_signal: by which it ends in order.
        patience: seconds that it has for that, before it is killed.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    healthy: Callable[[], bool]
    folder: Path
    stop_signal: signal.Signals = signal.SIGTERM
    patience: float = 20.0


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of one stack: their records in `home/run`, their logs in `home/logs`."""

    home: Path

    def log(self, name: str) -> Path:
        """Where a service writes what it has to say."""
        return self.home / "logs" / f"{name}.log"

    def find(self, name: str) -> psutil.Process | None:
        """The living process of a service, if it was started and has not ended."""
        known = self._known(name)
        return known.process() if known else None

    def alive(self) -> list[str]:
        """The services of which anything lives, be it only what they started."""
        names = [file.stem for file in sorted((self.home / "run").glob("*.json"))]
        return [name for name in names if (known := self._known(name)) and known.session()]

    def start(self, service: Service) -> bool:
        """Start it unless it runs; tells whether it had to. See `wait` for when it answers."""
        if self.find(service.name) is not None:
            return False
        self._clear(service.name)
        for folder in (service.folder, self.home / "run", self.home / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        with self.log(service.name).open("ab") as log:
            started = subprocess.Popen(
                service.command,
                cwd=service.folder,
                env=dict(service.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C on the terminal is not for it
            )
        started.returncode = 0  # it outlives us, and nobody here will wait for it
        written = self.home / "run" / f"{service.name}.new"
        written.write_text(json.dumps(asdict(Identity.of(started.pid))))
        written.rename(self._record(service.name))
        return True

    def wait(self, service: Service) -> None:
        """Return once it is healthy. Raises StackError if it ends before, or takes too long."""
        until = time.monotonic() + START_SECONDS
        while not self._answers(service):
            if time.monotonic() > until:
                raise StackError(
                    f"{service.name} does not answer after {START_SECONDS} s: "
                    f"{self._last_words(service)}"
                )
            time.sleep(0.2)

    def _answers(self, service: Service) -> bool:
        """Whether it is healthy, and it is this process that says so. Raises StackError if that
        has ended: who answers then is somebody else."""
        healthy = self.find(service.name) is not None and answers(service.healthy)
        if self.find(service.name) is None:
            raise StackError(f"{service.name} ended at its start: {self._last_words(service)}")
        return healthy

    def stop(self, services: Iterable[Service]) -> list[str]:
        """End the services and all that they started, at the same time; the names of those that
        ran."""
        services = [*services]
        asked = [(s, p, _family(p)) for s in services if (p := self.find(s.name)) is not None]
        for service, process, _ in asked:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(service.stop_signal)
        for service, process, family in asked:
            psutil.wait_procs([process], timeout=service.patience)
            family += [each for each in _family(process) if each not in family]
            kill([process, *family])
        ran = {service.name for service, _, _ in asked}
        ran |= {service.name for service in services if self._clear(service.name)}
        return [service.name for service in services if service.name in ran]

    def _clear(self, name: str) -> bool:
        """Kill what is left of a service and forget it; tells whether anything was."""
        known = self._known(name)
        there = False
        for _ in range(ROUNDS):
            left = known.session() if known else []
            there = there or bool(left)
            kill(left)
        self._record(name).unlink(missing_ok=True)
        return there

    def _known(self, name: str) -> Identity | None:
        """Whom its record names. Raises StackError if it cannot be read: that may live."""
        record = self._record(name)
        try:
            return Identity(**json.loads(record.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise StackError(
                f"{record} cannot be read: end what it names, then remove it"
            ) from error

    def _record(self, name: str) -> Path:
        return self.home / "run" / f"{name}.json"

    def _last_words(self, service: Service) -> str:
        log = self.log(service.name)
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"see {log}", *(f"  {line}" for line in lines)])


def answers(healthy: Callable[[], bool]) -> bool:
    """Whether a check says yes; one that cannot be made says no."""
    try:
        return healthy()
    except Exception:  # of whichever client library: refused, reset, timed out, not ready
        return False


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill those that are left, and wait until they are gone."""
    left = [process for process in processes if process.is_running()]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


def _family(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [*process.children(recursive=True)]
    return []
