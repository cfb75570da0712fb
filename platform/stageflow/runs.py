"""What each MLflow run of a sweep says: plain data from the study, the manifests and the board.

A study is one parent run with a child for every trial, and for every row and seed of the board.
What MLflow would refuse (characters in names, long values) is mended here, what it must not see is
cut.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from stageflow import run_notes
from stageflow.artifact import Artifacts, Manifest
from stageflow.lineages import Lineages as Lineages
from stageflow.lineages import numbered
from stageflow.redact import SECRET_NAME, safe
from stageflow.report import ranked

if TYPE_CHECKING:
    from stageflow.board_row import Row
    from stageflow.study import Trial

KINDS = ("stageflow.study", "stageflow.trial", "stageflow.row")  # tags, one of which names a run
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"  # its description, in Markdown
SOURCE, SOURCE_TYPE, COMMIT = (
    f"mlflow.source.{name}" for name in ("name", "type", "git.commit")
)  # columns of its table
IN_GRID = "mlflow.loggedImages"  # it has pictures that MLflow's charts show side by side
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "RUNNING": "RUNNING"}
MOST_PICTURES = 60  # of one artifact: label maps by the thousand help nobody
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
        maximise: whether the best of them has the largest value.
        state: of the command: RUNNING, FINISHED, FAILED or KILLED.
        began, ended: the command, in Unix seconds; 0 where that is not known.
        command: as it was typed.
        pictures: for the numbers of trials, the artifact with pictures, as "<stage>/<key>".
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
    maximise: bool = True
    state: str = "FINISHED"
    began: float = 0.0
    ended: float = 0.0
    command: str = ""
    pictures: Mapping[int, str] = field(default_factory=dict)

    @property
    def completed(self) -> list[Trial]:
        """The trials with a value, the best one first."""
        return ranked(self.trials, maximise=self.maximise)


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
    """A file to keep with a run: text, or the file `inside` an artifact (a picture, made small)."""

    path: str
    sha256: str
    content: str | Manifest
    inside: str = ""
    small: bool = False


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


def study_run(tracked: Tracked, lineages: Lineages, experiment: str = "") -> Run:
    """The parent: it runs as long as the command or a trial does. `experiment` is MLflow's id."""
    counts = Counter(trial.state.lower() for trial in tracked.trials)
    summary = {"trials": ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))}
    runs = counts["running"] or tracked.state == "RUNNING"
    begun = [tracked.began, *(t.started for t in tracked.trials if t.started)]
    ended = [tracked.ended, *(t.finished for t in tracked.trials if t.finished), *begun]
    made = _any_lineage(tracked, lineages)
    return Run(
        kind="stageflow.study",
        identity=tracked.study,
        name=tracked.study,
        status="RUNNING" if runs else tracked.state,
        started=_ms(min(filter(None, begun), default=time.time())),
        finished=None if runs else _ms(max(ended) or time.time()),
        params=_params(tracked.options),
        points=_history(tracked),
        tags=_tags(summary | {f"product.{name}": at for name, at in tracked.products.items()})
        | _about(tracked, made, run_notes.of_study(tracked, experiment)),
        data=_data(made),
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
    drawn = tracked.pictures.get(trial.number)
    files = tuple(_attachments([*lineages.of(drawn).values()][:1] if drawn else []))
    return Run(
        kind="stageflow.trial",
        identity=f"{tracked.study}/{trial.number}",
        name=f"trial {trial.number}",
        status=STATUS[trial.state],
        started=_ms(trial.started or 0),
        finished=None if trial.finished is None else _ms(trial.finished),
        params=_params(trial.params),
        points=points,
        tags=_tags(end | _origin(made, lineages.artifacts))
        | _about(tracked, made, run_notes.of_trial(tracked, trial), files),
        data=_data(made),
        files=files,
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
            tags=_tags({"config": row.config_key} | _origin(made, lineages.artifacts))
            | _about(tracked, made, run_notes.of_row(tracked, row, seed), files),
            data=_data(made),
            files=tuple(files),
        )


def _any_lineage(tracked: Tracked, lineages: Lineages) -> dict[str, Manifest]:
    """What the best trial was made from, else the first row; {} as long as there is neither."""
    targets = [trial.target for trial in tracked.completed if trial.target]
    keys = [row.keys[0] for row in tracked.rows if row.keys]
    return lineages.of(targets[0]) if targets else lineages.find(keys[0]) if keys else {}


def _history(tracked: Tracked) -> tuple[Point, ...]:
    """The best value so far, against the number of trials that had one."""
    in_time = sorted(tracked.completed, key=lambda trial: (trial.finished or 0.0, trial.number))
    name, best = _name(f"best/{tracked.metric}"), max if tracked.maximise else min
    values = itertools.accumulate((trial.value or 0.0 for trial in in_time), best)
    return tuple(
        Point(name, value, _ms(trial.finished or 0.0), step)
        for step, (trial, value) in enumerate(zip(in_time, values, strict=True), start=1)
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
    # MLflow would store infinity as some finite number; and all numbers as floats, as which they
    # are recognised.
    return tuple(
        Point(_name(p.key), float(p.value), p.time, p.step)
        for p in points
        if not math.isinf(p.value)
    )


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


def _about(
    tracked: Tracked, made: Mapping[str, Manifest], note: str, files: Sequence[Attachment] = ()
) -> dict[str, str]:
    """Tags that MLflow's pages show in places of their own."""
    commits = [re.match(r"[0-9a-f]{7,40}\b", manifest.commit) for manifest in made.values()]
    tags = {
        NOTE: note,
        SOURCE: tracked.command.partition(" ")[0],
        SOURCE_TYPE: "JOB" if tracked.command else "",
        COMMIT: next((found.group() for found in commits if found), ""),
        IN_GRID: "True" if any(file.small for file in files) else "",
    }
    return {name: safe(text)[:LONGEST_TAG] for name, text in tags.items() if text}


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
    """Each picture as people find it and, with a preview, as MLflow's image grid wants it.

    Of runs that are compared, the grid of their charts shows pictures of the same key side by side,
    and the page of the comparison files of the same name that lie in no folder.
    """
    for name, manifest in zip(numbered(m.stage for m in manifests), manifests, strict=True):
        pictures = [file for file in manifest.files if file.path.endswith(".png")]
        for file in pictures[:MOST_PICTURES]:
            key = re.sub(r"[^\w. -]", "~", f"{name}/{file.path.removesuffix('.png')}")
            mark = f"step+0+timestamp+{_ms(_end(manifest))}+{file.sha256[:32]}"
            for path, small in (
                (f"{name}.{file.path.replace('/', '.')}", False),
                (f"images/{key}+{mark}.png", False),
                (f"images/{key}+{mark}+compressed.webp", True),
            ):
                yield Attachment(path, file.sha256, manifest, file.path, small)


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


def _end(manifest: Manifest) -> float:
    """When the artifact was ready, about; its seconds are a sum over shards, which ran together."""
    return manifest.started + manifest.wall_seconds / manifest.shards


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
