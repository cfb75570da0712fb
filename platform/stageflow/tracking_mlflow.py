"""One experiment on an MLflow server (or in a database file), brought to what its runs shall say.

Creating a run is the one request that cannot be repeated: the client sends it again where an answer
was lost, and then there are two. So each run carries a tag of its own, is looked for after it was
made, and of twins the oldest stays. MLflow cannot change a parameter or drop a metric: a run that
says what is not true any more is deleted and written anew.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeAlias, TypeVar
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT
from PIL import Image, UnidentifiedImageError

from stageflow.artifact import Artifacts
from stageflow.runs import KINDS, Attachment, DataSet, Run

DIGEST = "stageflow.digest"  # tag of a run that says all it shall; written last
METRICS, PARAMS, TAGS = 500, 50, 50  # in one request: below MLflow's limits, of numbers and of 1 MB
PAGE = 1000  # runs in one answer
PREVIEW = 800  # pixels at most; MLflow's own previews have 256, too few to read a figure
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on runs, not on traces

Identity: TypeAlias = tuple[str, str]
Item = TypeVar("Item")


@dataclass(slots=True)
class _Known:
    """A run in MLflow as far as we know: its newest values, and the files sent by this process."""

    id: str
    digest: str
    params: dict[str, str]
    metrics: dict[str, float]
    files: set[tuple[str, str]] = field(default_factory=set)

    def contradicts(self, run: Run) -> bool:
        """Whether it says what `run` does not, so that nothing we could add would make it true."""
        told = {(point.key, repr(point.value)) for point in run.points}
        return any(run.params.get(name) != value for name, value in self.params.items()) or any(
            (name, repr(value)) not in told for name, value in self.metrics.items()
        )


class Experiment:
    """An experiment, made or brought back if need be; it remembers its runs to save requests."""

    def __init__(self, uri: str, name: str) -> None:
        """Ask the server for the experiment and its runs. Raises MlflowException."""
        self._client = MlflowClient(uri)
        self.id = self._open(uri, name)
        self._runs = self._find()

    def write(self, run: Run, artifacts: Artifacts) -> str:
        """Make a run in MLflow say what `run` says; returns its id. Raises what MLflow raises."""
        identity, digest = (run.kind, run.identity), run.digest
        known = self._runs.get(identity)
        if known is not None and known.digest == digest:
            return known.id
        if known is not None and known.contradicts(run):
            self._client.delete_run(known.id)
            known = None
        if known is None:
            known = self._runs[identity] = self._create(run)
        self._attach(known, run, artifacts)
        self._tell(known.id, run, digest)
        known.digest, known.params = digest, dict(run.params)
        known.metrics = {point.key: point.value for point in run.points}
        return known.id

    def _open(self, uri: str, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name, _artifacts_beside(uri, name), KIND)
            except MlflowException:  # made meanwhile by another, or by this request, sent before
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == LifecycleStage.DELETED:
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _find(self, where: str = "") -> dict[Identity, _Known]:
        """Our runs; of several with one identity the oldest stays and the others are deleted."""
        found: dict[Identity, _Known] = {}
        oldest_first = sorted(self._search(where), key=lambda r: (r.info.start_time, r.info.run_id))
        for run in oldest_first:
            tags = run.data.tags
            identity = next(((kind, tags[kind]) for kind in KINDS if kind in tags), None)
            if identity in found:
                self._client.delete_run(run.info.run_id)
            elif identity is not None:
                digest = tags.get(DIGEST, "")
                found[identity] = _Known(run.info.run_id, digest, run.data.params, run.data.metrics)
        return found

    def _search(self, where: str) -> Iterator[MlflowRun]:
        token: str | None = ""
        while token is not None:
            page = self._client.search_runs(
                [self.id], where, max_results=PAGE, page_token=token or None
            )
            yield from page
            token = page.token or None

    def _create(self, run: Run) -> _Known:
        made = self._client.create_run(self.id, run.started, {run.kind: run.identity}, run.name)
        return self._find(f"attributes.start_time = {made.info.start_time}")[run.kind, run.identity]

    def _attach(self, known: _Known, run: Run, artifacts: Artifacts) -> None:
        for file in run.files:
            if (file.path, file.sha256) not in known.files:
                self._upload(known.id, file, artifacts)
                known.files.add((file.path, file.sha256))

    def _upload(self, run_id: str, file: Attachment, artifacts: Artifacts) -> None:
        if isinstance(file.content, str):
            self._client.log_text(run_id, file.content, file.path)
            return
        made, path = artifacts.fetch(file.content) / file.inside, PurePosixPath(file.path)
        with tempfile.TemporaryDirectory(prefix="mlflow-") as folder:
            sent = Path(folder) / path.name  # which MLflow takes over
            if file.small:
                _save_preview(made, sent)
            else:
                sent.symlink_to(made.absolute())
            inside = str(path.parent) if path.parent.name else None
            self._client.log_artifact(run_id, str(sent), inside)

    def _tell(self, run_id: str, run: Run, digest: str) -> None:
        """Everything but files. The digest comes last: whoever finds it need not look further."""
        if run.data:
            self._client.log_inputs(run_id, [_dataset_input(given) for given in run.data])
        if run.finished is None:
            self._client.update_run(run_id, run.status)
        else:
            self._client.set_terminated(run_id, run.status, run.finished)
        metrics = [Metric(point.key, point.value, point.time, point.step) for point in run.points]
        params = [Param(*param) for param in run.params.items()]
        tags = [*(RunTag(*tag) for tag in run.tags.items()), RunTag(DIGEST, digest)]
        sizes = (len(metrics) / METRICS, len(params) / PARAMS, len(tags) / TAGS)
        for n in reversed(range(math.ceil(max(sizes)))):
            self._client.log_batch(
                run_id,
                _from_end(metrics, METRICS, n),
                _from_end(params, PARAMS, n),
                _from_end(tags, TAGS, n),
                synchronous=True,
            )


def _artifacts_beside(uri: str, name: str) -> str | None:
    """Without a server the client writes files itself: into a folder beside the database file."""
    if not uri.startswith("sqlite:"):
        return None
    folder = re.sub(r"[^\w.-]|^\.+", "_", name)
    database = Path(urlsplit(uri).path.removeprefix("/")).absolute()
    return (database.parent / "mlflow-artifacts" / folder).as_uri()


def _save_preview(picture: Path, to: Path) -> None:
    try:
        with Image.open(picture) as image:
            image.thumbnail((PREVIEW, PREVIEW))
            image.save(to)
    except UnidentifiedImageError:  # no picture: it is shown as badly small as large
        to.symlink_to(picture.absolute())


def _dataset_input(given: DataSet) -> DatasetInput:
    data = Dataset(given.name, given.key, source_type="stageflow", source=given.identity)
    return DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, given.role)])


def _from_end(items: Sequence[Item], size: int, n: int) -> Sequence[Item]:
    """Chunk number `n` of `items`, counted from the end: the last tag is in the last request."""
    stop = max(0, len(items) - n * size)
    return items[max(0, stop - size) : stop]
