"""Checkpoints: the newest is kept, whole, whenever the process is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from stageflow.artifact import Artifacts, Corrupt
from stageflow.checkpoints import StoredCheckpoints
from stageflow.context import Report
from stageflow.store import FolderStore

FOLDER = "train/0123"


class Killed(BaseException):
    """The process ends here."""


class Mortal:
    """A store in whose n-th changing call the process is killed, before or behind the change."""

    def __init__(self, inner: FolderStore, changes: int, *, behind: bool) -> None:
        self.inner, self.left, self.behind, self.uri = inner, changes, behind, inner.uri

    def _change(self, change: Callable[[], object]) -> object:
        self.left -= 1
        if self.left < 0 and not self.behind:
            raise Killed
        answer = change()
        if self.left < 0:
            raise Killed
        return answer

    def upload(self, source: Path, name: str) -> None:
        self._change(lambda: self.inner.upload(source, name))

    def create(self, name: str, data: bytes) -> bool:
        return bool(self._change(lambda: self.inner.create(name, data)))

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._change(lambda name=name: self.inner.delete([name]))  # type: ignore[misc]

    def read(self, name: str) -> bytes:
        return self.inner.read(name)

    def download(self, name: str, to: Path) -> None:
        self.inner.download(name, to)

    def list(self, prefix: str) -> Iterator[str]:
        return self.inner.list(prefix)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def keep(store: FolderStore, tmp_path: Path) -> Callable[..., StoredCheckpoints]:
    """Checkpoints under a name, as a new process on another machine sees them."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def opened(name: str = "0-of-1", through: Mortal | None = None) -> StoredCheckpoints:
        artifacts = Artifacts(through or store, tmp_path / "cache")
        return StoredCheckpoints(artifacts, FOLDER, name, scratch)

    return opened


def save(checkpoints: StoredCheckpoints, step: int, at: Path) -> None:
    at.mkdir(exist_ok=True)
    for name in ("net", "optimiser"):
        (at / name).write_text(f"{name} {step}")
    checkpoints.save(step, at, [Report(done, {"loss": 1 / done}) for done in range(1, step + 1)])


def restored(checkpoints: StoredCheckpoints) -> int | None:
    """The step of the newest checkpoint, which must be whole."""
    found = checkpoints.restore()
    if found is None:
        return None
    step, folder, reports = found
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "net": f"net {step}",
        "optimiser": f"optimiser {step}",
    }
    assert reports == [Report(done, {"loss": 1 / done}) for done in range(1, step + 1)]
    return step


def test_none(keep: Callable[..., StoredCheckpoints]) -> None:
    assert keep().restore() is None


def test_only_the_newest_is_kept(
    keep: Callable[..., StoredCheckpoints], store: FolderStore, tmp_path: Path
) -> None:
    for step in (1, 2, 9, 10, 100):
        save(keep(), step, tmp_path / "out")
        assert restored(keep()) == step
        assert len([*store.list("")]) == 3, "older checkpoints are left"
    assert all(name.startswith(f"{FOLDER}/checkpoints/") for name in store.list(""))


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("changes", range(6))
def test_killed_between_any_two_changes(
    keep: Callable[..., StoredCheckpoints],
    store: FolderStore,
    tmp_path: Path,
    changes: int,
    behind: bool,
) -> None:
    """Two files are written, the record, the older record is removed, and its two files.

    There is always a whole checkpoint: the new one as soon as its record is there.
    """
    save(keep(), 1, tmp_path / "out")
    with pytest.raises(Killed):
        save(keep(through=Mortal(store, changes, behind=behind)), 2, tmp_path / "out")
    recorded = changes + behind > 2
    assert restored(keep()) == (2 if recorded else 1)
    save(keep(), 3, tmp_path / "out")
    assert restored(keep()) == 3
    assert len([*store.list(f"{FOLDER}/checkpoints/0-of-1-")]) == 1


def test_shards_have_their_own(keep: Callable[..., StoredCheckpoints], tmp_path: Path) -> None:
    """Also where one's name is the beginning of another's."""
    names = ("0-of-1", "0-of-12", "10-of-12", "ffff-0-of-1")
    for step, name in enumerate(names, 1):
        save(keep(name), step, tmp_path / "out")
    assert [restored(keep(name)) for name in names] == [1, 2, 3, 4]
    assert keep("1-of-12").restore() is None


def test_twice_for_one_step(
    keep: Callable[..., StoredCheckpoints], store: FolderStore, tmp_path: Path
) -> None:
    """A worker that was thought dead saves what its successor has saved: either will do."""
    for _ in range(2):
        save(keep(), 3, tmp_path / "out")
    assert restored(keep()) == 3
    save(keep(), 4, tmp_path / "out")
    assert restored(keep()) == 4


@pytest.mark.parametrize("missing", [False, True])
def test_damage(
    keep: Callable[..., StoredCheckpoints], store: FolderStore, tmp_path: Path, missing: bool
) -> None:
    """One line, with advice that works: without its record, the stage starts afresh."""
    save(keep(), 7, tmp_path / "out")
    net = next(name for name in store.list("") if name.endswith("/net"))
    (store.path / net).unlink()
    if not missing:
        (store.path / net).write_text("net 8")
    record = f"{FOLDER}/checkpoints/0-of-1-00000007.json"
    advice = f"remove {store.uri}/{record} to start this stage from the beginning"
    with pytest.raises(Corrupt, match=f"{net} .*: {advice}$") as caught:
        keep().restore()
    assert "\n" not in str(caught.value)
    store.delete([record])
    assert keep().restore() is None
