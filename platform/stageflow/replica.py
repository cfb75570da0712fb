"""Data in a store, on the local disk of whichever machine needs it: fetched once, by one process.

<home>/data/<name>-<hash of the root>/<digest>/  a content; it appears when it is complete
<home>/data/<name>-<hash of the root>/part/      what has come of another one; a later try goes on
<home>/data/<name>-<hash of the root>/lock       held by the process that fetches

A process that dies gives up its lock with everything else it had. Once the folder is there, a
process reads one small object, or nothing where it is told the digest. Contents that are no longer
used are for people to remove.

Files are left to the operating system to write, since waiting for each would take minutes for a
hundred thousand on many disks. So if the power fails within a minute of a fetch, the folder may
hold files that are cut or empty. Their readers tell: pictures that cannot be decoded, a data set
that is not what was planned with. Remove the folder then, and it is fetched again.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from stageflow.alone import alone
from stageflow.artifact import sha256
from stageflow.replica_index import (
    HEAD,
    Entry,
    Index,
    check_writable,
    damaged,
    entry_of,
    head_of,
    in_force,
    load,
    open_root,
    parted,
    plain,
    settle,
)
from stageflow.settings import home
from stageflow.store import NotFound, Store, StoreError, plain_errors
from stageflow.transfer import Meter, each, say, shown


def replica(uri: str, *, cache: Path | None = None, meter: Meter = shown) -> Path:
    """The local folder, named by its digest, with what lies at `s3://bucket/prefix[#digest]`.

    Other processes of this machine wait while one fetches, and every file is checked against the
    root's index. The first reader of a root without index makes it. Raises StoreError of one line:
    for a root that is empty or out of reach, for a file that is not what the index says, for want
    of room.
    """
    root, wanted = parted(uri)
    base = (cache or home() / "data") / _name(root)
    if wanted and (base / wanted).is_dir():
        return base / wanted
    store = open_root(root)
    digest = wanted or in_force(store)
    if digest and (base / digest).is_dir():
        return base / digest
    lock = base / "lock"

    def waiting() -> None:
        say(f"another process of this machine fetches {root}: waiting for it")

    with plain_errors(base):
        base.mkdir(parents=True, exist_ok=True)
        with alone(lock, waiting) as absent:
            if absent is not None:  # two of them would get into each other's way
                raise StoreError(
                    f"{lock} cannot be locked ({absent.strerror}): set STAGEFLOW_HOME to a local"
                    " disk"
                ) from absent
            return _fetched(store, base, wanted, meter)


def pin(uri: str) -> str:
    """The root with the digest of what it holds now, so that others read the same later.

    Reads one small object, and fetches only a root that has no index yet. A digest that is given
    stays. Raises StoreError as `replica` does.
    """
    root, wanted = parted(uri)
    return f"{root}#{wanted or in_force(open_root(root)) or replica(root).name}"


def _name(root: str) -> str:
    return f"{root.rpartition('/')[2]}-{hashlib.sha256(root.encode()).hexdigest()[:8]}"


def _fetched(store: Store, base: Path, wanted: str | None, meter: Meter) -> Path:
    digest = wanted or in_force(store)  # again: who held the lock may have fetched it
    if digest and (base / digest).is_dir():
        return base / digest
    part = base / "part"
    index = load(store, digest) if digest else _first_index(store, part, meter)
    _complete(store, index, part, meter)
    return part.rename(base / index.digest)


def _first_index(store: Store, part: Path, meter: Meter) -> Index:
    """The index of a root that has none, by reading all of it; or that of a faster reader."""
    names = plain(store.list(""))
    if not names:
        raise StoreError(
            f"{store.uri} is empty: correct the address, or 'stageflow push FOLDER {store.uri}'"
        )
    check_writable(store)
    shutil.rmtree(part, ignore_errors=True)  # what came before an index cannot be checked

    def read(name: str) -> Entry:
        store.download(name, part / name)
        return entry_of(part / name, name)

    index = Index(tuple(each(f"fetching {store.uri}", names, read, meter)))
    if plain(store.list("")) != names:
        raise StoreError(f"{store.uri} changed while it was read: try again when it is complete")
    store.create(HEAD, head_of(settle(store, index)))
    return load(store, in_force(store) or index.digest)


def _complete(store: Store, index: Index, part: Path, meter: Meter) -> None:
    """Make the folder hold what the index says, and nothing else."""
    paths = {entry.path for entry in index.entries}
    for left in [path for path in part.rglob("*") if path.is_file()]:
        if left.relative_to(part).as_posix() not in paths:
            left.unlink()
    _check_room(store, index, part)

    def fetch(entry: Entry) -> Entry:
        path = part / entry.path
        if _is(path, entry):
            return entry
        try:
            store.download(entry.stored, path)
        except NotFound:
            raise damaged(store, entry, "is missing") from None
        if not _is(path, entry):
            path.unlink()
            raise damaged(store, entry, "has not its recorded SHA-256")
        return entry

    each(f"fetching {store.uri}", index.entries, fetch, meter)


def _is(path: Path, entry: Entry) -> bool:
    try:
        return path.stat().st_size == entry.size and sha256(path) == entry.sha256
    except FileNotFoundError:
        return False


def _check_room(store: Store, index: Index, part: Path) -> None:
    """Fail at the start rather than on a full disk."""
    part.mkdir(exist_ok=True)
    there = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    need, free = index.size - there, shutil.disk_usage(part).free
    if need > free:
        raise StoreError(
            f"{store.uri} needs {need / 1e9:.1f} GB more, and {part} has {free / 1e9:.1f} GB free:"
            " make room, or set STAGEFLOW_HOME to a larger disk"
        )
