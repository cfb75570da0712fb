"""Checkpoints of unfinished stages, kept in the store so that any worker on any machine can go on."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stageflow.artifact import Artifacts, File
from stageflow.context import Report


@dataclass(frozen=True, slots=True)
class StoredCheckpoints:
    """The checkpoints of one node (or one of its shards): `<folder>/checkpoints/<name>-<step>.json`."""

    artifacts: Artifacts
    folder: str
    name: str
    scratch: Path

    def save(self, step: int, folder: Path, reports: Sequence[Report]) -> None:
        """Upload the files, then name them in one conditional put, then drop older checkpoints."""
        files = self.artifacts.put(f"{self.folder}/checkpoints", folder)
        record = {"files": [asdict(f) for f in files], "reports": [asdict(r) for r in reports]}
        older = [name for name in self._records() if _step(name) < step]
        self.artifacts.store.create(f"{self._prefix}{step:08d}.json", json.dumps(record).encode())
        for name in older:
            files = self._files(name)
            self.artifacts.store.delete([name])
            self.artifacts.store.delete(
                f"{self.folder}/checkpoints/{f.attempt}/{f.path}" for f in files
            )

    def restore(self) -> tuple[int, Path, Sequence[Report]] | None:
        """The newest checkpoint, fetched and verified."""
        names = sorted(self._records(), key=_step)
        if not names:
            return None
        record = json.loads(self.artifacts.store.read(names[-1]))
        target = Path(tempfile.mkdtemp(dir=self.scratch)) / "checkpoint"
        self.artifacts.get(f"{self.folder}/checkpoints", self._files(names[-1]), target)
        return _step(names[-1]), target, [Report(**report) for report in record["reports"]]

    @property
    def _prefix(self) -> str:
        return f"{self.folder}/checkpoints/{self.name}-"

    def _records(self) -> list[str]:
        return [name for name in self.artifacts.store.list(self._prefix) if name.endswith(".json")]

    def _files(self, record: str) -> list[File]:
        return [File(**file) for file in json.loads(self.artifacts.store.read(record))["files"]]


def _step(record: str) -> int:
    return int(record.removesuffix(".json").rpartition("-")[2])
