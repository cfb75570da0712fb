"""The start-up check against stores that break one promise each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from stageflow.store import FolderStore, Store, StoreError
from stageflow.store_check import self_test


class Broken:
    """A folder store that keeps its promises; the subclasses break one each."""

    def __init__(self, path: Path) -> None:
        self.inner = FolderStore(path)
        self.uri = "s3://broken"

    def read(self, name: str) -> bytes:
        return self.inner.read(name)

    def download(self, name: str, to: Path) -> None:
        self.inner.download(name, to)

    def upload(self, source: Path, name: str) -> None:
        self.inner.upload(source, name)

    def create(self, name: str, data: bytes) -> bool:
        return self.inner.create(name, data)

    def list(self, prefix: str) -> Iterator[str]:
        return self.inner.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        self.inner.delete(names)


class IgnoresConditions(Broken):
    def create(self, name: str, data: bytes) -> bool:
        self.inner.delete([name])
        self.inner.create(name, data)
        return True


class LooksBeforeItWrites(Broken):
    """The condition holds for one writer after another, but several get through at once."""

    def create(self, name: str, data: bytes) -> bool:
        if [*self.inner.list(name)]:
            return False
        time.sleep(0.1)
        self.inner.create(name, data)
        return True


class NobodyWins(Broken):
    def create(self, name: str, data: bytes) -> bool:
        self.inner.create(name, data)
        return False


class StoresTheFraming(Broken):
    """As servers do that keep the chunk headers of a checksum trailer inside the object."""

    def download(self, name: str, to: Path) -> None:
        to.write_bytes(b"186a0\r\n" + self.inner.read(name))


class ListsLate(Broken):
    def list(self, prefix: str) -> Iterator[str]:
        return iter(())


class KeepsDeleted(Broken):
    def delete(self, names: Iterable[str]) -> None:
        pass


def test_a_good_store_passes_and_keeps_only_what_it_held(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.create("mine", b"mine")
    findings = self_test(store)
    assert any("exactly one of 4 racing writers wins" in line for line in findings)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mine"]


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (IgnoresConditions, "this server ignores If-None-Match: two writers could both win; use"),
        (LooksBeforeItWrites, "of 4 racing writers were told they won: use"),
        (NobodyWins, "0 of 4 racing writers were told they won: use"),
        (StoresTheFraming, "100000 bytes came back as other 100007 bytes: use"),
        (ListsLate, "a list does not show what was just written: use"),
        (KeepsDeleted, "a deleted object is still there: use"),
    ],
)
def test_a_broken_store_is_refused(
    tmp_path: Path, broken: Callable[[Path], Store], problem: str
) -> None:
    with pytest.raises(StoreError) as caught:
        self_test(broken(tmp_path / "store"))
    assert str(caught.value).startswith("s3://broken: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("broken", [IgnoresConditions, LooksBeforeItWrites, StoresTheFraming])
def test_a_refused_store_is_left_as_it_was(tmp_path: Path, broken: type[Broken]) -> None:
    store = broken(tmp_path / "store")
    with pytest.raises(StoreError):
        self_test(store)
    assert [*store.inner.list("")] == []
