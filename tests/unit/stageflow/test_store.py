"""The folder store, retries around a store that fails now and then, and names and addresses."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from stageflow import store as module
from stageflow.store import (
    FolderStore,
    NotFound,
    Retrying,
    Store,
    StoreError,
    Transient,
    open_store,
)
from stageflow.testing import StoreContract

T = TypeVar("T")


class TestFolderStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return FolderStore(tmp_path / "a store" / "of mine")


class TestRetrying(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return Retrying(FolderStore(tmp_path / "store"))


class FlakyStore:
    """A folder store with faults, one a call: `refuse` the deed, or `lose` the answer after it."""

    def __init__(self, path: Path) -> None:
        self.inner = FolderStore(path)
        self.uri = "flaky://store"
        self.faults: deque[str] = deque()
        self.calls = 0

    def read(self, name: str) -> bytes:
        return self._do(lambda: self.inner.read(name))

    def download(self, name: str, to: Path) -> None:
        self._do(lambda: self.inner.download(name, to))

    def upload(self, source: Path, name: str) -> None:
        self._do(lambda: self.inner.upload(source, name))

    def create(self, name: str, data: bytes) -> bool:
        return self._do(lambda: self.inner.create(name, data))

    def list(self, prefix: str) -> Iterator[str]:
        for name in self.inner.list(prefix):
            yield self._do(lambda name=name: name)

    def delete(self, names: Iterable[str]) -> None:
        self._do(lambda: self.inner.delete(names))

    def _do(self, deed: Callable[[], T]) -> T:
        self.calls += 1
        fault = self.faults.popleft() if self.faults else ""
        if fault == "refuse":
            raise Transient("busy")
        result = deed()
        if fault == "lose":
            raise Transient("the answer was lost")
        return result


@pytest.fixture
def flaky(tmp_path: Path) -> FlakyStore:
    return FlakyStore(tmp_path / "flaky")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the code would have slept."""
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    return slept


def failure(act: Callable[[], object]) -> str:
    """The message of the StoreError that the act ends with: one line."""
    with pytest.raises(StoreError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# the folder store


def test_a_download_shares_the_bytes_but_cannot_be_written_into(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.create("object", b"content")
    store.download("object", tmp_path / "out")
    assert (tmp_path / "out").samefile(tmp_path / "store" / "object")
    assert not stat.S_IMODE((tmp_path / "out").stat().st_mode) & 0o222


def test_a_download_to_another_file_system_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(source: Path, to: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    store = FolderStore(tmp_path / "store")
    store.create("object", b"content")
    monkeypatch.setattr(os, "link", elsewhere)
    store.download("object", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"content"
    with pytest.raises(NotFound):
        store.download("folder", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out", "store"]


def test_files_of_a_killed_writer_are_never_listed(tmp_path: Path) -> None:
    killed = """
import os, sys
from pathlib import Path
from stageflow.store import FolderStore
os.fsync = lambda handle: os._exit(9)
FolderStore(Path(sys.argv[1])).create("stage/manifest.json", b"half")
"""
    run = subprocess.run([sys.executable, "-c", killed, tmp_path / "store"], check=False)
    assert run.returncode == 9
    assert len([*(tmp_path / "store" / "stage").iterdir()]) == 1
    store = FolderStore(tmp_path / "store")
    assert [*store.list("")] == [*store.list("stage/")] == []
    assert store.create("stage/manifest.json", b"whole")


def test_a_name_of_an_unfinished_file_is_refused(tmp_path: Path) -> None:
    message = failure(lambda: FolderStore(tmp_path).create("stage/.part-1", b""))
    assert "'stage/.part-1'" in message


def test_create_believes_the_link_count_when_nfs_repeats_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def answer_lost(source: Path, to: Path) -> None:
        link(source, to)
        link(source, to)  # the client asks again and is told that the name exists

    monkeypatch.setattr(os, "link", answer_lost)
    store = FolderStore(tmp_path)
    assert store.create("object", b"mine")
    assert not store.create("object", b"another's")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "the disk is full: free some space"),
        (errno.EDQUOT, "the disk quota is used up: free some space"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied: let this user read and write it"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_write_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    def fail(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / "in").write_bytes(b"new")
    store = FolderStore(tmp_path / "store")
    store.create("old", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    for verb in (
        lambda: store.create("stage/manifest.json", b"new"),
        lambda: store.upload(tmp_path / "in", "old"),
    ):
        message = failure(verb)
        assert message.startswith(f"{tmp_path / 'store'}: {advice}")
    assert [path for path in store.path.rglob("*") if path.is_file()] == [store.path / "old"]
    assert store.read("old") == b"old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.path.chmod(0o555)
    assert f"{store.path}" in failure(lambda: store.create("object", b""))
    assert "permission denied" in failure(lambda: FolderStore(store.path / "below"))


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = failure(lambda: FolderStore(tmp_path / "file"))
    assert message.startswith(f"{tmp_path / 'file'}: is a file, not a folder")
    message = failure(lambda: FolderStore(tmp_path / "file" / "below"))
    assert "file/below: leads through a file" in message


def test_a_download_to_a_place_that_cannot_be_written_blames_that_place(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.create("object", b"")
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'}: " in failure(
        lambda: store.download("object", tmp_path / "file" / "out")
    )


def test_a_store_keeps_its_place_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = FolderStore(Path("store"))
    store.create("object", b"content")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.read("object") == b"content"


# retries


@pytest.mark.parametrize("fault", ["refuse", "lose"])
def test_retrying_survives_faults(
    flaky: FlakyStore, waits: list[float], tmp_path: Path, fault: str
) -> None:
    (tmp_path / "in").write_bytes(b"content")
    store = Retrying(flaky)
    for verb in (
        lambda: store.upload(tmp_path / "in", "object"),
        lambda: store.download("object", tmp_path / "out"),
        lambda: store.read("object"),
        lambda: store.create("created", b"made"),
        lambda: store.delete(name for name in ["object"]),
    ):
        flaky.faults.extend([fault] * 6)
        verb()
        assert not flaky.faults
    assert (tmp_path / "out").read_bytes() == b"content"
    assert [*flaky.inner.list("")] == ["created"]
    assert len(waits) == 5 * 6


def test_a_list_that_breaks_in_the_middle_repeats_no_name(
    flaky: FlakyStore, waits: list[float]
) -> None:
    for name in "abc":
        flaky.inner.create(name, b"")
    flaky.faults.extend(["", "", "refuse"])
    assert sorted(Retrying(flaky).list("")) == ["a", "b", "c"]


def test_create_tells_the_truth_when_the_answer_is_lost(
    flaky: FlakyStore, waits: list[float]
) -> None:
    store = Retrying(flaky)
    flaky.faults.extend(
        ["lose", "refuse", "", "lose"]
    )  # the last fault hits the look at the content
    assert store.create("object", b"mine")
    flaky.faults.extend(["lose"])
    assert not store.create("object", b"another's")
    flaky.faults.extend(["refuse"])
    assert not store.create("object", b"a third's")
    assert flaky.inner.read("object") == b"mine"


def test_a_plain_no_is_not_looked_into(flaky: FlakyStore) -> None:
    flaky.inner.create("object", b"same")
    assert not Retrying(flaky).create("object", b"same")
    assert flaky.calls == 1


def test_waits_double_up_to_the_longest(flaky: FlakyStore, waits: list[float]) -> None:
    flaky.faults.extend(["refuse"] * 5)
    store = Retrying(flaky, attempts=6, first_wait_s=1.0, longest_wait_s=5.0)
    store.create("object", b"")
    for wait, full in zip(waits, [1, 2, 4, 5, 5], strict=True):
        assert full / 2 <= wait <= full
    assert len(set(waits)) == 5  # jitter


def test_giving_up_names_store_and_object(flaky: FlakyStore, waits: list[float]) -> None:
    flaky.faults.extend(["refuse"] * 3)
    message = failure(lambda: Retrying(flaky, attempts=3).read("stage/manifest.json"))
    assert message == (
        "flaky://store: gave up after 3 attempts to read 'stage/manifest.json': busy"
    )
    assert flaky.calls == 3
    assert len(waits) == 2


def test_other_errors_are_not_tried_again(flaky: FlakyStore, waits: list[float]) -> None:
    with pytest.raises(NotFound):
        Retrying(flaky).read("absent")
    assert flaky.calls == 1
    assert waits == []


def test_settings_that_make_no_sense(flaky: FlakyStore) -> None:
    with pytest.raises(ValueError, match="attempts is 0: give 1 or more"):
        Retrying(flaky, attempts=0)
    with pytest.raises(ValueError, match=r"first_wait_s is 3.0: give 0 up to longest_wait_s"):
        Retrying(flaky, first_wait_s=3.0, longest_wait_s=2.0)


# addresses


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_open_a_folder(tmp_path: Path, form: str) -> None:
    store = open_store(form.format(tmp_path / "store"))
    store.create("object", b"content")
    assert (tmp_path / "store" / "object").read_bytes() == b"content"


def test_a_folder_uri_leads_back_to_the_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "50% of é")
    assert open_store(store.uri) == store


def test_s3_is_opened_with_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    store = open_store("s3://bucket/some/prefix/")
    assert isinstance(store, Retrying)
    assert store.uri == "s3://bucket/some/prefix"


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("gs://bucket/prefix", "store 'gs://bucket/prefix': unknown scheme; want s3://"),
        ("file://folder/below", "write file:///folder/below, with three slashes"),
        ("s3://bucket/../other", "object name '../other'"),
    ],
)
def test_addresses_that_are_refused(uri: str, problem: str) -> None:
    assert problem in failure(lambda: open_store(uri))


def test_the_core_imports_no_s3_library() -> None:
    code = "import sys, stageflow.store, stageflow.store_check; print('boto3' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch("False\n", out.stdout)
