"""Data roots in a folder's store: pushed, fetched, filled by other tools, damaged, replaced."""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from stageflow import replica as module
from stageflow import replica_index
from stageflow.replica import pin, replica
from stageflow.replica_index import HEAD, OWN, Index, head, load
from stageflow.replica_push import content_of, push
from stageflow.settings import home
from stageflow.store import FolderStore, NotFound, StoreError

FILES = {"lists/train.txt": "a\nb\n", "images/a.jpg": "picture a", "images/b b.jpg": "picture b"}


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a store's files are links, which nobody may write into
        path.write_text(text)
    return folder


def held(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return fill(tmp_path / "mine" / "voc", FILES)


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "bucket" / "voc"


@pytest.fixture
def root(bucket: Path) -> str:
    return bucket.as_uri()


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the objects that are downloaded, as they are."""
    names: list[str] = []
    real = FolderStore.download

    def download(store: FolderStore, name: str, to: Path) -> None:
        names.append(name)
        real(store, name, to)

    monkeypatch.setattr(FolderStore, "download", download)
    return names


def failure(uri: str) -> str:
    with pytest.raises(StoreError) as caught:
        replica(uri)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_pushed_is_fetched_once(data: Path, root: str, downloads: list[str]) -> None:
    pushed = push(data, root)
    folder = replica(root)
    assert held(folder) == FILES
    assert folder.name == pushed.index.digest
    assert folder.is_relative_to(home() / "data")
    assert replica(f"{root}/") == folder
    assert sorted(downloads) == sorted(FILES)


def test_the_files_of_a_first_push_keep_their_names(data: Path, bucket: Path, root: str) -> None:
    push(data, root)
    there = held(bucket)
    assert {name: there.pop(name) for name in FILES} == FILES
    assert all(name.startswith(f"{OWN}/") for name in there)


def test_the_digest_is_of_the_content_alone(data: Path, tmp_path: Path) -> None:
    other = fill(tmp_path / "other", dict(reversed(FILES.items())))
    assert content_of(other).digest == content_of(data).digest
    digests = {content_of(data).digest}
    for name, text in (("images/a.jpg", "Picture a"), ("images/c.jpg", "picture a")):
        digests.add(content_of(fill(other, {name: text})).digest)
    assert len(digests) == 3


def test_a_process_that_knows_the_digest_asks_nobody(data: Path, bucket: Path, root: str) -> None:
    pushed = push(data, root)
    folder = replica(pushed.uri)
    shutil.rmtree(bucket)
    assert replica(pushed.uri) == folder
    assert not bucket.exists()


def test_a_root_is_pinned_to_what_it_holds(
    data: Path, root: str, downloads: list[str], tmp_path: Path
) -> None:
    """By one small object, and by none where its digest is known."""
    first = push(data, root)
    assert pin(root) == pin(f"{root}/") == first.uri
    assert downloads == []
    push(fill(data, {"lists/train.txt": "b\n"}), root, over=True)
    assert pin(first.uri) == first.uri
    assert held(replica(first.uri)) == FILES
    away = f"{(tmp_path / 'away').as_uri()}#{first.index.digest}"
    assert pin(away) == away
    assert not (tmp_path / "away").exists()


def test_a_root_without_index_is_pinned_by_reading_it(bucket: Path, root: str) -> None:
    fill(bucket, FILES)
    assert pin(root) == f"{root}#{replica(root).name}"


def test_the_first_reader_of_a_filled_root_makes_its_index(bucket: Path, root: str) -> None:
    fill(bucket, FILES)
    folder = replica(root)
    assert held(folder) == FILES
    store = FolderStore(bucket)
    found = head(store)
    assert found is not None
    assert found.complete
    assert [entry.path for entry in load(store, found.digest).entries] == sorted(FILES)
    assert folder.name == found.digest
    assert "If you change them" in store.read(f"{OWN}/README.txt").decode()


def test_who_loses_the_race_for_the_index_takes_the_winners(
    bucket: Path, root: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The other had read the root before a file was put right, which is not what lies there now."""
    fill(bucket, FILES)
    older = fill(tmp_path / "older", {**FILES, "lists/train.txt": "b\n"})
    store = FolderStore(bucket)
    theirs = replica_index.settle(store, content_of(older))
    real = module.settle

    def lose(store: FolderStore, index: Index) -> Index:
        store.create(HEAD, replica_index.head_of(theirs))
        return real(store, index)

    monkeypatch.setattr(module, "settle", lose)
    assert f"{root}/lists/train.txt has not its recorded SHA-256" in failure(root)
    fill(bucket, {"lists/train.txt": "b\n"})
    assert replica(root).name == theirs.digest


def test_a_root_that_changes_while_it_is_indexed_gets_none(
    bucket: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(bucket, FILES)
    monkeypatch.setattr(
        module, "check_writable", lambda store: fill(bucket, {"images/late.jpg": "late"})
    )
    assert "changed while it was read: try again when it is complete" in failure(root)
    assert head(FolderStore(bucket)) is None
    assert "images/late.jpg" in held(replica(root))


def test_one_fetches_and_the_others_wait(
    data: Path, root: str, downloads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    push(data, root)
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(replica(root))) for _ in range(8)]
    base = module.home() / "data" / module._name(root)
    base.mkdir(parents=True)
    with (base / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(0.05)
        assert not folders
    for thread in threads:
        thread.join(30)
    assert len(folders) == 8
    assert len(set(folders)) == 1
    assert sorted(downloads) == sorted(FILES)
    assert f"another process of this machine fetches {root}" in capsys.readouterr().err


def test_a_later_try_goes_on(data: Path, bucket: Path, root: str, downloads: list[str]) -> None:
    push(data, root)
    (bucket / "images/b b.jpg").rename(bucket.parent / "away")
    assert "images/b b.jpg is missing" in failure(root)
    (bucket.parent / "away").rename(bucket / "images/b b.jpg")
    [part] = (home() / "data").glob("*/part")
    came = {"lists/train.txt": FILES["lists/train.txt"], "images/a.jpg": "half of"}
    fill(part, {**came, "images/.part-123": "ha", "old.txt": "of another"})
    downloads.clear()
    assert held(replica(root)) == FILES
    assert sorted(downloads) == ["images/a.jpg", "images/b b.jpg"]
    assert not part.exists()


def test_a_damaged_file_is_named_with_the_cure(data: Path, bucket: Path, root: str) -> None:
    push(data, root)
    fill(bucket, {"images/a.jpg": "Picture a"})
    message = failure(root)
    assert f"{root}/images/a.jpg has not its recorded SHA-256: put the right file back" in message
    assert f"'stageflow push FOLDER {root} --replace'" in message
    push(data, root)  # takes the index at its word
    assert failure(root) == message
    assert push(data, root, over=True).sent == len(FILES)
    assert held(replica(root)) == FILES


def test_a_file_changed_on_purpose_needs_a_new_index(bucket: Path, root: str) -> None:
    fill(bucket, FILES)
    old = replica(root)
    fill(bucket, {"lists/train.txt": "b\n"})
    shutil.rmtree(old)
    assert f"remove {root}/{OWN}/ and the next reader makes the index anew" in failure(root)
    shutil.rmtree(bucket / OWN)
    assert (replica(root) / "lists/train.txt").read_text() == "b\n"


def test_the_same_again_sends_nothing(data: Path, root: str) -> None:
    assert push(data, root).sent == len(FILES)
    assert push(data, f"{root}/").sent == 0


def test_another_content_is_refused_and_then_put_beside_the_old(data: Path, root: str) -> None:
    first = push(data, root)
    running = replica(root)
    fill(data, {"lists/train.txt": "b\n", "copy/a.jpg": FILES["images/a.jpg"]})
    with pytest.raises(StoreError, match=r"holds another content \(3 files, .*give --replace"):
        push(data, root)
    second = push(data, root, over=True)
    assert second.sent == 1  # the copy has the content of a file that is there
    assert held(running) == FILES
    assert held(replica(root)) == held(data)
    shutil.rmtree(running)
    assert held(replica(first.uri)) == FILES  # on a node that comes late to a running sweep
    third = push(fill(data, FILES | {"copy/a.jpg": "new"}), root, over=True)
    assert third.sent == 2
    assert len(list(running.parent.glob("*/lists"))) == 2
    assert (replica(third.uri) / "copy/a.jpg").read_text() == "new"


def test_a_content_that_comes_back_is_there_already(data: Path, tmp_path: Path, root: str) -> None:
    other = fill(tmp_path / "other", {"lists/train.txt": "b\n"})
    first = push(data, root)
    push(other, root, over=True)
    assert push(data, root, over=True).sent == 0
    assert replica(root) == replica(first.uri)


def test_a_push_that_broke_off_goes_on(
    data: Path, root: str, bucket: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = FolderStore.upload

    def upload(store: FolderStore, source: Path, name: str) -> None:
        if name.startswith("lists/"):
            raise StoreError("the line is dead")
        real(store, source, name)

    monkeypatch.setattr(FolderStore, "upload", upload)
    with pytest.raises(StoreError, match="the line is dead"):
        push(data, root)
    monkeypatch.undo()
    assert "is being pushed, or a push broke off: wait, or run the push again" in failure(root)
    other = fill(tmp_path / "other", {"lists/train.txt": "b\n"})
    with pytest.raises(StoreError, match="is being filled with another"):
        push(other, root)
    sent = push(data, root).sent
    assert 1 <= sent <= len(FILES)
    assert held(replica(root)) == FILES
    assert not (bucket / OWN / "files").exists()


def test_a_push_over_one_that_broke_off(data: Path, root: str, bucket: Path) -> None:
    content = content_of(data)
    FolderStore(bucket).create(HEAD, replica_index.head_of(content, complete=False))
    replica_index.settle(FolderStore(bucket), content)
    fill(data, {"lists/val.txt": "c\n"})
    push(data, root, over=True)
    assert held(replica(root)) == held(data)


def test_two_first_pushes_do_not_mix(
    data: Path, root: str, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Index(())
    monkeypatch.setattr(
        "stageflow.replica_push._placed",
        lambda store, content, *_: (
            store.create(HEAD, replica_index.head_of(other, complete=False)) and content
        ),
    )
    with pytest.raises(StoreError, match="somebody else began to fill it just now"):
        push(data, root)
    assert not (bucket / "images").exists()


def test_a_push_does_not_cover_what_others_have_put_there(
    data: Path, root: str, bucket: Path
) -> None:
    theirs = {"lists/train.txt": "theirs\n"}
    fill(bucket, theirs)
    with pytest.raises(StoreError, match=r"has 1 files and no index: 'stageflow pull file:"):
        push(data, root)
    push(data, root, over=True)
    assert held(replica(root)) == FILES
    assert (bucket / "lists/train.txt").read_text() == "theirs\n"


def test_a_push_follows_links_but_not_in_circles(data: Path, root: str, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "VOC2012").symlink_to(data)
    fill(linked / OWN, {"head.json": "of a root that was copied by hand"})
    assert set(held(replica(push(linked, root).uri))) == {f"VOC2012/{name}" for name in FILES}
    (linked / "again").symlink_to(linked)
    with pytest.raises(ValueError, match="again is a link to a folder around it: remove it"):
        content_of(linked)


@pytest.mark.parametrize(("name", "words"), [("absent", "is no folder"), ("", "holds no file")])
def test_a_folder_that_holds_nothing_is_no_content(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match=words):
        content_of(tmp_path / "data" / name)


def test_an_empty_root(root: str) -> None:
    assert f"{root} is empty: correct the address, or 'stageflow push FOLDER {root}'" in failure(
        root
    )


def test_a_content_that_never_was(data: Path, root: str) -> None:
    push(data, root)
    with pytest.raises(NotFound, match=f"{root} holds no content {'0' * 20}"):
        replica(f"{root}#{'0' * 20}")
    with pytest.raises(StoreError, match="push takes no #digest"):
        push(data, f"{root}#{'0' * 20}")


def test_what_is_no_root() -> None:
    uri = "s3://bucket/voc#../../src"
    assert failure(uri) == (
        f"data root {uri!r}: want s3://bucket/prefix, to which #digest may name one content"
    )


def test_without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "stageflow.store_s3", raising=False)
    assert failure("s3://bucket/voc") == (
        "s3://bucket/voc needs boto3: pip install boto3, or give a folder"
    )


@pytest.mark.parametrize("digest", ["/etc", "../../src", "part"])
def test_a_head_leads_nowhere_else(data: Path, bucket: Path, root: str, digest: str) -> None:
    """What it names becomes a folder, on every machine that reads it."""
    push(data, root)
    (home() / "data" / module._name(root) / "part").mkdir(parents=True)
    told = json.loads((bucket / HEAD).read_text())
    fill(bucket, {HEAD: json.dumps(told | {"digest": digest})})
    for attempt in (replica, pin, lambda uri: push(data, uri)):
        with pytest.raises(StoreError, match=rf"^{root}/{HEAD} is broken \(.*{digest}"):
            attempt(root)


def test_no_room_is_told_before_the_first_file(
    data: Path, root: str, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(data, root)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(10, 9, 1))
    assert "make room, or set STAGEFLOW_HOME to a larger disk" in failure(root)
    assert downloads == []


def test_a_file_system_without_locks_is_told(
    data: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(data, root)

    def flock(file: object, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("stageflow.alone.fcntl.flock", flock)
    assert "cannot be locked (No locks available): set STAGEFLOW_HOME" in failure(root)
