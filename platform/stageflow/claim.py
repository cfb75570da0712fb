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
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stageflow.liveness import Silence, has_died_here, whereabouts
from stageflow.store import NotFound, Store, StoreError

BEAT_SECONDS = 5.0
LEASE_SECONDS = 120.0  # without a beat, before a driver counts as dead: one request may take 60
LOOK_SECONDS = 2.0  # between two looks at a claim that somebody else holds
PATIENCE_SECONDS = 300.0  # with a store that cannot be asked, while one waits


@dataclass(slots=True)
class Claims:
    """The claims of one driver, which lives as long as the block of `living`."""

    store: Store
    me: str
    """Name of the object with this driver's beat."""
    mine: dict[str, str] = field(default_factory=dict)
    """The names of our claims, by key."""
    owed: set[str] = field(default_factory=set)
    """Claims to give back as soon as the store can be asked."""
    silences: dict[str, Silence] = field(
        default_factory=lambda: defaultdict(lambda: Silence(BEAT_SECONDS))
    )
    """Of the drivers whose claims were in the way, by name."""
    away: float | None = None
    """Since when, by the clock here, the store could not be asked."""

    def holder(self, key: str) -> str:
        """Who else has claimed the artifact with this key, in words; "" for nobody.

        Raises StoreError only if the store could not be asked for long.
        """
        return self._patiently(self._holder, key)

    def take(self, key: str) -> str:
        """Claim it; "" if it is ours now, else in words who has it. Raises as `holder`."""
        return self._patiently(self._take, key)

    def give_back(self, key: str) -> None:
        """Let others have it: they find what was made, or go on from its checkpoints.

        A store that cannot be asked now is asked again at the next beat.
        """
        name = self.mine.pop(key, "")
        if name:
            self.owed.add(name)
            with contextlib.suppress(StoreError):
                self._pay()

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
            with contextlib.suppress(StoreError):  # then others see that it is silent
                self.store.delete([self.me])

    def _beat(self, stop: threading.Event) -> None:
        count = 0
        while not stop.wait(BEAT_SECONDS):
            count += 1
            with contextlib.suppress(StoreError, OSError):  # it may do at the next beat
                self._write_beat(count)
                self._pay()

    def _write_beat(self, count: int) -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            json.dump({**whereabouts(), "beat": count}, file)
            file.flush()
            self.store.upload(Path(file.name), self.me)

    def _claims(self, key: str) -> list[str]:
        return sorted(self.store.list(f"claims/{key}/"))

    def _holder(self, key: str) -> str:
        claims = self._claims(key)
        return self._held(claims[-1]) if claims else ""

    def _take(self, key: str) -> str:
        claims = self._claims(key)
        if claims and (words := self._held(claims[-1])):
            return words
        number = int(claims[-1].rpartition("/")[2]) + 1 if claims else 1
        name = f"claims/{key}/{number:06d}"
        if not self.store.create(name, self.me.encode()):
            return "another driver"
        self.mine[key] = name
        return ""

    def _pay(self) -> None:
        """Remove what we owe, and older claims of the same keys, whose drivers are dead."""
        for name in [*self.owed]:
            key = name.split("/")[1]
            self.store.delete([claim for claim in self._claims(key) if claim <= name])
            self.owed.discard(name)

    def _held(self, claim: str) -> str:
        """Who holds a claim, in words; "" if that is nobody who lives, or this driver."""
        try:
            holder = self.store.read(claim).decode()
        except NotFound:  # given back just now
            return ""
        return "" if holder == self.me else self._living(holder)

    def _living(self, driver: str) -> str:
        """Who a driver is, in words; "" for one that has ended, or was not heard of for long."""
        try:
            beat = self.store.read(driver)
        except NotFound:
            return ""
        told = json.loads(beat)
        if has_died_here(told):
            self.store.delete([driver])
            return ""
        silent = self.silences[driver].look({driver: beat})[driver]
        return "" if silent > LEASE_SECONDS else f"process {told['pid']} on {told['host']}"

    def _patiently(self, ask: Callable[[str], str], key: str) -> str:
        """The answer, or that there is none, unless that has been so for long."""
        try:
            answer = ask(key)
        except StoreError as error:
            now = time.monotonic()
            self.away = self.away or now
            if now - self.away > PATIENCE_SECONDS:
                raise
            return f"nobody knows who ({error})"
        self.away = None
        return answer


def new_driver() -> str:
    """A name for the object with a new driver's beat."""
    return f"drivers/{uuid.uuid4().hex}"
