"""Does a store keep its promises? Some S3 servers take a conditional put and ignore the condition.

Asking twice in a row does not show it: some servers refuse the second of two puts, and yet let
several through that race. So the check races, with the store and the network that the sweep will
use.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from stageflow.store import NotFound, Store, StoreError

WRITERS = 4  # more cost seconds on servers that let losers wait (SeaweedFS: 1 s for 4, 2-4 s for 8)
ROUNDS = 2
SIZE = 100_000  # bytes; several network packets and checksum frames
CURE = "use AWS S3, Ceph RGW, SeaweedFS 4.30 or later, or a folder"


def self_test(store: Store) -> list[str]:
    """Check with a few small objects that the store can hold artifacts; returns a line for each
    finding.

    Raises StoreError, saying what to use instead, if two writers could both win or if content comes
    back changed. Leaves nothing behind.
    """
    test = f"self-test-{uuid4().hex}"
    names = [f"{test}-whole", *(f"{test}-race-{turn}" for turn in range(ROUNDS))]
    start = time.monotonic()
    try:
        _check_content(store, names[0])
        _check_second_create(store, names[0])
        for name in names[1:]:
            _check_race(store, name)
        _check_list(store, test, names)
    finally:
        store.delete(names)
    _check_deleted(store, test, names[0])
    return [
        f"{SIZE} bytes come back with their SHA-256, read and downloaded",
        "a second conditional put is refused",
        f"exactly one of {WRITERS} racing writers wins, {ROUNDS} times",
        "a list shows what was written, and not what was deleted",
        f"took {time.monotonic() - start:.1f} s",
    ]


def _check_content(store: Store, name: str) -> None:
    data = os.urandom(SIZE)
    with tempfile.TemporaryDirectory() as folder:
        sent, received = Path(folder, "sent"), Path(folder, "received")
        sent.write_bytes(data)
        store.upload(sent, name)
        store.download(name, received)
        for copy in (received.read_bytes(), store.read(name)):
            if hashlib.sha256(copy).digest() != hashlib.sha256(data).digest():
                raise StoreError(
                    f"{store.uri}: {SIZE} bytes came back as other {len(copy)} bytes: {CURE}"
                )


def _check_second_create(store: Store, name: str) -> None:
    if store.create(name, uuid4().bytes):
        raise StoreError(
            f"{store.uri}: this server ignores If-None-Match: two writers could both win; {CURE}"
        )


def _check_race(store: Store, name: str) -> None:
    contents = [os.urandom(SIZE) for _ in range(WRITERS)]
    ready = threading.Barrier(WRITERS)

    def write(content: bytes) -> bool:
        ready.wait()
        return store.create(name, content)

    with ThreadPoolExecutor(WRITERS) as pool:
        winners = [
            content for content, won in zip(contents, pool.map(write, contents), strict=True) if won
        ]
    if len(winners) != 1:
        raise StoreError(
            f"{store.uri}: {len(winners)} of {WRITERS} racing writers were told they won: {CURE}"
        )
    if store.read(name) != winners[0]:
        raise StoreError(f"{store.uri}: the object holds another content than the winner's: {CURE}")


def _check_list(store: Store, test: str, names: list[str]) -> None:
    if sorted(store.list(test)) != sorted(names):
        raise StoreError(f"{store.uri}: a list does not show what was just written: {CURE}")


def _check_deleted(store: Store, test: str, name: str) -> None:
    try:
        store.read(name)
    except NotFound:
        if not [*store.list(test)]:
            return
    raise StoreError(f"{store.uri}: a deleted object is still there: {CURE}")
