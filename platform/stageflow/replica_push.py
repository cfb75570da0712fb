"""A folder into a data root of a store, for `stageflow.replica` to fetch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stageflow.replica_index import (
    HEAD,
    OWN,
    Entry,
    Head,
    Index,
    entry_of,
    head,
    head_of,
    load,
    open_root,
    parted,
    plain,
    settle,
)
from stageflow.store import Store, StoreError
from stageflow.transfer import Meter, each, shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What a root holds after a push, and how many objects had to be sent for it.

    `uri` names just this content, whatever is pushed later.
    """

    uri: str
    index: Index
    sent: int


def push(folder: Path, uri: str, *, over: bool = False, meter: Meter = shown) -> Pushed:
    """Make the content of a folder that of a root, sending what is not there yet.

    The head goes last, so readers get the old content or the new one. A push that broke off goes on
    when it is repeated. Only with `over` another content is replaced, or the same sent anew. Raises
    ValueError for a folder that is absent or empty, and StoreError.
    """
    root, named = parted(uri)
    if named:
        raise StoreError(f"data root {uri!r}: push takes no #digest, since the folder makes it")
    store, content = open_root(root), content_of(folder, meter)
    before, names = head(store), set(store.list(""))
    same = before is not None and before.digest == content.digest
    if before and before.complete and same and not over:
        return Pushed(uri=f"{root}#{content.digest}", index=content, sent=0)
    if not same and not over:
        _check_free(store, before, names)
    index = settle(store, _placed(store, content, before, names))
    if not before and not plain(names):
        _begin(store, index)
    there = set() if same and over else names
    sent = _send(store, folder, [e for e in index.entries if e.stored not in there], meter)
    _upload(store, head_of(index), HEAD)
    return Pushed(uri=f"{root}#{content.digest}", index=index, sent=sent)


def content_of(folder: Path, meter: Meter = shown) -> Index:
    """The index of a local folder, links followed. Raises ValueError if it is absent or empty."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    paths = list(_files(folder))
    if not paths:
        raise ValueError(f"{folder} holds no file")
    return Index(
        tuple(each(f"reading {folder}", paths, lambda path: entry_of(folder / path, path), meter))
    )


def _files(folder: Path) -> Iterator[str]:
    """Paths inside the folder, without what a root would hold of ours."""

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        here = Path(parent)
        if here == folder:
            folders[:] = [name for name in folders if name != OWN]
        for name in folders:
            if here.resolve().is_relative_to((here / name).resolve()):
                raise ValueError(f"{here / name} is a link to a folder around it: remove it")
        yield from ((here / name).relative_to(folder).as_posix() for name in files)


def _check_free(store: Store, before: Head | None, names: Collection[str]) -> None:
    """Raise StoreError where something else is in the way."""
    if before:
        state = "holds another content" if before.complete else "is being filled with another"
        raise StoreError(
            f"{store.uri} {state} ({before.files:,} files, {before.digest}): give --replace to put"
            " this one in its place, or push to another root"
        )
    if there := plain(names):
        raise StoreError(
            f"{store.uri} has {len(there):,} files and no index: 'stageflow pull {store.uri}' makes"
            " it for them, --replace puts this folder in their place"
        )


def _placed(store: Store, content: Index, before: Head | None, names: Collection[str]) -> Index:
    """The content with an object for each file: its path in an empty root, else its digest."""
    if before is None and not plain(names):
        return content
    other = before is not None and before.digest != content.digest
    old = load(store, before.digest).entries if before and other else ()
    known = {entry.sha256: entry.stored for entry in old}
    return Index(
        tuple(
            replace(entry, stored=known.get(entry.sha256, f"{OWN}/files/{entry.sha256}"))
            for entry in content.entries
        )
    )


def _begin(store: Store, index: Index) -> None:
    """Keep an empty root for this content, so that nobody reads or pushes in between."""
    if not store.create(HEAD, head_of(index, complete=False)):
        found = head(store)
        if found is None or found.digest != index.digest:
            raise StoreError(f"{store.uri}: somebody else began to fill it just now")


def _send(store: Store, folder: Path, entries: list[Entry], meter: Meter) -> int:
    """Upload the files, those with the same content once; returns how many."""

    def upload(entry: Entry) -> Entry:
        store.upload(folder / entry.path, entry.stored)
        return entry

    once = {entry.stored: entry for entry in entries}.values()
    return len(each(f"sending to {store.uri}", once, upload, meter)) if once else 0


def _upload(store: Store, data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").write_bytes(data)
        store.upload(Path(folder) / "data", name)
