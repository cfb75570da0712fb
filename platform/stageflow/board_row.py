"""One line of the board: what a sweep declares of it, and how it is read off the manifests.

A sweep declares an `Entry`; `row` reads its numbers off the manifests. Metrics are fractions in
manifests; in rows every number is in percent.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from stageflow.artifact import Artifacts, Corrupt, Manifest
from stageflow.identity import digest, encode_config
from stageflow.stage import Node, ancestry

MOST_PICTURES = 60  # of one row; a page of label maps by the thousand helps nobody


class BoardError(RuntimeError):
    """A row cannot be made of what was declared, or of what is in the store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One result that a sweep puts on the board.

    Attributes:
        task: what is scored: "CAM seed", "pseudo label", "segmentation".
        split: on which images: "voc2012 train (1464)" for the official set, another count for less.
        method: "ReCAM"; published rows of the same name are what the row is compared with.
        reference: name of the published method that the row is held against, where it is not its
            own: "IRN", whose published seeds are the usual ones of a plain "CAM".
        variant: what sets it apart from other rows of the method: "product, threshold 0.21".
        targets: the nodes whose metric is the number, one for each seed.
        seeds: their seeds, in the same order.
        metric: name of the metric, a fraction in [0, 1].
        oracle: whether pixel masks chose anything: a threshold, a checkpoint, a parameter.
        crf: whether a dense CRF came last.
        weights: initial weights in words: "ResNet-50, ImageNet".
        comparable: empty if conditions equal the published ones, else why not: "fewer images".
        pictures: nodes whose PNG files are shown with the row.
        note: anything else a reader should know.
    """

    task: str
    split: str
    method: str
    reference: str = ""
    variant: str = ""
    targets: tuple[Node, ...]
    seeds: tuple[int, ...]
    metric: str = "miou"
    oracle: bool
    crf: bool = False
    weights: str
    comparable: str = ""
    pictures: tuple[Node, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("task", "split", "method", "weights"):
            if not getattr(self, name):
                raise ValueError(f"entry {self.method!r}: {name} is empty: say it in words")
        if not self.targets or len(self.targets) != len(self.seeds):
            raise ValueError(
                f"entry {self.method!r}: {len(self.targets)} targets for {len(self.seeds)} seeds: "
                "give one target for each seed, and at least one"
            )
        if len(set(self.seeds)) < len(self.seeds) or len(set(self.targets)) < len(self.seeds):
            raise ValueError(
                f"entry {self.method!r}: seeds {self.seeds} do not give one artifact each: "
                "give distinct seeds, and put the seed into a config"
            )


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG among the files of an artifact."""

    stage: str
    key: str
    file: str
    attempt: str
    sha256: str

    @property
    def name(self) -> str:
        """Its name in the store."""
        return f"{self.stage}/{self.key}/{self.attempt}/{self.file}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the board, ours or published; see `Entry` for the fields they share.

    Attributes:
        values: in percent, one for each seed.
        seeds: empty where a source does not tell.
        oracle, crf: None where a source does not tell.
        classes: metrics "iou/<class>" in percent, mean over seeds; None for an absent class.
        keys: artifact keys of the targets.
        config_key: digest of all configs that went in, without their seeds.
        commits: of the code that made any of it.
        data: name of each data set that went in, by key.
        wall_seconds, gpu_seconds: of all distinct artifacts that the number rests on.
        source, url: where a published number was read.
    """

    task: str
    split: str
    method: str
    reference: str = ""
    variant: str = ""
    values: tuple[float, ...]
    seeds: tuple[int, ...] = ()
    metric: str = "miou"
    oracle: bool | None = None
    crf: bool | None = None
    weights: str = ""
    comparable: str = ""
    note: str = ""
    classes: Mapping[str, float | None] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    config_key: str = ""
    commits: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    wall_seconds: float = 0.0
    gpu_seconds: float = 0.0
    pictures: tuple[Picture, ...] = ()
    published: bool = False
    source: str = ""
    url: str = ""

    @property
    def key(self) -> str:
        """What identifies the row; a row saved under the same key replaces this one."""
        return digest([self.task, self.split, self.method, self.variant, self.crf, self.keys])

    @property
    def mean(self) -> float:
        """Mean over seeds, in percent."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds, in percentage points; None with one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def single(self) -> bool:
        """Whether it is a result of ours that rests on one seed."""
        return not self.published and len(self.values) == 1

    @property
    def name(self) -> str:
        """Method and variant."""
        return f"{self.method} ({self.variant})" if self.variant else self.method

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Row:
        """Parse a stored row, of an older version too; raises Corrupt naming `where` it lies."""
        try:
            found = json.loads(data)
            given: dict[str, Any] = {f.name: found[f.name] for f in fields(cls) if f.name in found}
            for name in {"values", "seeds", "keys", "commits"} & given.keys():
                given[name] = tuple(given[name])
            pictures = tuple(Picture(**picture) for picture in given.pop("pictures", ()))
            return cls(**given, pictures=pictures)
        except (ValueError, TypeError, KeyError) as error:
            raise Corrupt(
                f"{where} is not a row of the board ({error!r}): remove it and run its sweep again"
            ) from error


def row(entry: Entry, artifacts: Artifacts) -> Row:
    """Read the entry's numbers off the manifests. Raises BoardError naming what is missing."""
    made = {node.key: _manifest(node, artifacts) for node in ancestry(*entry.targets)}
    targets = [made[node.key] for node in entry.targets]
    given = [source for manifest in made.values() for source in manifest.inputs.values()]
    return Row(
        task=entry.task,
        split=entry.split,
        method=entry.method,
        reference=entry.reference,
        variant=entry.variant,
        values=tuple(_percent(manifest, entry.metric) for manifest in targets),
        seeds=entry.seeds,
        metric=entry.metric,
        oracle=entry.oracle,
        crf=entry.crf,
        weights=entry.weights,
        comparable=entry.comparable,
        note=entry.note,
        classes=_classes(targets),
        keys=tuple(manifest.key for manifest in targets),
        config_key=_config_key(entry.targets),
        commits=tuple(sorted({manifest.commit for manifest in made.values()})),
        data={source["key"]: source["name"] for source in given if "identity" in source},
        wall_seconds=sum(manifest.wall_seconds for manifest in made.values()),
        gpu_seconds=sum(manifest.gpu_seconds for manifest in made.values()),
        pictures=tuple(
            picture for node in entry.pictures for picture in _pictures(_manifest(node, artifacts))
        ),
    )


def published_row(
    *,
    task: str,
    split: str,
    method: str,
    value: float,
    source: str,
    url: str = "",
    variant: str = "",
    oracle: bool | None = None,
    crf: bool | None = None,
    weights: str = "",
) -> Row:
    """A row for somebody else's number, in percent, with where it was read.

    A published row without a variant stands for its method: ours of the same name, or held against
    that name, are compared with it. Raises BoardError for a value that is no percentage, and for
    one without a source.
    """
    if not 1 <= value <= 100:  # below one it is a fraction, surely
        raise BoardError(f"published {method}: value is {value}: give a number in percent")
    if not source:
        raise BoardError(f"published {method}: source is empty: say where {value} was read")
    return Row(
        task=task,
        split=split,
        method=method,
        variant=variant,
        values=(value,),
        oracle=oracle,
        crf=crf,
        weights=weights,
        published=True,
        source=source,
        url=url,
    )


def _manifest(node: Node, artifacts: Artifacts) -> Manifest:
    manifest = artifacts.manifest(node)
    if manifest is None:
        raise BoardError(
            f"{node.name}/{node.key} is not in {artifacts.store.uri}: run its sweep; "
            "if it was forgotten, forget what was made from it, too"
        )
    return manifest


def _percent(manifest: Manifest, metric: str) -> float:
    where = f"{manifest.stage}/{manifest.key}"
    if metric not in manifest.metrics:
        names = ", ".join(sorted(manifest.metrics)) or "none"
        raise BoardError(f"{where} has no metric {metric!r} (it has {names}): name one of its own")
    value = manifest.metrics[metric]
    if not 0 <= value <= 1:
        raise BoardError(f"{where}: metric {metric!r} is {value}: return a fraction in [0, 1]")
    return round(100 * value, 4)


def _classes(targets: Sequence[Manifest]) -> dict[str, float | None]:
    values: dict[str, list[float]] = {}
    for manifest in targets:
        for name, value in manifest.metrics.items():
            if name.startswith("iou/"):
                values.setdefault(name.removeprefix("iou/"), []).append(value)
    present = {name: [v for v in found if not math.isnan(v)] for name, found in values.items()}
    return {
        name: round(100 * statistics.fmean(found), 4) if found else None
        for name, found in present.items()
    }


def _config_key(targets: Sequence[Node]) -> str:
    """The targets' key as it would be without seeds; a digest of all, where they differ even so."""
    seedless: dict[str, str] = {}
    for node in ancestry(*targets):
        config = encode_config(node.config, {*node.stage.neutral, "seed"})
        inputs = [seedless.get(given.key, given.key) for given in node.inputs]
        seedless[node.key] = digest([node.name, node.stage.version, config, inputs])
    distinct = sorted({seedless[node.key] for node in targets})
    return distinct[0] if len(distinct) == 1 else digest(distinct)


def _pictures(manifest: Manifest) -> list[Picture]:
    found = [
        Picture(manifest.stage, manifest.key, file.path, file.attempt, file.sha256)
        for file in sorted(manifest.files, key=lambda file: file.path)
        if file.path.endswith(".png")
    ]
    if not 0 < len(found) <= MOST_PICTURES:
        raise BoardError(
            f"{manifest.stage}/{manifest.key} holds {len(found)} PNG files: "
            f"as pictures of a row give a node with 1 to {MOST_PICTURES}"
        )
    return found
