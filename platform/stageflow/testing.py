"""Contracts as test classes: subclass one, give its fixture, and the backend meets its checks."""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stageflow.store import NotFound, Store, StoreError


class StoreContract:
    """What every `stageflow.store.Store` must do; give an empty one as fixture `store`."""

    def test_round_trip(self, store: Store, tmp_path: Path) -> None:
        """Bytes come back as they went, whichever way in and out."""
        data = os.urandom(300_000)
        (tmp_path / "in").write_bytes(data)
        store.upload(tmp_path / "in", "stage/key/uploaded")
        assert store.create("stage/key/created", data)
        for name in ("stage/key/uploaded", "stage/key/created"):
            store.download(name, tmp_path / "new" / "folder" / "out")
            assert store.read(name) == data
            assert (tmp_path / "new" / "folder" / "out").read_bytes() == data

    def test_empty_object(self, store: Store, tmp_path: Path) -> None:
        """An object of no bytes is an object."""
        (tmp_path / "in").touch()
        store.upload(tmp_path / "in", "uploaded")
        assert store.create("created", b"")
        assert store.read("uploaded") == store.read("created") == b""
        store.download("created", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b""
        assert not store.create("uploaded", b"late")

    @pytest.mark.parametrize(
        "name",
        [
            "a b/c+d=e&f?g#h",
            "percent%2Fnot a slash%",
            ".hidden/.file",
            "Straße/日本語/é.npz",
            "brackets[0]{1}(2)*~!'\";:@,$",
            f"long/{'n' * 200}/{'m' * 200}",
        ],
    )
    def test_odd_names(self, store: Store, tmp_path: Path, name: str) -> None:
        """Names are taken literally."""
        assert store.create(name, b"odd")
        assert not store.create(name, b"again")
        store.download(name, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == store.read(name) == b"odd"
        assert [*store.list("")] == [*store.list(name[:-1])] == [name]
        store.delete([name])
        assert [*store.list("")] == []

    @pytest.mark.parametrize(
        "name",
        ["", "/etc/passwd", "../outside", "a/../../b", "a//b", "a/", "./a", "a\nb", "a\0b", "a\\b"],
    )
    def test_names_that_escape_are_refused(self, store: Store, tmp_path: Path, name: str) -> None:
        """No verb takes a name that could lead out of the store, and the message is one line."""
        (tmp_path / "in").touch()
        for verb in (
            lambda: store.read(name),
            lambda: store.download(name, tmp_path / "out"),
            lambda: store.upload(tmp_path / "in", name),
            lambda: store.create(name, b""),
            lambda: store.delete([name]),
        ):
            with pytest.raises(
                StoreError, match=r"^object name .*: want a relative path"
            ) as caught:
                verb()
            assert "\n" not in str(caught.value)

    def test_not_found(self, store: Store, tmp_path: Path) -> None:
        """An absent object is `NotFound`, whatever lies around it; what was at the target stays."""
        store.create("folder/file", b"")
        (tmp_path / "out").write_bytes(b"before")
        for name in ("absent", "folder", "folder/absent", "folder/file/below"):
            with pytest.raises(NotFound, match=f"no object '{name}'"):
                store.read(name)
            with pytest.raises(NotFound, match=f"no object '{name}'"):
                store.download(name, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b"before"
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out"]

    def test_absent_source(self, store: Store, tmp_path: Path) -> None:
        """A missing file to upload is the caller's error, not the store's."""
        with pytest.raises(FileNotFoundError):
            store.upload(tmp_path / "absent", "name")
        assert [*store.list("")] == []

    def test_create_twice(self, store: Store) -> None:
        """The second caller is told so and changes nothing."""
        assert store.create("stage/manifest.json", b"first")
        assert not store.create("stage/manifest.json", b"second")
        assert store.read("stage/manifest.json") == b"first"
        store.delete(["stage/manifest.json"])
        assert store.create("stage/manifest.json", b"third")

    def test_race(self, store: Store) -> None:
        """Of eight racing writers one wins, and nobody ever reads half of it."""
        contents = [os.urandom(200_000) for _ in range(8)]
        ready, over = threading.Barrier(len(contents) + 1), threading.Event()

        def write(content: bytes) -> bool:
            ready.wait()
            return store.create("race/manifest.json", content)

        def watch() -> set[bytes]:
            ready.wait()
            seen = set()
            while not over.is_set():
                try:
                    seen.add(store.read("race/manifest.json"))
                except NotFound:
                    seen.add(b"")
            return seen

        with ThreadPoolExecutor(len(contents) + 1) as pool:
            watcher = pool.submit(watch)
            results = [*pool.map(write, contents)]
            over.set()
        winner = contents[results.index(True)]
        assert sorted(results) == [False] * 7 + [True]
        assert store.read("race/manifest.json") == winner
        assert watcher.result() <= {b"", winner}
        assert [*store.list("")] == ["race/manifest.json"]

    def test_list_by_prefix(self, store: Store) -> None:
        """A prefix is a string of the whole name, not a folder."""
        names = {"a/1", "a/2", "a/b/3", "ab/4", "b/5", "a-6"}
        for name in names:
            store.create(name, b"")
        for prefix in ("", "a", "a/", "a/b", "ab/", "b/5", "c", "a/c/"):
            assert sorted(store.list(prefix)) == sorted(n for n in names if n.startswith(prefix))

    def test_many(self, store: Store) -> None:
        """More objects than S3 lists or deletes in one request."""
        names = [f"many/{number:04}" for number in range(1001)]
        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(lambda name: store.create(name, b"x"), names))
        assert sorted(store.list("many/")) == names
        store.delete(name for name in names[1:])
        assert [*store.list("")] == names[:1]

    def test_delete_absent(self, store: Store) -> None:
        """Deleting what is not there is no error and harms nothing else."""
        store.create("folder/file", b"kept")
        store.delete([])
        store.delete(["absent", "folder", "folder/absent", "folder/file/below"])
        assert store.read("folder/file") == b"kept"

    def test_overwrite_by_upload(self, store: Store, tmp_path: Path) -> None:
        """The last upload stands; a file that was downloaded before does not change."""
        for version in (b"first", b"second, longer"):
            (tmp_path / "in").write_bytes(version)
            store.upload(tmp_path / "in", "object")
            store.download("object", tmp_path / version[:5].decode())
        assert store.read("object") == b"second, longer"
        assert (tmp_path / "first").read_bytes() == b"first"
        assert [*store.list("")] == ["object"]

    def test_download_again(self, store: Store, tmp_path: Path) -> None:
        """A download over an older one replaces it in one step and leaves no other file."""
        store.create("old", b"old")
        store.create("new", b"new")
        out = tmp_path / "folder" / "out"
        for _ in range(2):
            store.download("old", out)
        with out.open("rb") as reader:
            store.download("new", out)
            assert reader.read() == b"old"
        assert [*out.parent.iterdir()] == [out]
        store.delete(["new"])
        assert out.read_bytes() == b"new"

    def test_travels(self, store: Store) -> None:
        """A store that was used can be sent to a worker."""
        store.create("object", b"content")
        there = pickle.loads(pickle.dumps(store))
        assert there.uri == store.uri
        assert there.read("object") == b"content"
