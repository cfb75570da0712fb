"""Roots and indexes that are not as they should be: each is told in one line that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stageflow.artifact import Corrupt
from stageflow.replica_index import (
    HEAD,
    OWN,
    Entry,
    Index,
    head,
    head_of,
    in_force,
    load,
    parted,
    settle,
)
from stageflow.store import FolderStore, StoreError

INDEX = Index(tuple(Entry(f"images/{name}.jpg", 9, name * 64, f"{name}.jpg") for name in "abc"))
NAME = f"{OWN}/{INDEX.digest}.json"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "bucket")


def told(store: FolderStore, name: str, text: str) -> str:
    """What readers are told where this object holds this text."""
    store.create(name, text.encode())
    with pytest.raises(Corrupt) as caught:
        head(store) if name == HEAD else load(store, INDEX.digest)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{store.uri}/{name} is ")
    assert message.endswith(f"remove {store.uri}/{OWN}/ and the next reader makes the index anew")
    return message


def test_what_was_written_is_read(store: FolderStore) -> None:
    settle(store, INDEX)
    store.create(HEAD, head_of(INDEX))
    assert in_force(store) == INDEX.digest
    assert load(store, INDEX.digest) == INDEX


@pytest.mark.parametrize(
    "uri",
    [
        *("/data/voc", "voc2012:s3://bucket/voc", "gs://bucket/voc", ""),
        *(
            f"s3://bucket/voc#{wrong}"
            for wrong in ("latest", "", "part", "/etc", "../../src", "A" * 20, "0" * 19, "0" * 21)
        ),
    ],
)
def test_what_is_no_root(uri: str) -> None:
    with pytest.raises(StoreError) as caught:
        parted(uri)
    assert str(caught.value) == (
        f"data root {uri!r}: want s3://bucket/prefix, to which #digest may name one content"
    )


@pytest.mark.parametrize("name", [HEAD, NAME])
@pytest.mark.parametrize(
    "text", ["", "\0", "null", "5", "[1]", '{"a": 1}', '{"a\\nb": 1}', '[["../x", 1, "2", "3"]]']
)
def test_what_is_no_index(store: FolderStore, name: str, text: str) -> None:
    told(store, name, text)


@pytest.mark.parametrize(
    "given",
    [
        *({"digest": wrong} for wrong in ("/etc", "../../src", "part", "", "A" * 20, 5, None, [])),
        *({"digest": f"{'0' * 20}{more}"} for more in ("0", "/", "\n")),
        *({"files": "3"}, {"size": "7"}, {"size": -1}, {"size": True}, {"complete": "yes"}),
    ],
)
def test_a_head_is_not_taken_at_its_word(store: FolderStore, given: dict[str, object]) -> None:
    told(store, HEAD, json.dumps(json.loads(head_of(INDEX)) | given))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((place, value) for place in (0, 3) for value in (5, None, ["a"], "../x", "/etc/x", "")),
        *((1, value) for value in ("9", None, 9.5, -1, True)),
        *((2, value) for value in ("0" * 63, "../x", None, 5)),
    ],
)
def test_a_row_is_not_taken_at_its_word(store: FolderStore, place: int, value: object) -> None:
    rows: list[list[object]] = [[e.path, e.size, e.sha256, e.stored] for e in INDEX.entries]
    rows[1][place] = value
    assert "is broken (" in told(store, NAME, json.dumps(rows))


def test_an_index_of_another_content(store: FolderStore) -> None:
    rows = [[entry.path, entry.size, entry.sha256, entry.stored] for entry in INDEX.entries[1:]]
    assert "is not what its name says" in told(store, NAME, json.dumps(rows))
