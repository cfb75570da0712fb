"""What each MLflow run of a sweep says: plain data from the study, the manifests and the board.

A study is one parent run with a child for every trial, and for every row and seed of the board.
What MLflow would refuse (characters in names, long values) is mended here, what it must not see is
cut.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from stageflow.artifact import Artifacts, Manifest
from stageflow.redact import SECRET_NAME, safe
from stageflow.store import NotFound

if TYPE_CHECKING:
    from stageflow.board_row import Row
    from stageflow.study import Trial

KINDS = ("stageflow.study", "stageflow.trial", "stageflow.row")  # tags, one of which names a run
PARENT = "mlflow.parentRunId"
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "RUNNING": "RUNNING"}
# MLflow's limits, in characters
LONGEST_NAME, LONGEST_PARAM, LONGEST_TAG, LONGEST_SOURCE = 250, 6000, 8000, 65_535
ROW_PARAMS = "task split method reference variant metric oracle crf weights comparable note".split()


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracked:
    """What to show of one study.

    Attributes:
        experiment: name of the sweep; its studies share an MLflow experiment.
        study: name of the study, the parent run's.
        trials: all trials that were started.
        options: of the sweep, nested or not; parameters of the parent run.
        rows: of the board that rest on this study.
        metric: name of the objective.
        products: the address of each artifact to take away, by its name; tags of the parent run.
        files: texts by name, kept with the parent run: the leaderboard, once there is one.
    """

    experiment: str
    study: str
    trials: Sequence[Trial]
    options: Mapping[str, Any]
    rows: Sequence[Row] = ()
    metric: str
    products: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


class Point(NamedTuple):
    """One value of a metric; `time` is in Unix milliseconds."""

    key: str
    value: float
    time: int
    step: int


class DataSet(NamedTuple):
    """A source that a run rests on, and the stage input through which it came in."""

    name: str
    key: str
    identity: str
    role: str


class Attachment(NamedTuple):
    """A file to keep with a run: text, or the file `inside` an artifact."""

    path: str
    sha256: str
    content: str | Manifest
    inside: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as it shall be; `identity` is its value of the tag `kind`, which no other run has."""

    kind: str
    identity: str
    name: str
    status: str
    started: int
    finished: int | None
    params: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    data: tuple[DataSet, ...] = ()
    files: tuple[Attachment, ...] = ()

    def under(self, parent: str) -> Run:
        """The same run as a child of the run with the id `parent`."""
        return replace(self, tags={**self.tags, PARENT: parent})

    @property
    def digest(self) -> str:
        """Digest of everything that the run says."""
        told = replace(self, files=())
        files = [(file.path, file.sha256) for file in self.files]
        text = json.dumps([astuple(told), files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


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
        return dict(zip(_numbered(m.stage for m in found.values()), found.values(), strict=True))

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


def study_run(tracked: Tracked) -> Run:
    """The parent: it runs as long as a trial does."""
    counts = Counter(trial.state.lower() for trial in tracked.trials)
    summary = {"trials": ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))}
    now = time.time()
    return Run(
        kind="stageflow.study",
        identity=tracked.study,
        name=tracked.study,
        status="RUNNING" if counts["running"] else "FINISHED",
        started=_ms(min((t.started for t in tracked.trials if t.started), default=now)),
        finished=None
        if counts["running"]
        else _ms(max((t.finished for t in tracked.trials if t.finished), default=now)),
        params=_params(tracked.options),
        tags=_tags(summary | {f"product.{name}": at for name, at in tracked.products.items()}),
        files=tuple(
            Attachment(name, hashlib.sha256(text.encode()).hexdigest(), text)
            for name, text in tracked.files.items()
        ),
    )


def trial_run(tracked: Tracked, trial: Trial, lineages: Lineages) -> Run:
    """A trial: what Optuna chose and, once complete, its value and the artifacts that made it."""
    made = lineages.of(trial.target) if trial.target else {}
    points = _points(made, since=trial.started or 0.0)
    if trial.value is not None:
        told = Point(_name(tracked.metric), trial.value, _ms(trial.finished or 0), 0)
        points = (*(point for point in points if point.key != told.key), told)
    end = {"state": trial.state, "reason": trial.reason}
    return Run(
        kind="stageflow.trial",
        identity=f"{tracked.study}/{trial.number}",
        name=f"trial {trial.number}",
        status=STATUS[trial.state],
        started=_ms(trial.started or 0),
        finished=None if trial.finished is None else _ms(trial.finished),
        params=_params(trial.params),
        points=points,
        tags=_tags(end | _origin(made, lineages.artifacts)),
        data=_data(made),
    )


def row_runs(tracked: Tracked, row: Row, lineages: Lineages) -> Iterator[Run]:
    """A row of the board, as one run for each seed with its pictures; none for a published row."""
    if row.published:
        return
    of_seed = [lineages.find(key) for key in row.keys]
    pictures = _pictures(row, of_seed, lineages)
    for seed, value, made, files in zip(row.seeds, row.values, of_seed, pictures, strict=True):
        yield Run(
            kind="stageflow.row",
            identity=f"{tracked.study}/{row.key}/{seed}",
            name=f"{row.name} seed {seed}",
            status="FINISHED",
            started=_ms(min((m.started for m in made.values()), default=0.0)),
            finished=_ms(max((_end(m) for m in made.values()), default=0.0)),
            params=_params({name: getattr(row, name) for name in ROW_PARAMS} | {"seed": seed}),
            points=_points(made) or (Point(_name(row.metric), value / 100, 0, 0),),
            tags=_tags({"config": row.config_key} | _origin(made, lineages.artifacts)),
            data=_data(made),
            files=tuple(files),
        )


def _points(made: Mapping[str, Manifest], since: float = 0.0) -> tuple[Point, ...]:
    """The target's metrics by name; reports, results and cost of every stage as "<stage>/<name>".

    A report carries no time of its own, so those of a stage are spread evenly over its seconds.
    """
    points: list[Point] = []
    for number, (stage, manifest) in enumerate(made.items()):
        told, end = manifest.reports, _end(manifest)
        for n, report in enumerate(told, start=1):
            at = _ms(manifest.started + (end - manifest.started) * n / len(told))
            points += (Point(f"{stage}/{k}", v, at, report.step) for k, v in report.metrics.items())
        last = max((report.step for report in told), default=0)
        results = {f"{stage}/{k}" if number else k: v for k, v in manifest.metrics.items()}
        cost = {f"{stage}/{k}": getattr(manifest, k) for k in ("wall_seconds", "gpu_seconds")}
        total = {} if number else _total(made, since)
        after = _ms(end) + 1  # what is later counts, where steps are equal
        points += (Point(k, v, after, last) for k, v in (results | cost | total).items())
    # MLflow would store infinity as some finite number
    return tuple(p._replace(key=_name(p.key)) for p in points if not math.isinf(p.value))


def _total(made: Mapping[str, Manifest], since: float) -> dict[str, float]:
    """Cost of a lineage; stages that began before the trial did were there already."""
    reused = {"total/reused_stages": sum(m.started < since for m in made.values())}
    return {
        "total/stages": len(made),
        "total/wall_seconds": sum(m.wall_seconds for m in made.values()),
        "total/gpu_seconds": sum(m.gpu_seconds for m in made.values()),
    } | (reused if since else {})


def _origin(made: Mapping[str, Manifest], artifacts: Artifacts) -> dict[str, str]:
    """Tags that tell where the numbers come from."""
    seeds = {str(m.config["seed"]) for m in made.values() if "seed" in m.config}
    resumed = (f"{s} from step {step}" for s, m in made.items() for step in m.resumed_from)
    return {
        "seed": ", ".join(sorted(seeds)),
        "commit": ", ".join(sorted({m.commit for m in made.values()})),
        "resumed": ", ".join(resumed) or ("no" if made else ""),
        **{f"artifact.{s}": f"{artifacts.store.uri}/{m.stage}/{m.key}" for s, m in made.items()},
    }


def _data(made: Mapping[str, Manifest]) -> tuple[DataSet, ...]:
    """The sources of a lineage, each once."""
    found: dict[str, DataSet] = {}
    for manifest in made.values():
        for role, given in manifest.inputs.items():
            if "identity" in given:
                identity = safe(json.dumps(given["identity"], sort_keys=True))[:LONGEST_SOURCE]
                found.setdefault(given["key"], DataSet(given["name"], given["key"], identity, role))
    return tuple(found.values())


def _pictures(
    row: Row, of_seed: Sequence[Mapping[str, Manifest]], lineages: Lineages
) -> list[list[Attachment]]:
    """The row's pictures by seed: one of what a single seed made belongs to that seed alone."""
    keys = [{m.key for m in made.values()} for made in of_seed]
    times = Counter(key for some in keys for key in some)
    own = [{key for key in some if times[key] == 1} for some in keys]
    found: list[list[Manifest]] = [[] for _ in of_seed]
    for folder in dict.fromkeys(f"{p.stage}/{p.key}" for p in row.pictures):
        shown = [*lineages.of(folder).values()]
        rests_on = {m.key for m in shown}
        for i in [i for i, some in enumerate(own) if some & rests_on] or range(len(own)):
            found[i] += shown[:1]
    return [[*_attachments(manifests)] for manifests in found]


def _attachments(manifests: Sequence[Manifest]) -> Iterator[Attachment]:
    for name, manifest in zip(_numbered(m.stage for m in manifests), manifests, strict=True):
        for file in manifest.files:
            if file.path.endswith(".png"):
                yield Attachment(f"pictures/{name}/{file.path}", file.sha256, manifest, file.path)


def _params(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Parameters as MLflow takes them: flat, as text, without credentials."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _params(value, f"{prefix}{name}.")
        else:
            hidden = re.search(SECRET_NAME, name, re.IGNORECASE)
            flat[_name(f"{prefix}{name}")] = "***" if hidden else safe(str(value))[:LONGEST_PARAM]
    return flat


def _tags(values: Mapping[str, str]) -> dict[str, str]:
    return {_name(f"stageflow.{k}"): safe(v)[:LONGEST_TAG] for k, v in values.items() if v}


def _name(text: str) -> str:
    """A name of a parameter, metric or tag that MLflow accepts."""
    parts = re.sub(r"[^\w./ :-]", "_", text).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))[:LONGEST_NAME] or "_"


def _numbered(names: Iterable[str]) -> Iterator[str]:
    """The names, the second of equals with "-2" behind it, and so on."""
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}-{seen[name]}"


def _end(manifest: Manifest) -> float:
    """When the artifact was ready, about; its seconds are a sum over shards, which ran together."""
    return manifest.started + manifest.wall_seconds / manifest.shards


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
