"""Copies of an artifact's files that somebody takes away."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stageflow.artifact import Artifacts, Corrupt, Manifest
from stageflow.executor import LocalExecutor, run
from stageflow.store import FolderStore
from stageflow.testing_stages import Squaring, Telling, squares, tell

FILES = {"squares/0000": "0", "squares/0001": "1", "squares/0002": "4"}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def artifacts(store: FolderStore, tmp_path: Path) -> Artifacts:
    return Artifacts(store, tmp_path / "cache")


@pytest.fixture
def made(artifacts: Artifacts) -> Manifest:
    (manifest,) = run(squares(Squaring(label="x", numbers=3)), executor=LocalExecutor(artifacts))
    return manifest


def read(at: Path) -> dict[str, str]:
    files = (path for path in at.rglob("*") if path.is_file())
    return {path.relative_to(at).as_posix(): path.read_text() for path in files}


@pytest.mark.parametrize("place", ["new", "deep/er/new", "empty", "link"])
def test_is_one_s_own(artifacts: Artifacts, made: Manifest, tmp_path: Path, place: str) -> None:
    """Files that may be written, in an empty folder that stays the folder that it was."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    before = (tmp_path / "empty").stat().st_ino
    artifacts.copy(made, tmp_path / place)
    assert read(tmp_path / place) == FILES
    (tmp_path / place / "squares" / "0002").write_text("mine")
    assert read(artifacts.fetch(made)) == FILES
    shutil.rmtree(artifacts.cache)
    assert read(artifacts.fetch(made)) == FILES  # the store's own
    assert (tmp_path / "empty").stat().st_ino == before
    assert not [*tmp_path.rglob(".fetch-*")]


@pytest.mark.parametrize("place", ["new", "empty"])
def test_leaves_nothing_of_a_damaged_artifact(
    artifacts: Artifacts, store: FolderStore, made: Manifest, tmp_path: Path, place: str
) -> None:
    """Neither where the cache is damaged, nor where the store is."""
    (tmp_path / "empty").mkdir()
    (artifacts.fetch(made) / "squares" / "0002").unlink()
    with pytest.raises(Corrupt, match=f"squares/0002 of {made.key} has not .*: remove .* and"):
        artifacts.copy(made, tmp_path / place)
    shutil.rmtree(artifacts.cache)
    next(store.path.rglob("squares/0002")).unlink()
    with pytest.raises(Corrupt, match=f"run 'stageflow forget {made.key}'"):
        artifacts.copy(made, tmp_path / place)
    assert not (tmp_path / "new").exists()
    assert [*(tmp_path / "empty").iterdir()] == []


def test_writes_over_nothing(artifacts: Artifacts, made: Manifest, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    for taken in (tmp_path / "taken", tmp_path / "taken" / "file"):
        with pytest.raises(FileExistsError, match="name a new or an empty folder"):
            artifacts.copy(made, taken)
    assert read(tmp_path / "taken") == {"file": "mine"}


def test_of_no_files_is_an_empty_folder(artifacts: Artifacts, tmp_path: Path) -> None:
    (manifest,) = run(tell(Telling(label="x")), executor=LocalExecutor(artifacts))
    artifacts.copy(manifest, tmp_path / "new")
    assert [*(tmp_path / "new").iterdir()] == []
