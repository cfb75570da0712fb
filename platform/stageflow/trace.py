"""Where a number comes from: a row of the board, and the artifacts behind it up to the data.

A key is that of an artifact, or of a row, or the config key of a row, as the board shows them; its
first digits are enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from rich.markup import escape
from rich.tree import Tree

from stageflow import board
from stageflow.artifact import Artifacts, Manifest
from stageflow.board import Line
from stageflow.store import NotFound


def trace(prefix: str, artifacts: Artifacts) -> Iterator[str | Tree]:
    """Tell, in Rich's markup, of all that has the one key that begins with `prefix`.

    Rows come first, then the artifacts that they rest on. Raises NotFound.
    """
    groups = board.rank(board.load(artifacts.store))
    lines = [line for group in groups for line in group.lines]
    folders = {folder.partition("/")[2]: folder for folder in artifacts.folders()}
    key = _the_key(prefix, lines, folders, artifacts.store.uri)
    shown = [line for line in lines if key in (line.row.key, line.row.config_key)]
    for line in shown:
        yield from _row(line, folders)
    told: set[str] = set()
    for target in dict.fromkeys([*(target for line in shown for target in line.row.keys), key]):
        manifest = artifacts.at(folders[target]) if target in folders else None
        if manifest is not None:
            yield from _facts(manifest)
            yield _lineage(manifest, artifacts, told)


def _the_key(prefix: str, lines: Sequence[Line], folders: Mapping[str, str], where: str) -> str:
    stage, slash, digits = prefix.rpartition("/")
    of_rows = {key for line in lines for key in (line.row.key, line.row.config_key) if key}
    found = [key for key in sorted({*folders, *of_rows}) if key.startswith(digits)]
    if slash:
        found = [key for key in found if folders.get(key) == f"{stage}/{key}"]
    if len(found) != 1:
        who = f"several have: {', '.join(found[:3])}" if found else "none has it"
        raise NotFound(
            f"no single key begins with {prefix} in {where}: looked through {len(folders)} "
            f"artifacts and {len(lines)} rows of the board ({who})"
        )
    return found[0]


def _row(line: Line, folders: Mapping[str, str]) -> Iterator[str]:
    """The row itself; published or ours."""
    row = line.row
    yield f"[bold]{escape(f'{row.task}: {row.name}')}[/] {row.key}"
    facts = [
        ("split", row.split),
        ("score", f"{board.score(row)} % ({row.metric})"),
        *_seeds(line, folders),
        ("masks", board.MASKS[row.oracle]),
        ("CRF", board.CRF[row.crf]),
        ("weights", row.weights),
        ("to publ.", line.against),
        *(("data", f"{name} {key}") for key, name in row.data.items()),
        ("configs", row.config_key),
        ("commit", ", ".join(row.commits)),
        ("cost", "" if row.published else board.cost(row)),
        ("note", row.note),
        ("source", f"published: {row.source}" if row.published else ""),
        ("url", row.url),
    ]
    for label, text in facts:
        if text:
            yield f"{label:8} {escape(text)}"


def _seeds(line: Line, folders: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    row = line.row
    for seed, value, key in zip(row.seeds, row.values, row.keys, strict=False):
        where = folders.get(key, f"{key}, which was forgotten: its sweep makes it again")
        yield f"seed {seed}", f"{value:.2f} from {where}"


def _facts(manifest: Manifest) -> Iterator[str]:
    """An artifact by itself."""
    made = datetime.fromtimestamp(manifest.started).isoformat(" ", "seconds")
    where = f"{', '.join(manifest.hosts)} ({manifest.device})"
    yield f"[bold]{manifest.stage}[/] {manifest.key}"
    yield f"made     {made} on {escape(where)}, {manifest.wall_seconds:.1f} s"
    yield f"commit   {manifest.commit}, version {manifest.version}, code {manifest.fingerprint}"
    yield "with     " + ", ".join(f"{name} {number}" for name, number in manifest.libraries.items())
    for step in manifest.resumed_from:
        yield f"resumed  from step {step}"
    for name, value in manifest.metrics.items():
        yield f"metric   {escape(name)} = {value:.6g}"
    for file in manifest.files:
        size = f"{file.size:,} bytes"
        yield f"file     {escape(file.path)}  {size}  sha256 {file.sha256[:12]}"


def _lineage(manifest: Manifest, artifacts: Artifacts, told: set[str]) -> Tree:
    """The artifact with its configuration, and under it what it was made from; each told once."""
    name = f"[bold]{manifest.stage}[/] {manifest.key}"
    if manifest.key in told:
        return Tree(f"{name}  [dim]as above[/]")
    told.add(manifest.key)
    config = ", ".join(f"{name}={value}" for name, value in manifest.config.items())
    tree = Tree(f"{name}  [dim]{escape(config)}[/]")
    for parameter, given in manifest.inputs.items():
        if "identity" in given:
            identity = ", ".join(
                f"{name}={str(value)[:16]}" for name, value in given["identity"].items()
            )
            source = escape(f"data {given['name']} {given['key']}")
            tree.add(f"{parameter}: {source}  [dim]{escape(identity)}[/]")
        else:
            made = artifacts.at(f"{given['name']}/{given['key']}")
            gone = f"{given['name']} {given['key']}  [dim]forgotten[/]"
            tree.add(_lineage(made, artifacts, told) if made else gone)
    return tree
