"""What a running stage sees of the platform: where to write, and how to tell how far it is."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

Item = TypeVar("Item")
UNWANTED = "no trial wants this result any more"


class Cancelled(Exception):
    """Nobody wants the result any more; raised by `Context.save` or the next `Context.report`."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` contiguous, nearly equal parts of a sequence."""

    index: int = 0
    count: int = 1

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """This shard's part of `items`; the parts of all shards make the whole, in order."""
        edges = [len(items) * i // self.count for i in (self.index, self.index + 1)]
        return items[edges[0] : edges[1]]


class Hooks(Protocol):
    """How an executor hears from a running stage, and answers."""

    def progress(self, done: int, total: int, note: str) -> None:
        """Say how far the stage is; cheap, may be dropped."""

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Pass metrics on; False when nobody wants the result any more."""


class Checkpoints(Protocol):
    """Where a stage's checkpoints are kept while it runs."""

    def save(self, step: int, folder: Path, reports: "Sequence[Report]") -> None:
        """Keep the files of `folder` as the checkpoint after `step`."""

    def restore(self) -> "tuple[int, Path, Sequence[Report]] | None":
        """The newest checkpoint: step, a folder with its files, the reports so far."""


@dataclass(frozen=True, slots=True)
class Report:
    """Metrics that a stage told on its way, after `step` (an epoch, usually)."""

    step: int
    metrics: Mapping[str, float]


@dataclass(slots=True)
class Context:
    """Given to every stage function as its first argument.

    Attributes:
        out: an empty folder; what it holds at the end is the artifact.
        scratch: a folder for anything else, removed afterwards.
        device: "cpu", "cuda", or "auto" where the stage may choose (and then says here what).
        shard: which part of the images to do, for stages that are declared `sharded`.
        rank: place among the processes that execute this together, from 0. See `group_ray`.
        ranks: how many they are: as many as the stage asks whole GPUs, in the Ray executor.

    All ranks restore the same checkpoint; of `out`, progress, reports and checkpoints, only those
    of rank 0 count. A stage that knows nothing of ranks is executed by each of them as a whole.
    """

    out: Path
    scratch: Path
    device: str
    shard: Shard
    hooks: Hooks
    checkpoints: Checkpoints
    rank: int = 0
    ranks: int = 1
    reports: list[Report] = field(default_factory=list)
    resumed_from: int | None = None
    cancelled: bool = False

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` units are done."""
        if self.rank == 0:
            self.hooks.progress(done, total, note)

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell metrics after `step`; a search may stop the trial on them, see `Cancelled`.

        Report before saving: the checkpoint keeps all reports so far, and is still made for a
        stopped trial.
        """
        self._raise_if_cancelled()
        report = Report(step, {name: float(value) for name, value in metrics.items()})
        self.reports.append(report)
        self.cancelled = self.rank == 0 and not self.hooks.report(step, report.metrics)

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Keep a checkpoint after `step`: `write(folder)` puts its files into an empty folder."""
        if self.rank > 0:
            return
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            write(Path(folder))
            self.checkpoints.save(step, Path(folder), self.reports)
        self._raise_if_cancelled()

    def restore(self) -> tuple[int, Path] | None:
        """The newest checkpoint as (step, folder), or None. The reports so far are told again."""
        found = self.checkpoints.restore()
        if found is None:
            return None
        self.resumed_from, folder, reports = found
        for earlier in reports:
            self.report(earlier.step, earlier.metrics)
        return self.resumed_from, folder

    def _raise_if_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled(UNWANTED)
