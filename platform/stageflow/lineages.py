"""What an artifact was made of, read from the manifests in a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stageflow.artifact import Artifacts, Manifest
from stageflow.store import NotFound


@dataclass(slots=True)
class Lineages:
    """Reads manifests from a store, each once."""

    artifacts: Artifacts
    known: dict[str, Manifest | None] = field(default_factory=dict)

    def of(self, folder: str) -> dict[str, Manifest]:
        """The artifact in `<stage>/<key>` and, behind it, all it was made from, by name of stage.

        A stage met twice has a number behind its name. Artifacts that were forgotten are left out.
        """
        found: dict[str, Manifest] = {}
        todo = [folder]
        for folder in todo:
            manifest = self._read(folder)
            if manifest is not None:
                found[folder] = manifest
                made = [i for i in manifest.inputs.values() if "identity" not in i]
                parents = dict.fromkeys(f"{given['name']}/{given['key']}" for given in made)
                todo += [parent for parent in parents if parent not in todo]
        return dict(zip(numbered(m.stage for m in found.values()), found.values(), strict=True))

    def find(self, key: str) -> dict[str, Manifest]:
        """The same for the artifact with this key, of whatever stage."""
        try:
            manifest = self.artifacts.find(key)
        except NotFound:
            return {}
        return self.of(f"{manifest.stage}/{manifest.key}")

    def _read(self, folder: str) -> Manifest | None:
        if folder not in self.known:
            self.known[folder] = self.artifacts.at(folder)
        return self.known[folder]


def numbered(names: Iterable[str]) -> Iterator[str]:
    """The names, the second of equals with "-2" behind it, and so on."""
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}-{seen[name]}"
