"""What a data root in a store holds: its files with their digests, and which content is in force.

<path>                        a file, where whoever filled the root has put it
.stageflow/head.json          which content is in force; small, since every process reads it
.stageflow/<digest>.json      an index: path, size, SHA-256 and object of each file of a content
.stageflow/files/<sha256>     what was pushed over an earlier content, whose own files all stay

So a new content comes into force by one write, and those who read the old one can go on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stageflow.artifact import Corrupt, sha256
from stageflow.identity import KEY_LENGTH
from stageflow.store import NotFound, Store, StoreError, check_name, open_store

OWN = ".stageflow"
HEAD = f"{OWN}/head.json"
NOTE = """head.json names the index of the files beside this folder: their sizes and SHA-256.
If you change them, remove this folder, or use 'stageflow push --replace' instead.
"""
DIGEST = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
SHA256 = re.compile("[0-9a-f]{64}")
ROOT = re.compile(rf"((?:s3|file)://[^#]+?)/*(?:#({DIGEST.pattern}))?")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: its path in the root, size in bytes, SHA-256, and the object that holds it."""

    path: str
    size: int
    sha256: str
    stored: str


@dataclass(frozen=True, slots=True)
class Index:
    """All files of a content, by path. Its digest knows nothing of the objects that hold them."""

    entries: tuple[Entry, ...]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.entries, key=lambda entry: entry.path))
        known = "".join(f"{entry.sha256} {entry.size} {entry.path}\n" for entry in ordered)
        object.__setattr__(self, "entries", ordered)
        object.__setattr__(self, "digest", hashlib.sha256(known.encode()).hexdigest()[:KEY_LENGTH])

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(entry.size for entry in self.entries)


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Which content is in force, or is being pushed into an empty root, with its size in bytes."""

    digest: str
    files: int
    size: int
    complete: bool


def parted(uri: str) -> tuple[str, str | None]:
    """A root and the digest of the content that is wanted, from `s3://bucket/prefix#digest`.

    Raises StoreError for anything else; without a digest it is None.
    """
    match = ROOT.fullmatch(uri)
    if match is None:
        raise StoreError(
            f"data root {uri!r}: want s3://bucket/prefix, to which #digest may name one content"
        )
    return match[1], match[2]


def open_root(root: str) -> Store:
    """The store at a root. Raises StoreError."""
    try:
        return open_store(root)
    except ImportError as error:
        raise StoreError(f"{root} needs boto3: pip install boto3, or give a folder") from error


def entry_of(file: Path, path: str) -> Entry:
    """The entry of a local file that a root has, or is to have, at `path`. Raises StoreError."""
    return Entry(check_name(path), file.stat().st_size, sha256(file), path)


def head(store: Store) -> Head | None:
    """What the root says of itself; None where it has no index yet. Raises StoreError."""
    try:
        data = store.read(HEAD)
    except NotFound:
        return None
    try:
        return _head(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise Corrupt(f"{store.uri}/{HEAD} is broken ({error!r}): {_anew(store)}") from error


def in_force(store: Store) -> str | None:
    """The digest of the content that readers get; None where there is no index yet.

    Raises StoreError while the root is filled for the first time.
    """
    found = head(store)
    if found is not None and not found.complete:
        raise StoreError(
            f"{store.uri} is being pushed, or a push broke off: wait, or run the push again"
        )
    return None if found is None else found.digest


def load(store: Store, digest: str) -> Index:
    """The index of a content. Raises StoreError."""
    name = _index_name(digest)
    try:
        data = store.read(name)
    except NotFound:
        raise NotFound(f"{store.uri} holds no content {digest}: there is no {name}") from None
    try:
        index = Index(tuple(_entry(*row) for row in json.loads(data)))
    except (ValueError, TypeError, StoreError) as error:
        raise Corrupt(f"{store.uri}/{name} is broken ({error!r}): {_anew(store)}") from error
    if index.digest != digest:
        raise Corrupt(f"{store.uri}/{name} is not what its name says: {_anew(store)}")
    return index


def settle(store: Store, index: Index) -> Index:
    """Write an index; returns it with the objects of whoever wrote it first."""
    rows = [[entry.path, entry.size, entry.sha256, entry.stored] for entry in index.entries]
    made = store.create(_index_name(index.digest), json.dumps(rows).encode())
    return index if made else load(store, index.digest)


def head_of(index: Index, *, complete: bool = True) -> bytes:
    """The head that puts an index into force."""
    found = Head(digest=index.digest, files=len(index.entries), size=index.size, complete=complete)
    return json.dumps(asdict(found)).encode()


def plain(names: Iterable[str]) -> list[str]:
    """Those objects of a root that are none of ours, sorted."""
    return sorted(name for name in names if not name.startswith(f"{OWN}/"))


def check_writable(store: Store) -> None:
    """Raise StoreError, saying what to do, where no index could be written.

    What is written to find out is of use to whoever comes across the folder.
    """
    try:
        store.create(f"{OWN}/README.txt", NOTE.encode())
    except StoreError as error:
        raise StoreError(
            f"{store.uri} has no index yet, and none can be written with this key: run"
            f" 'stageflow pull {store.uri}' once with a key that may write ({error})"
        ) from error


def damaged(store: Store, entry: Entry, what: str) -> Corrupt:
    """The error for a file that is not what the index says."""
    return Corrupt(
        f"{store.uri}/{entry.stored} {what}: put the right file back, or run 'stageflow push FOLDER"
        f" {store.uri} --replace'; if it was changed on purpose, {_anew(store)}"
    )


def _head(*, digest: Any, files: Any, size: Any, complete: Any) -> Head:
    """A head as it was found. Raises ValueError: readers take its digest for a folder."""
    if not isinstance(complete, bool):
        raise ValueError(f"complete is {complete!r}")
    return Head(
        digest=_hex(digest, DIGEST), files=_count(files), size=_count(size), complete=complete
    )


def _entry(path: Any, size: Any, digest: Any, stored: Any) -> Entry:
    """A row of an index as it was found. Raises ValueError, and StoreError for unsafe names."""
    for name in (path, stored):
        if not isinstance(name, str):
            raise ValueError(f"{name!r} is no path")
    return Entry(check_name(path), _count(size), _hex(digest, SHA256), check_name(stored))


def _hex(value: Any, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{value!r} is no digest")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no number of files or bytes")
    return value


def _index_name(digest: str) -> str:
    return f"{OWN}/{digest}.json"


def _anew(store: Store) -> str:
    return f"remove {store.uri}/{OWN}/ and the next reader makes the index anew"
