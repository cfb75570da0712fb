"""Who drives a study: every driver keeps a lease in it, and judges the others by theirs.

A lease holds a beat, a number that its driver raises every few seconds. A driver counts as dead
once its beat has stood still for LEASE_SECONDS by the clock of the one who watches, so that no two
clocks are ever compared; while the watcher cannot look (the storage is away, or it sleeps itself)
nobody's time runs. The death of a process of the same machine is seen at once.

(Optuna's own heartbeats do not work with ask and tell.)
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from optuna.exceptions import StorageInternalError

from stageflow.liveness import Silence, has_died_here, whereabouts
from stageflow.study_storage import StudyError

BEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
LEASE = "driver/"  # before a driver's id: the name of its note


class Noted(Protocol):
    """A study, as far as it keeps notes for everybody."""

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON value."""
        ...

    def notes(self) -> Mapping[str, Any]:
        """All that is kept."""
        ...


class Drivers:
    """The drivers of one study, seen by one of them."""

    def __init__(self, study: Noted, me: str) -> None:
        self.me = me
        self._study = study
        self._silence = Silence(BEAT_SECONDS)
        self._looking, self._beating = threading.Lock(), threading.Lock()
        self._lease: dict[str, Any] = {}
        self._beaten = 0.0

    def look(self) -> tuple[list[str], list[str]]:
        """The ids of those that live, or may, in the order in which they came; and of the dead."""
        with self._looking:
            leases = self._leases()
            silence = self._silence.look({name: lease["beat"] for name, lease in leases.items()})
        dead = [
            name
            for name, lease in leases.items()
            if name != self.me and (silence[name] > LEASE_SECONDS or has_died_here(lease))
        ]
        living = sorted(leases.keys() - dead, key=lambda name: (leases[name]["order"], name))
        return living, dead

    def others(self) -> list[str]:
        """The other living drivers, as one would call them."""
        living, leases = self.look()[0], self._leases()
        called = (leases[name] for name in living if name != self.me and name in leases)
        return [f"process {lease['pid']} on {lease['host']}" for lease in called]

    def is_first(self) -> bool:
        """Whether no other living driver was here before this one."""
        return self.look()[0][:1] in ([], [self.me])

    def enter(self) -> None:
        """Take a lease."""
        order = 1 + max((lease["order"] for lease in self._leases().values()), default=0)
        self._lease = {**whereabouts(), "order": order, "beat": 0}
        self._beat()

    def leave(self) -> None:
        """Give the lease back."""
        self._lease = {}
        self.bury(self.me)

    def bury(self, driver: str) -> None:
        """Remove the lease of a driver that is no more; one that only slept writes it again."""
        self._study.note(LEASE + driver, None)

    def show(self) -> None:
        """Give a sign of life, if the last one is so old that others may have their doubts."""
        if self._lease and time.monotonic() - self._beaten > 2 * BEAT_SECONDS:
            self._beat()

    @contextlib.contextmanager
    def beating(self, then: Callable[[], object]) -> Iterator[None]:
        """Renew the lease from a thread while the block runs, and do `then` each time."""
        over = threading.Event()
        thread = threading.Thread(target=self._keep_beating, args=(over, then), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _keep_beating(self, over: threading.Event, then: Callable[[], object]) -> None:
        while not over.wait(BEAT_SECONDS):
            # A storage that is too busy to answer now may do so at the next beat.
            with contextlib.suppress(StorageInternalError, StudyError, OSError):
                self._beat()
                then()

    def _beat(self) -> None:
        with self._beating:
            self._lease["beat"] += 1
            self._study.note(LEASE + self.me, self._lease)
            self._beaten = time.monotonic()

    def _leases(self) -> dict[str, Mapping[str, Any]]:
        return {
            name.removeprefix(LEASE): lease
            for name, lease in self._study.notes().items()
            if name.startswith(LEASE) and lease
        }
