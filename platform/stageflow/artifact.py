"""Artifacts: directories in a store, each with a manifest, under the key of the node that made it.

<stage>/<key>/manifest.json      written last, once; what no manifest names does not exist
<stage>/<key>/<attempt>/...      the files; a late or repeated attempt cannot touch another's
<stage>/<key>/checkpoints/...    the newest checkpoint of an unfinished training, and its files
<stage>/<key>/shards/...         which shards of an unfinished artifact are finished
"""

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from stageflow.alone import alone
from stageflow.context import Report
from stageflow.stage import Node
from stageflow.store import NotFound, Store, StoreError

PARALLEL_TRANSFERS = 8
FETCHING = ".fetch-"
"""How the names of folders begin that are not complete yet."""


class Corrupt(StoreError):
    """A file in the store is not what its manifest says."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of an artifact: path inside, size in bytes, SHA-256, the attempt that wrote it."""

    path: str
    size: int
    sha256: str
    attempt: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one execution (of a whole node, or of one shard) left behind."""

    files: tuple[File, ...]
    metrics: Mapping[str, float]
    reports: tuple[Report, ...]
    resumed_from: tuple[int, ...]
    started: float
    wall_seconds: float
    gpu_seconds: float
    host: str
    device: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Part":
        """The inverse of `dataclasses.asdict`."""
        return cls(
            **{
                **data,
                "files": tuple(File(**file) for file in data["files"]),
                "reports": tuple(Report(**report) for report in data["reports"]),
                "resumed_from": tuple(data["resumed_from"]),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything that is known about an artifact.

    `inputs` maps parameter names to {"name", "key"} and, for sources, "identity". `resumed_from`
    lists the steps from which interrupted executions went on. Seconds are summed over shards.
    """

    key: str
    stage: str
    version: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, Any]]
    files: tuple[File, ...]
    metrics: Mapping[str, float]
    reports: tuple[Report, ...]
    resumed_from: tuple[int, ...]
    shards: int
    fingerprint: str
    commit: str
    libraries: Mapping[str, str]
    hosts: tuple[str, ...]
    device: str
    started: float
    wall_seconds: float
    gpu_seconds: float

    def to_json(self) -> bytes:
        """UTF-8 JSON, indented for people."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> "Manifest":
        """Parse a manifest; raises Corrupt naming `where` it lies."""
        try:
            found = json.loads(data)
            found["files"] = tuple(File(**file) for file in found["files"])
            found["reports"] = tuple(Report(**report) for report in found["reports"])
            found["resumed_from"] = tuple(found["resumed_from"])
            found["hosts"] = tuple(found["hosts"])
            return cls(**{field.name: found[field.name] for field in fields(cls)})
        except (ValueError, TypeError, KeyError) as error:
            raise Corrupt(
                f"{where} is not a manifest ({error!r}): remove it to have it made again"
            ) from error


@dataclass(frozen=True, slots=True)
class Artifacts:
    """All artifacts of one store, read through a local cache folder."""

    store: Store
    cache: Path

    def manifest(self, node: Node) -> Manifest | None:
        """The manifest of the node's artifact, or None where it has not been made."""
        return self.at(folder_of(node))

    def at(self, folder: str) -> Manifest | None:
        """The manifest of the artifact in `<stage>/<key>`, or None where there is none."""
        return self._read(f"{folder}/manifest.json")

    def folders(self) -> Iterator[str]:
        """Where each artifact lies: `<stage>/<key>`."""
        return (name.rpartition("/")[0] for name in self._manifest_names())

    def find(self, prefix: str) -> Manifest:
        """The one artifact whose key, or `<stage>/<key>`, starts with `prefix`.

        Raises NotFound for none or several.
        """
        whole = "/" in prefix
        folders = [
            folder
            for folder in self.folders()
            if (folder if whole else folder.partition("/")[2]).startswith(prefix)
        ]
        if len(folders) != 1:
            found = "none has" if not folders else "several have: " + ", ".join(folders[:3])
            raise NotFound(
                f"no single artifact with the key {prefix}... in {self.store.uri} ({found} it)"
            )
        manifest = self.at(folders[0])
        assert manifest is not None
        return manifest

    def all(self, stage: str = "") -> Iterator[Manifest]:
        """Every manifest, or every one of one stage."""
        for name in self._manifest_names(f"{stage}/" if stage else ""):
            manifest = self._read(name)
            if manifest is not None:
                yield manifest

    def publish(self, manifest: Manifest) -> Manifest:
        """Write the manifest, or return the one of an attempt that was faster.

        Then remove all that it does not name: files of slower or dead attempts, checkpoints.
        """
        folder = f"{manifest.stage}/{manifest.key}"
        name = f"{folder}/manifest.json"
        if not self.store.create(name, manifest.to_json()):
            manifest = Manifest.from_json(self.store.read(name), f"{self.store.uri}/{name}")
        named = {name, *(f"{folder}/{file.attempt}/{file.path}" for file in manifest.files)}
        self.store.delete([left for left in self.store.list(f"{folder}/") if left not in named])
        return manifest

    def withdraw(self, manifest: Manifest) -> None:
        """Forget an artifact and all that was made from it, so that they are made anew.

        Of each first the manifest, then everything else.
        """
        known, going = list(self.all()), [manifest]
        for gone in going:  # it grows while we walk it
            keys = {other.key for other in going}
            going += [
                other
                for other in known
                if other.key not in keys and gone.key in (i["key"] for i in other.inputs.values())
            ]
        for gone in going:
            folder = f"{gone.stage}/{gone.key}"
            self.store.delete([f"{folder}/manifest.json"])
            self.store.delete(list(self.store.list(f"{folder}/")))
            shutil.rmtree(self.cache / gone.stage / gone.key, ignore_errors=True)

    def put(self, folder: str, files: Path) -> tuple[File, ...]:
        """Upload a directory under `folder` in the store as one attempt."""
        attempt = uuid.uuid4().hex[:8]
        paths = sorted(path for path in files.rglob("*") if path.is_file())

        def upload(path: Path) -> File:
            name = path.relative_to(files).as_posix()
            entry = File(name, path.stat().st_size, sha256(path), attempt)
            self.store.upload(path, f"{folder}/{attempt}/{name}")
            return entry

        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            return tuple(pool.map(upload, paths))

    def fetch(self, manifest: Manifest) -> Path:
        """A local directory with the artifact's files, verified when they are first fetched.

        One process of this machine fetches while the others wait, but on a file system without
        locks each fetches its own, and the first one's stays. Nobody waits for the disk: if the
        power fails within a minute, files in the cache may be cut or empty, which `copy` finds, as
        do most stages when they read them. Remove the cache then. Raises Corrupt, saying what to
        do, where the store does not hold what the manifest says.
        """
        attempt = manifest.files[0].attempt if manifest.files else "-"
        around = self.cache / manifest.stage / manifest.key
        target = around / attempt
        if target.is_dir():
            return target
        around.mkdir(parents=True, exist_ok=True)
        with alone(around / "lock") as absent:
            if target.is_dir():  # who held the lock has fetched it
                return target
            if absent is None:
                for left in around.glob(f"{FETCHING}*"):  # by processes that were killed
                    shutil.rmtree(left, ignore_errors=True)
            cure = f"run 'stageflow forget {manifest.key}' to have it made again"
            self.get(f"{manifest.stage}/{manifest.key}", manifest.files, target, cure)
        return target

    def copy(self, manifest: Manifest, target: Path) -> None:
        """Copy the files to `target`, absent or an empty folder, where all appear or none.

        They are the caller's own: no later write into them reaches store or cache. Raises
        FileExistsError, and what `fetch` raises.
        """
        there = target.exists()
        if there and not (target.is_dir() and not any(target.iterdir())):
            raise FileExistsError(f"{target} is there already: name a new or an empty folder")
        fetched, beside = self.fetch(manifest), target if there else target.absolute().parent
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix=FETCHING) as temporary:
            fresh = Path(temporary) / "files"
            shutil.copytree(fetched, fresh, copy_function=shutil.copyfile)
            _verify(manifest, fresh, f"remove {fetched} and fetch again")
            if not there:
                fresh.rename(target)
                return
            for path in fresh.iterdir():  # the folder may be a mount, and somebody may be in it
                path.rename(target / path.name)

    def get(self, folder: str, files: Sequence[File], target: Path, cure: str) -> None:
        """Download files to the directory `target`, which appears complete or not at all.

        Raises Corrupt, with the `cure`, for a file that is absent or has another digest.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=FETCHING) as temporary:
            fresh = Path(temporary) / "files"
            fresh.mkdir()

            def download(file: File) -> None:
                name, path = f"{folder}/{file.attempt}/{file.path}", fresh / file.path
                try:
                    self.store.download(name, path)
                except NotFound:
                    raise Corrupt(f"{self.store.uri}/{name} is missing: {cure}") from None
                if path.stat().st_size != file.size or sha256(path) != file.sha256:
                    raise Corrupt(f"{self.store.uri}/{name} has not its recorded SHA-256: {cure}")

            with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
                list(pool.map(download, files))
            try:
                os.rename(fresh, target)
            except OSError:
                if not target.is_dir():  # else another process fetched the same files just now
                    raise

    def _read(self, name: str) -> Manifest | None:
        try:
            return Manifest.from_json(self.store.read(name), f"{self.store.uri}/{name}")
        except NotFound:
            return None

    def _manifest_names(self, prefix: str = "") -> Iterable[str]:
        return (
            name
            for name in self.store.list(prefix)
            if name.count("/") == 2 and name.endswith("/manifest.json")
        )


def folder_of(node: Node) -> str:
    """Where the node's artifact lies in every store: `<stage>/<key>`."""
    return f"{node.name}/{node.key}"


def _verify(manifest: Manifest, folder: Path, cure: str) -> None:
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file() or sha256(path) != file.sha256:
            raise Corrupt(f"{file.path} of {manifest.key} has not its recorded SHA-256: {cure}")


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
