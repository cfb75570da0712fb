"""Where artifacts live: objects with names, behind six verbs.

A store is a folder (`FolderStore`, the embedded default) or an S3 bucket (`stageflow.store_s3`);
`open_store` picks one by its URI. `create` is the one verb by which writers in different processes
agree on a winner; every other verb may be repeated without harm, so that `Retrying` can be wrapped
around any store. Every error is a `StoreError` of one line.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import uuid4

T = TypeVar("T")

PART = (
    ".part-"  # how the names of files begin that are not complete yet; no object may be called so
)
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
ADVICE = {
    errno.EACCES: "permission denied: let this user read and write it, or choose another store",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another store",
    errno.EEXIST: "is a file, not a folder: move it away, or choose another store",
    errno.EISDIR: "is a folder, not a file: move it away, or choose another name",
    errno.ENOSPC: "the disk is full: free some space, or choose another store",
    errno.ENOTDIR: "leads through a file, not a folder: move it away, or choose another store",
    errno.EPERM: "the file system refuses (a store needs hard links): choose another folder",
    errno.EROFS: "the file system is read-only: choose another store",
}


class StoreError(Exception):
    """A store cannot do what was asked; the message is one line that says what to do."""


class NotFound(StoreError):
    """The store holds no object of this name."""


class Transient(StoreError):
    """The store could not answer this time; the same call may succeed a little later."""


class Store(Protocol):
    """Objects named by relative POSIX paths such as `recam_train/3fa4/manifest.json`.

    All verbs raise `StoreError`; those of a store behind a network also raise `Transient`.
    """

    @property
    def uri(self) -> str:
        """The address that `open_store` takes, for messages and manifests."""

    def read(self, name: str) -> bytes:
        """Return the whole object; raises NotFound."""

    def download(self, name: str, to: Path) -> None:
        """Put the object at `to` in one step, making its folder; raises NotFound.

        The file may share its bytes with the store: replace it, but never write into it.
        """

    def upload(self, source: Path, name: str) -> None:
        """Copy a file into the store in one step, over an object of the same name."""

    def create(self, name: str, data: bytes) -> bool:
        """Make the object unless it is there; True for exactly one of racing callers."""

    def list(self, prefix: str) -> Iterator[str]:
        """Every name that begins with the prefix (a string, not a folder), in no promised order."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove the objects; absent ones are no error."""


def open_store(uri: str) -> Store:
    """The store at `s3://bucket/prefix`, `file:///folder` or a plain folder path.

    Raises StoreError for any other scheme, and for a folder that cannot be made.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    if scheme is None:
        return FolderStore(Path(uri))
    if scheme[1] == "file":
        place = urlsplit(uri)
        if place.netloc not in ("", "localhost"):
            raise StoreError(
                f"store {uri!r}: write file:///{place.netloc}{place.path}, with three slashes"
            )
        return FolderStore(Path(unquote(place.path)))
    if scheme[1] == "s3":
        from stageflow.store_s3 import S3Store

        return Retrying(S3Store.at(uri))
    raise StoreError(
        f"store {uri!r}: unknown scheme; want s3://bucket/prefix, file:///folder or a path"
    )


def check_name(name: str) -> str:
    """Return the name if it is safe and the same to every store; raises StoreError."""
    parts = name.split("/")
    inside = not {"", ".", ".."} & set(parts) and not parts[-1].startswith(PART)
    if not inside or "\\" in name or not name.isprintable():
        raise StoreError(
            f"object name {name!r}: want a relative path such as 'stage/key/manifest.json', "
            f"without '.', '..', empty or {PART!r} parts, backslashes or control characters"
        )
    return name


@contextlib.contextmanager
def part_file(target: Path) -> Iterator[Path]:
    """A path beside the target for incomplete content; what is left there is removed at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{PART}{uuid4().hex}")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def plain_errors(folder: Path) -> Iterator[None]:
    """Turn what the operating system says about files in this folder into a StoreError."""
    try:
        yield
    except OSError as error:
        _explain(error, folder)


def _explain(error: OSError, folder: Path) -> NoReturn:
    """Name the file that the error names, if it is one, and not a copy's source or a part file."""
    named = Path(error.filename) if error.filename and not error.filename2 else folder
    place = named.parent if named.name.startswith(PART) else named
    raise StoreError(f"{place}: {ADVICE.get(error.errno or 0, error.strerror)}") from error


@dataclass(frozen=True, slots=True)
class FolderStore:
    """A store in a folder, made if it is not there; on NFS it may be shared by a cluster.

    Objects are read-only files, because `download` hands them out as hard links.
    """

    path: Path

    def __post_init__(self) -> None:
        folder = self.path.expanduser().absolute()  # workers run in other working directories
        object.__setattr__(self, "path", folder)
        with plain_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def uri(self) -> str:
        """The folder as a `file:///` URI."""
        return self.path.as_uri()

    def read(self, name: str) -> bytes:
        """Return the whole object; raises NotFound."""
        with plain_errors(self.path), self._absent_is_not_found(name):
            return self._file(name).read_bytes()

    def download(self, name: str, to: Path) -> None:
        """Link the object to `to`, or copy it where file systems differ; raises NotFound."""
        source = self._file(name)
        with plain_errors(to.parent), part_file(to) as part:
            with self._absent_is_not_found(name):
                _link_or_copy(source, part)
            os.replace(part, to)

    def upload(self, source: Path, name: str) -> None:
        """Copy a file into the store; raises FileNotFoundError if there is no such source."""
        target = self._file(name)
        with source.open("rb") as content, plain_errors(self.path), part_file(target) as part:
            _write(content, part)
            os.replace(part, target)

    def create(self, name: str, data: bytes) -> bool:
        """Make the object unless it is there, by a hard link to a complete file."""
        target = self._file(name)
        with plain_errors(self.path), part_file(target) as part:
            _write(io.BytesIO(data), part)
            try:
                os.link(part, target)
            except FileExistsError:
                # NFS may answer so when it repeats a link that worked: then the file has two names
                return part.stat().st_nlink > 1
            _sync(
                target.parent
            )  # a manifest commits the files beside it: their names must be on disk
            return True

    def list(self, prefix: str) -> Iterator[str]:
        """Every name that begins with the prefix."""
        folder = prefix.rpartition("/")[0]
        start = self._file(folder) if folder else self.path
        for parent, _, files in os.walk(start, onerror=self._unreadable):
            inside = (
                ""
                if parent == str(self.path)
                else f"{Path(parent).relative_to(self.path).as_posix()}/"
            )
            for file in files:
                if f"{inside}{file}".startswith(prefix) and not file.startswith(PART):
                    yield f"{inside}{file}"

    def delete(self, names: Iterable[str]) -> None:
        """Remove the objects; their folders stay, since a writer may be about to use them."""
        for name in names:
            with plain_errors(self.path), contextlib.suppress(*ABSENT):
                self._file(name).unlink()

    def _file(self, name: str) -> Path:
        return self.path / check_name(name)

    @contextlib.contextmanager
    def _absent_is_not_found(self, name: str) -> Iterator[None]:
        try:
            yield
        except ABSENT:
            raise NotFound(f"{self.uri}: there is no object {name!r}") from None

    def _unreadable(self, error: OSError) -> None:
        if not isinstance(error, ABSENT):
            _explain(error, self.path)


def _link_or_copy(source: Path, to: Path) -> None:
    try:
        os.link(source, to)
    except ABSENT:
        raise
    except OSError:  # another file system, or no more links to this file: a copy is as good
        shutil.copyfile(source, to)


def _write(content: BinaryIO, to: Path) -> None:
    with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Retrying:
    """Any store, asked again when it raises `Transient`, with longer and longer random waits.

    Waits double from `first_wait_s` to at most `longest_wait_s`, each cut by up to half at random
    so that many workers do not come back at once: some 12 s in all by default. Then it gives up
    with a StoreError.
    """

    store: Store
    _: KW_ONLY
    attempts: int = 7
    first_wait_s: float = 0.25
    longest_wait_s: float = 8.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}: give 1 or more")
        if not 0 <= self.first_wait_s <= self.longest_wait_s:
            raise ValueError(f"first_wait_s is {self.first_wait_s}: give 0 up to longest_wait_s")

    @property
    def uri(self) -> str:
        """The address of the store inside."""
        return self.store.uri

    def read(self, name: str) -> bytes:
        """Return the whole object; raises NotFound."""
        return self._persist(f"read {name!r}", lambda: self.store.read(name))

    def download(self, name: str, to: Path) -> None:
        """Put the object at `to` in one step; raises NotFound."""
        self._persist(f"download {name!r}", lambda: self.store.download(name, to))

    def upload(self, source: Path, name: str) -> None:
        """Copy a file into the store in one step."""
        self._persist(f"upload {name!r}", lambda: self.store.upload(source, name))

    def create(self, name: str, data: bytes) -> bool:
        """Make the object unless it is there; the data must differ between callers.

        When the answer to an attempt was lost, the next one finds the object there. Then its
        content tells whose it is.
        """
        tries = 0

        def attempt() -> bool:
            nonlocal tries
            tries += 1
            return self.store.create(name, data) or (tries > 1 and self.read(name) == data)

        return self._persist(f"create {name!r}", attempt)

    def list(self, prefix: str) -> Iterator[str]:
        """Every name that begins with the prefix, fetched at once so that no retry repeats one."""
        return self._persist(f"list {prefix!r}", lambda: iter([*self.store.list(prefix)]))

    def delete(self, names: Iterable[str]) -> None:
        """Remove the objects; absent ones are no error."""
        batch = [*names]
        self._persist(f"delete {len(batch)} objects", lambda: self.store.delete(batch))

    def _persist(self, what: str, call: Callable[[], T]) -> T:
        for wait in self._waits():
            try:
                return call()
            except Transient:
                time.sleep(wait * random.uniform(0.5, 1.0))
        try:
            return call()
        except Transient as error:
            raise StoreError(
                f"{self.uri}: gave up after {self.attempts} attempts to {what}: {error}"
            ) from error

    def _waits(self) -> Iterator[float]:
        return (
            min(self.longest_wait_s, self.first_wait_s * 2**n) for n in range(self.attempts - 1)
        )
