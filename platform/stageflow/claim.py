"""Claims: of several drivers that share a store and want the same artifact, one makes it.

    drivers/<id>           of a living driver, written anew every few seconds: its beat
    claims/<key>/<n>       the n-th claim of the artifact with this key: its driver; the last counts

A claim lasts as long as its driver lives. No clocks are compared: who waits sees whether the beat
changes while its own clock runs. A claim only saves work. Should two drivers make an artifact after
all (one slept, and seemed to be dead), the conditional put of the manifest keeps one result.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stageflow.liveness import Silence, has_died_here, whereabouts
from stageflow.store import NotFound, Store, StoreError

BEAT_SECONDS = 5.0
LEASE_SECONDS = 45.0  # without a beat, before a driver counts as dead
LOOK_SECONDS = 2.0  # between two looks at a claim that somebody else holds


@dataclass(slots=True)
class Claims:
    """The claims of one driver, which lives as long as the block of `living`."""

    store: Store
    me: str
    """Name of the object with this driver's beat."""
    silences: dict[str, Silence] = field(
        default_factory=lambda: defaultdict(lambda: Silence(BEAT_SECONDS))
    )
    """Of the drivers whose claims were in the way, by name."""

    def take(self, key: str) -> str:
        """Claim the artifact with this key; "" if it is ours now, else in words who has it."""
        claims = self._claims(key)
        if claims:
            try:
                holder = self.store.read(claims[-1]).decode()
            except NotFound:  # given back just now
                return "another driver"
            if holder == self.me:
                return ""
            if words := self._living(holder):
                return words
            self.store.delete([holder])
        number = int(claims[-1].rpartition("/")[2]) + 1 if claims else 1
        won = self.store.create(f"claims/{key}/{number:06d}", self.me.encode())
        return "" if won else "another driver"

    def give_back(self, key: str) -> None:
        """Let others have it; they find what was made, or go on from its checkpoints."""
        self.store.delete(self._claims(key))

    @contextmanager
    def living(self) -> Iterator[None]:
        """Keep the beat; at the end nobody has to wait for this driver any more."""
        stop = threading.Event()
        beating = threading.Thread(target=self._beat, args=(stop,), daemon=True)
        self._write_beat(0)
        beating.start()
        try:
            yield
        finally:
            stop.set()
            beating.join()
            self.store.delete([self.me])

    def _beat(self, stop: threading.Event) -> None:
        count = 0
        while not stop.wait(BEAT_SECONDS):
            count += 1
            with contextlib.suppress(StoreError):  # it may answer at the next beat
                self._write_beat(count)

    def _write_beat(self, count: int) -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            json.dump({**whereabouts(), "beat": count}, file)
            file.flush()
            self.store.upload(Path(file.name), self.me)

    def _claims(self, key: str) -> list[str]:
        return sorted(self.store.list(f"claims/{key}/"))

    def _living(self, driver: str) -> str:
        """Who a driver is, in words; "" for one that has ended or has not been heard of lately."""
        try:
            beat = self.store.read(driver)
        except NotFound:
            return ""
        told = json.loads(beat)
        silent = self.silences[driver].look({driver: beat})[driver]
        if silent > LEASE_SECONDS or has_died_here(told):
            return ""
        return f"process {told['pid']} on {told['host']}"


def new_driver() -> str:
    """A name for the object with a new driver's beat."""
    return f"drivers/{uuid.uuid4().hex}"
