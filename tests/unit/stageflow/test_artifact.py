"""Artifacts appear whole or not at all, are verified when fetched, and one of two attempts wins."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from stageflow.artifact import Artifacts, Corrupt, File, Manifest, Part, folder_of, sha256
from stageflow.context import Report
from stageflow.store import FolderStore, NotFound, Store, StoreError
from stageflow.testing_stages import Telling, tell

KEY = tell(Telling(label="x")).key


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def artifacts(store: FolderStore, tmp_path: Path) -> Artifacts:
    return Artifacts(store, tmp_path / "cache")


def manifest(files: Iterable[File] = (), **changes: Any) -> Manifest:
    made = Manifest(
        key=KEY,
        stage="tell",
        version="1",
        config={"label": "x"},
        inputs={"images": {"name": "voc", "key": "k", "identity": {"ids": "1a"}}},
        files=tuple(files),
        metrics={"miou": 0.5},
        reports=(Report(1, {"loss": 2.0}),),
        resumed_from=(1, 2),
        shards=1,
        fingerprint="f" * 16,
        commit="c",
        libraries={"numpy": "2"},
        hosts=("here",),
        device="cpu",
        started=1.5,
        wall_seconds=2.5,
        gpu_seconds=0.0,
    )
    return replace(made, **changes)


def folder(at: Path, **files: str) -> Path:
    for name, text in files.items():
        path = at / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return at


def publish(artifacts: Artifacts, at: Path, **files: str) -> Manifest:
    uploaded = artifacts.put(f"tell/{KEY}", folder(at, **files))
    return artifacts.publish(manifest(uploaded))


def read(at: Path) -> dict[str, str]:
    files = (path for path in at.rglob("*") if path.is_file())
    return {path.relative_to(at).as_posix(): path.read_text() for path in files}


def stored(store: Store) -> set[str]:
    return set(store.list(""))


def test_round_trip(artifacts: Artifacts, tmp_path: Path) -> None:
    made = publish(artifacts, tmp_path / "out", a="1", sub__b="22", sub__deep__c="")
    assert read(artifacts.fetch(made)) == {"a": "1", "sub/b": "22", "sub/deep/c": ""}
    assert {(file.path, file.size) for file in made.files} == {
        ("a", 1),
        ("sub/b", 2),
        ("sub/deep/c", 0),
    }
    assert artifacts.manifest(tell(Telling(label="x"))) == made
    assert artifacts.manifest(tell(Telling(label="y"))) is None


def test_manifest_round_trip() -> None:
    made = manifest([File("a/b", 3, "0" * 64, "t")], metrics={"miou": math.pi})
    assert Manifest.from_json(made.to_json(), "here") == made
    odd = Manifest.from_json(manifest(metrics={"miou": math.nan}).to_json(), "here")
    assert math.isnan(odd.metrics["miou"])


def test_part_round_trip() -> None:
    part = Part(
        files=(File("a", 1, "0", "t"),),
        metrics={"m": 1.0},
        reports=(Report(1, {"m": 1.0}),),
        resumed_from=(3,),
        started=1.0,
        wall_seconds=2.0,
        gpu_seconds=3.0,
        host="h",
        device="cuda",
    )
    assert Part.from_json(json.loads(json.dumps(asdict(part)))) == part


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"null",
        b"{}",
        manifest().to_json().replace(b'"files"', b'"filed"'),
        manifest([File("a", 1, "0", "t")]).to_json().replace(b'"sha256"', b'"md5"'),
        manifest().to_json()[:-20],
    ],
)
def test_what_is_no_manifest(artifacts: Artifacts, store: FolderStore, data: bytes) -> None:
    name = f"tell/{KEY}/manifest.json"
    store.create(name, data)
    with pytest.raises(Corrupt, match=rf"{name} is not a manifest .*: remove it to have") as caught:
        artifacts.manifest(tell(Telling(label="x")))
    assert "\n" not in str(caught.value)


def test_empty_artifact(artifacts: Artifacts, tmp_path: Path) -> None:
    """A stage may have only metrics to tell."""
    (tmp_path / "out").mkdir()
    made = publish(artifacts, tmp_path / "out")
    for _ in range(2):
        assert read(artifacts.fetch(made)) == {}


class TestPublish:
    def test_race(self, artifacts: Artifacts, store: FolderStore, tmp_path: Path) -> None:
        """Two attempts at once: both get the winner's manifest, and only its files are left."""
        ready = threading.Barrier(2)

        def attempt(text: str) -> Manifest:
            uploaded = artifacts.put(f"tell/{KEY}", folder(tmp_path / text, a=text, b="same"))
            ready.wait()
            return artifacts.publish(manifest(uploaded, metrics={"n": len(text)}))

        with ThreadPoolExecutor(2) as pool:
            one, two = pool.map(attempt, ("first", "second one"))
        assert one == two
        prefix = f"tell/{KEY}/"
        assert stored(store) == {
            f"{prefix}manifest.json",
            *(f"{prefix}{file.attempt}/{file.path}" for file in one.files),
        }
        winner = "first" if one.metrics == {"n": 5} else "second one"
        assert read(artifacts.fetch(one)) == {"a": winner, "b": "same"}

    def test_late_attempt(self, artifacts: Artifacts, store: FolderStore, tmp_path: Path) -> None:
        made = publish(artifacts, tmp_path / "out", a="1")
        before = stored(store)
        late = publish(artifacts, tmp_path / "late", a="2", b="3")
        assert late == made
        assert stored(store) == before
        assert read(artifacts.fetch(late)) == {"a": "1"}

    def test_removes_what_dead_attempts_left(
        self, artifacts: Artifacts, store: FolderStore, tmp_path: Path
    ) -> None:
        """Checkpoints, finished shards, files of workers that died; but nothing of other nodes."""
        others = {f"tell/{KEY[:-1]}/manifest.json", f"tell/{KEY}0/a", f"tells/{KEY}/a", "tell/x"}
        for name in others:
            store.create(name, b"kept")
        for name in ("dead/a", "checkpoints/1.json", "checkpoints/q/net", "shards/0-of-2.json"):
            store.create(f"tell/{KEY}/{name}", b"left")
        made = publish(artifacts, tmp_path / "out", a="1")
        mine = {f"tell/{KEY}/manifest.json", f"tell/{KEY}/{made.files[0].attempt}/a"}
        assert stored(store) == others | mine


class Dying:
    """A store whose n-th upload fails, as when the process is killed or the disk is full."""

    def __init__(self, inner: FolderStore, uploads: int) -> None:
        self.inner, self.left, self.uri = inner, uploads, inner.uri

    def upload(self, source: Path, name: str) -> None:
        if self.left == 0:
            raise StoreError("the disk is full")
        self.left -= 1
        self.inner.upload(source, name)

    def read(self, name: str) -> bytes:
        return self.inner.read(name)

    def download(self, name: str, to: Path) -> None:
        self.inner.download(name, to)

    def create(self, name: str, data: bytes) -> bool:
        return self.inner.create(name, data)

    def list(self, prefix: str) -> Iterator[str]:
        return self.inner.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        self.inner.delete(names)


@pytest.mark.parametrize("uploads", [0, 1, 2])
def test_interrupted_upload(
    artifacts: Artifacts, store: FolderStore, tmp_path: Path, uploads: int
) -> None:
    """There is no manifest then, and the next attempt is whole and leaves nothing of this one."""
    dying = Artifacts(Dying(store, uploads), tmp_path / "cache")
    with pytest.raises(StoreError, match="the disk is full"):
        publish(dying, tmp_path / "out", a="1", b="2", c="3")
    assert artifacts.manifest(tell(Telling(label="x"))) is None
    made = publish(artifacts, tmp_path / "out", a="1", b="2", c="3")
    assert read(artifacts.fetch(made)) == {"a": "1", "b": "2", "c": "3"}
    assert len(stored(store)) == 4


class TestFetch:
    @pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty", "remove"])
    def test_damage(
        self, artifacts: Artifacts, store: FolderStore, tmp_path: Path, damage: str
    ) -> None:
        """One line that names the object and says what to do; nothing is put into the cache."""
        made = publish(artifacts, tmp_path / "out", a="1" * 1000, b="2" * 1000)
        name = f"tell/{KEY}/{made.files[1].attempt}/b"
        path, data = store.path / name, store.read(name)
        damaged = {"flip": b"3" + data[1:], "cut": data[:-1], "grow": data + b"2", "empty": b""}
        path.unlink()
        if damage != "remove":
            path.write_bytes(damaged[damage])
        said = "is missing" if damage == "remove" else "has not its recorded SHA-256"
        advice = f"run 'stageflow forget {KEY}' to have it made again"
        for _ in range(2):
            with pytest.raises(Corrupt, match=f"{name} {said}: {advice}$") as caught:
                artifacts.fetch(made)
            assert "\n" not in str(caught.value)
        left = {path.name for path in artifacts.cache.rglob("*") if path.is_file()}
        assert left == {"lock"}

    def test_advice_works(self, artifacts: Artifacts, store: FolderStore, tmp_path: Path) -> None:
        """Forgotten, it is made and fetched again."""
        made = publish(artifacts, tmp_path / "out", a="1")
        (store.path / f"tell/{KEY}/{made.files[0].attempt}/a").unlink()
        artifacts.withdraw(artifacts.find(KEY))
        again = publish(artifacts, tmp_path / "again", a="1")
        assert read(artifacts.fetch(again)) == {"a": "1"}

    def test_is_kept(self, artifacts: Artifacts, store: FolderStore, tmp_path: Path) -> None:
        """The second time the store is not asked, so it may even be away."""
        made = publish(artifacts, tmp_path / "out", a="1")
        first = artifacts.fetch(made)
        store.delete([*store.list("")])
        assert artifacts.fetch(made) == first
        assert read(first) == {"a": "1"}

    def test_another_attempt_is_another_directory(
        self, artifacts: Artifacts, tmp_path: Path
    ) -> None:
        """Else a machine could go on with what another one has withdrawn."""
        made = publish(artifacts, tmp_path / "out", a="1")
        old = artifacts.fetch(made)
        elsewhere = Artifacts(artifacts.store, tmp_path / "cache of another machine")
        elsewhere.withdraw(made)
        again = publish(elsewhere, tmp_path / "again", a="2")
        assert read(artifacts.fetch(again)) == {"a": "2"}
        assert read(old) == {"a": "1"}

    def test_at_once(self, artifacts: Artifacts, store: FolderStore, tmp_path: Path) -> None:
        """Of eight processes with one cache, one fetches; each finds the artifact whole."""
        files = {f"file{i}": str(i) * 100_000 for i in range(20)}
        made = publish(artifacts, tmp_path / "out", **files)
        ready = [tmp_path / f"ready{i}" for i in range(8)]
        fetchers = [
            subprocess.Popen([sys.executable, "-c", FETCH, store.path, artifacts.cache, KEY, mark])
            for mark in ready
        ]
        while not all(mark.exists() for mark in ready):
            assert not any(fetcher.poll() for fetcher in fetchers)
        (tmp_path / "go").touch()
        assert [fetcher.wait(60) for fetcher in fetchers] == [0] * 8
        fetched = [name for mark in ready for name in mark.read_text().split()]
        assert sorted(name.rpartition("/")[2] for name in fetched) == sorted(files)
        assert read(artifacts.fetch(made)) == files
        assert {path.name for path in (artifacts.cache / "tell" / KEY).iterdir()} == {
            made.files[0].attempt,
            "lock",
        }

    def test_what_a_killed_process_left_is_removed(
        self, artifacts: Artifacts, tmp_path: Path
    ) -> None:
        made = publish(artifacts, tmp_path / "out", a="1")
        around = artifacts.cache / "tell" / KEY
        folder(around / ".fetch-dead" / "files", a="hal")
        assert read(artifacts.fetch(made)) == {"a": "1"}
        assert {path.name for path in around.iterdir()} == {made.files[0].attempt, "lock"}

    def test_what_is_there_takes_no_lock(
        self, artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = publish(artifacts, tmp_path / "out", a="1")
        first = artifacts.fetch(made)
        monkeypatch.setattr("stageflow.artifact.alone", None)
        assert artifacts.fetch(made) == first

    def test_the_slower_of_two_without_locks(
        self,
        artifacts: Artifacts,
        store: FolderStore,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It finds the directory there when it has fetched its own, and takes that one.

        What a third one may be at is left alone.
        """
        made = publish(artifacts, tmp_path / "out", a="1")
        around = artifacts.cache / "tell" / KEY
        folder(around / ".fetch-other" / "files", a="hal")

        def flock(file: object, operation: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("stageflow.alone.fcntl.flock", flock)
        both, download = threading.Barrier(2, timeout=30), FolderStore.download

        def together(store: FolderStore, name: str, to: Path) -> None:
            download(store, name, to)
            both.wait()

        monkeypatch.setattr(FolderStore, "download", together)
        with ThreadPoolExecutor(2) as pool:
            one, two = pool.map(artifacts.fetch, (made, made))
        assert one == two
        assert read(one) == {"a": "1"}
        assert {path.name for path in around.iterdir()} == {one.name, "lock", ".fetch-other"}

    @pytest.mark.parametrize("path", ["../../../../outside", "/etc/passwd", "a/../../b"])
    def test_names_that_escape(self, artifacts: Artifacts, tmp_path: Path, path: str) -> None:
        """A manifest of somebody else's store cannot write outside of the cache."""
        evil = manifest([File(path, 1, sha256(Path(__file__)), "t")])
        with pytest.raises(StoreError, match="want a relative path"):
            artifacts.fetch(evil)
        assert not (tmp_path / "outside").exists()


FETCH = """
import sys, time
from pathlib import Path
from stageflow.artifact import Artifacts
from stageflow.store import FolderStore
store, cache, key, mark = sys.argv[1:]
class Noting(FolderStore):
    def download(self, name, to):
        with open(mark, "a") as file:
            print(name, file=file)
        FolderStore.download(self, name, to)
artifacts = Artifacts(Noting(Path(store)), Path(cache))
made = artifacts.find(key)
Path(mark).touch()
while not Path(mark).with_name("go").exists():
    time.sleep(0.001)
folder = artifacts.fetch(made)
sizes = {path.stat().st_size for path in folder.iterdir()}
assert len(list(folder.iterdir())) == 20, list(folder.iterdir())
assert sizes == {100_000, 200_000}, sizes
"""


class TestFind:
    def test_by_its_first_digits(self, artifacts: Artifacts, tmp_path: Path) -> None:
        made = publish(artifacts, tmp_path / "out", a="1")
        assert artifacts.find(KEY[:4]) == artifacts.find(KEY) == made
        assert artifacts.find(f"tell/{KEY[:4]}") == artifacts.find(f"tell/{KEY}") == made
        for other in ("tell", f"ell/{KEY}", f"teller/{KEY}"):
            with pytest.raises(NotFound):
                artifacts.find(other)

    def test_none_or_several(self, artifacts: Artifacts, store: FolderStore) -> None:
        with pytest.raises(NotFound, match=r"no single artifact with the key abc\.\.\. in .*none"):
            artifacts.find("abc")
        for key in ("abc1", "abc2"):
            store.create(f"tell/{key}/manifest.json", manifest(key=key).to_json())
        with pytest.raises(NotFound, match=r"several have: tell/abc\d, tell/abc\d it"):
            artifacts.find("abc")

    def test_all(self, artifacts: Artifacts, store: FolderStore) -> None:
        """Of one stage or of all; nothing else that lies in the store is taken for a manifest."""
        for stage, key in (("tell", "1"), ("tell", "2"), ("teller", "3")):
            made = manifest(stage=stage, key=key)
            store.create(f"{stage}/{key}/manifest.json", made.to_json())
        store.create("tell/4/attempt/manifest.json", b"a file of that name")
        store.create("board/manifest.json", b"something else")
        assert sorted(found.key for found in artifacts.all()) == ["1", "2", "3"]
        assert sorted(found.key for found in artifacts.all("tell")) == ["1", "2"]
        assert list(artifacts.all("absent")) == []
        assert sorted(artifacts.folders()) == ["tell/1", "tell/2", "teller/3"]


def test_withdraw(artifacts: Artifacts, store: FolderStore, tmp_path: Path) -> None:
    made = publish(artifacts, tmp_path / "out", a="1")
    fetched = artifacts.fetch(made)
    artifacts.withdraw(made)
    assert stored(store) == set()
    assert not fetched.exists()
    assert artifacts.manifest(tell(Telling(label="x"))) is None
    artifacts.withdraw(made)


def test_symbolic_links_are_stored_as_what_they_lead_to(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_text("content")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    made = publish(artifacts, tmp_path / "out")
    os.unlink(tmp_path / "elsewhere")
    assert read(artifacts.fetch(made)) == {"link": "content"}


def test_folder_of() -> None:
    assert folder_of(tell(Telling(label="x"))) == f"tell/{KEY}"
