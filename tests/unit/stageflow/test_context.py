"""Shards, reports, checkpoints and cancelling, as a stage sees them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from stageflow.context import Cancelled, Context, Report, Shard


@dataclass
class Recorder:
    """Hooks and checkpoints that note what happens; nobody wants the result after `until`."""

    until: float = math.inf
    happened: list[str] = field(default_factory=list)
    kept: tuple[int, dict[str, str], list[Report]] | None = None

    def progress(self, done: int, total: int, note: str) -> None:
        self.happened.append(f"progress {done}/{total} {note}")

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        self.happened.append(f"report {step}")
        return step < self.until

    def save(self, step: int, folder: Path, reports: Sequence[Report]) -> None:
        self.happened.append(f"save {step}")
        self.kept = (step, {p.name: p.read_text() for p in folder.iterdir()}, list(reports))

    def restore(self) -> tuple[int, Path, Sequence[Report]] | None:
        return None if self.kept is None else (self.kept[0], Path("kept"), self.kept[2])


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def context(recorder: Recorder, scratch: Path, rank: int = 0) -> Context:
    return Context(
        out=scratch,
        scratch=scratch,
        device="cpu",
        shard=Shard(),
        hooks=recorder,
        checkpoints=recorder,
        rank=rank,
    )


def write(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    (folder / "net").write_text("weights")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("length", [0, 1, 2, 7, 100])
def test_shards_are_a_partition(length: int, count: int) -> None:
    items = list(range(length))
    parts = [Shard(index, count).of(items) for index in range(count)]
    assert [item for part in parts for item in part] == items
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_report_and_save(recorder: Recorder, scratch: Path) -> None:
    """The checkpoint holds its files and every report so far."""
    stage = context(recorder, scratch)
    for step in (1, 2):
        stage.progress(step, 2, "epochs")
        stage.report(step, {"loss": 1 / step})
        stage.save(step, write)
    assert recorder.happened == [
        *("progress 1/2 epochs", "report 1", "save 1"),
        *("progress 2/2 epochs", "report 2", "save 2"),
    ]
    reports = [Report(1, {"loss": 1.0}), Report(2, {"loss": 0.5})]
    assert recorder.kept == (2, {"net": "weights"}, reports)
    assert stage.reports == reports
    assert list(scratch.iterdir()) == [], "checkpoints would fill the disk"


def test_numbers_of_other_libraries(recorder: Recorder, scratch: Path) -> None:
    """A report that JSON could not hold would fail hours later."""
    stage = context(recorder, scratch)
    metrics = {"miou": np.float32(0.5), "images": np.int64(3)}
    stage.report(1, metrics)
    metrics["miou"] = np.float32(0)
    assert stage.reports == [Report(1, {"miou": 0.5, "images": 3.0})]
    assert {type(value) for value in stage.reports[0].metrics.values()} == {float}
    with pytest.raises((TypeError, ValueError)):
        stage.report(2, {"miou": "high"})  # type: ignore[dict-item]


def test_cancelled_behind_the_checkpoint(scratch: Path) -> None:
    recorder = Recorder(until=2)
    stage = context(recorder, scratch)
    stage.report(1, {"loss": 1})
    stage.save(1, write)
    stage.report(2, {"loss": 1})
    with pytest.raises(Cancelled, match=r"^no trial wants this result any more$"):
        stage.save(2, write)
    assert recorder.happened[-2:] == ["report 2", "save 2"]
    assert recorder.kept is not None
    assert recorder.kept[0] == 2


def test_cancelled_without_checkpoints(scratch: Path) -> None:
    recorder = Recorder(until=1)
    stage = context(recorder, scratch)
    stage.report(1, {"loss": 1})
    with pytest.raises(Cancelled):
        stage.report(2, {"loss": 1})
    assert recorder.happened == ["report 1"], "nobody hears of a cancelled stage"
    assert len(stage.reports) == 1


def test_failed_checkpoint(recorder: Recorder, scratch: Path) -> None:
    """One that cannot be written is not kept, and can be tried again."""
    stage = context(recorder, scratch)

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        stage.save(1, fail)
    assert recorder.happened == []
    assert list(scratch.iterdir()) == []
    stage.save(1, write)
    assert recorder.happened == ["save 1"]


def test_fresh_start(recorder: Recorder, scratch: Path) -> None:
    stage = context(recorder, scratch)
    assert stage.restore() is None
    assert stage.resumed_from is None


def test_restore_tells_the_reports_again(recorder: Recorder, scratch: Path) -> None:
    """Whoever hears of this execution only hears the same as if it had begun it."""
    first = context(recorder, scratch)
    for step in (1, 2):
        first.report(step, {"loss": 1 / step})
        first.save(step, write)
    recorder.happened.clear()
    second = context(recorder, scratch)
    assert second.restore() == (2, Path("kept"))
    assert second.resumed_from == 2
    assert recorder.happened == ["report 1", "report 2"]
    assert second.reports == first.reports


def test_cancelled_while_reports_are_told_again(recorder: Recorder, scratch: Path) -> None:
    """The checkpoint stays for those who want it later."""
    first = context(recorder, scratch)
    for step in (1, 2, 3):
        first.report(step, {"loss": 1 / step})
        first.save(step, write)
    recorder.until = 2
    kept = recorder.kept
    with pytest.raises(Cancelled):
        context(recorder, scratch).restore()
    assert recorder.kept == kept


def test_only_rank_0_is_heard(scratch: Path) -> None:
    """The others restore what it has kept, and hear of no trial that is stopped."""
    recorder = Recorder(until=2)
    first = context(recorder, scratch)
    first.report(1, {"loss": 1})
    first.save(1, write)
    happened, kept = list(recorder.happened), recorder.kept
    second = context(recorder, scratch, rank=1)
    assert second.restore() == (1, Path("kept"))
    for step in (2, 3):
        second.progress(step, 3)
        second.report(step, {"loss": 1})
        second.save(step, write)
    assert recorder.happened == happened
    assert recorder.kept == kept
