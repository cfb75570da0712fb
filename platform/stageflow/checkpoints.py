"""Checkpoints of unfinished stages, in the store, so that a worker on any machine can go on."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stageflow.artifact import Artifacts, File
from stageflow.context import Report


@dataclass(frozen=True, slots=True)
class StoredCheckpoints:
    """Checkpoints of one node or shard: `<folder>/checkpoints/<name>-<step>.json` and the files."""

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
            dropped = _files(self._read(name))
            self.artifacts.store.delete([name])
            self.artifacts.store.delete(
                f"{self.folder}/checkpoints/{file.attempt}/{file.path}" for file in dropped
            )

    def restore(self) -> tuple[int, Path, Sequence[Report]] | None:
        """The newest checkpoint, fetched and verified."""
        names = sorted(self._records(), key=_step)
        if not names:
            return None
        record = self._read(names[-1])
        target = Path(tempfile.mkdtemp(dir=self.scratch)) / "checkpoint"
        cure = (
            f"remove {self.artifacts.store.uri}/{names[-1]} to start this stage from the beginning"
        )
        self.artifacts.get(f"{self.folder}/checkpoints", _files(record), target, cure)
        return _step(names[-1]), target, [Report(**report) for report in record["reports"]]

    @property
    def _prefix(self) -> str:
        return f"{self.folder}/checkpoints/{self.name}-"

    def _records(self) -> list[str]:
        return [name for name in self.artifacts.store.list(self._prefix) if name.endswith(".json")]

    def _read(self, name: str) -> Any:
        return json.loads(self.artifacts.store.read(name))


def _files(record: Any) -> list[File]:
    return [File(**file) for file in record["files"]]


def _step(record: str) -> int:
    return int(record.removesuffix(".json").rpartition("-")[2])
