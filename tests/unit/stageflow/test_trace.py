"""Tracing on a real store, with toy stages that share their first artifact."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from stageflow import board
from stageflow.artifact import Artifacts
from stageflow.board import Entry, Row, published_row
from stageflow.board_page import page
from stageflow.context import Context
from stageflow.executor import LocalExecutor, run
from stageflow.stage import Node, Source, stage
from stageflow.store import FolderStore, NotFound
from stageflow.trace import trace

DATA = Source("voc2012", "/anywhere", {"ids": "abc"})
HEX = "[0-9a-f]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    seed: int = 0
    part: str = "train[/::4]"  # with what Rich would take for markup


@stage(version="1")
def prepare(context: Context, images: Source, config: Scoring) -> None:
    (context.out / "list.txt").write_text("a b c")


@stage(version="1")
def score(context: Context, data: Path, config: Scoring) -> dict[str, float]:
    return {"miou": 0.5 + config.seed / 100, "tail": 0.25}


def target(seed: int) -> Node:
    return score(prepare(DATA, Scoring()), Scoring(seed=seed))


def entry(*seeds: int, **fields: object) -> Entry:
    given = {
        "task": "CAM seed",
        "split": "voc2012 train (1464)",
        "method": "CAM",
        "reference": "IRN",
        "targets": tuple(target(seed) for seed in seeds),
        "seeds": seeds,
        "oracle": True,
        "weights": "ResNet-50, ImageNet",
    }
    return Entry(**(given | fields))


PUBLISHED = published_row(
    task="CAM seed",
    split="voc2012 train (1464)",
    method="IRN",
    value=48.3,
    source="paper's table 2",
    url="https://arxiv.org/abs/1",
)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
def rows(artifacts: Artifacts) -> list[Row]:
    """A board: one result by two metrics, another on a single seed, and a published number."""
    run(target(1), target(2), target(3), executor=LocalExecutor(artifacts))
    mean, rare = entry(1, 2), entry(1, 2, variant="rare classes", metric="tail")
    ours = [board.row(given, artifacts) for given in (mean, rare, entry(3, variant="other"))]
    board.save([*ours, PUBLISHED], artifacts.store)
    return [*ours, PUBLISHED]


def told(key: str, artifacts: Artifacts) -> str:
    console = Console(width=400, highlight=False)
    with console.capture() as capture:
        for text in trace(key, artifacts):
            console.print(text)
    return capture.get()


def test_a_row_is_traced_to_all_that_made_it(artifacts: Artifacts, rows: list[Row]) -> None:
    row = rows[0]
    text = told(row.key[:9], artifacts)
    lines = text.splitlines()
    for line in (
        f"CAM seed: CAM {row.key}",
        "split    voc2012 train (1464)",
        "score    51.5 ± 0.7 % (miou)",
        f"seed 1   51.00 from score/{target(1).key}",
        f"seed 2   52.00 from score/{target(2).key}",
        "masks    oracle",
        "CRF      no",
        "weights  ResNet-50, ImageNet",
        "to publ. +3.2 to IRN",
        f"data     voc2012 {DATA.key}",
        f"configs  {row.config_key}",
        f"commit   {row.commits[0]}",
        "metric   miou = 0.51",
        "metric   miou = 0.52",
    ):
        assert line in lines
    assert "part=train[/::4], seed=2" in text


def test_what_seeds_share_is_told_once(artifacts: Artifacts, rows: list[Row]) -> None:
    text = told(rows[0].key, artifacts)
    prepared = target(1).parents[0].key
    assert re.findall(f"prepare {prepared}  (.*)", text) == ["part=train[/::4], seed=0", "as above"]
    assert text.count("images: data voc2012") == 1


def test_rows_of_one_config_key_are_told_with_their_artifacts_once(
    artifacts: Artifacts, rows: list[Row]
) -> None:
    text = told(rows[0].config_key[:8], artifacts)
    assert f"CAM seed: CAM {rows[0].key}\n" in text
    assert f"CAM seed: CAM (rare classes) {rows[1].key}\n" in text
    assert "CAM (other)" in text  # another seed of the same configs
    assert text.count("metric   miou = 0.51\n") == 1


def test_an_artifact_is_told_without_rows(artifacts: Artifacts, rows: list[Row]) -> None:
    text = told(f"prepare/{target(1).parents[0].key[:8]}", artifacts)
    assert text.startswith(f"prepare {target(1).parents[0].key}\n")
    assert "file     list.txt  5 bytes" in text
    assert f"images: data voc2012 {DATA.key}  ids=abc" in text
    assert "CAM seed" not in text


def test_a_published_row_is_told_with_its_source(artifacts: Artifacts, rows: list[Row]) -> None:
    lines = told(PUBLISHED.key[:8], artifacts).splitlines()
    assert lines[0] == f"CAM seed: IRN {PUBLISHED.key}"
    assert "source   published: paper's table 2" in lines
    assert "url      https://arxiv.org/abs/1" in lines
    assert not [line for line in lines if line.startswith("cost")]


def test_a_forgotten_artifact_is_said_to_be_so(artifacts: Artifacts, rows: list[Row]) -> None:
    artifacts.withdraw(artifacts.find(target(1).key))
    text = told(rows[0].key, artifacts)
    assert f"seed 1   51.00 from {target(1).key}, which was forgotten: its sweep makes it" in text
    assert f"seed 2   52.00 from score/{target(2).key}\n" in text
    assert "metric   miou = 0.51" not in text
    assert "metric   miou = 0.52" in text


@pytest.mark.parametrize(
    ("key", "why"), [("f00", "none has it"), ("score/f00", "none has it"), ("", "several have: ")]
)
def test_what_was_looked_through_is_told(
    artifacts: Artifacts, rows: list[Row], key: str, why: str
) -> None:
    with pytest.raises(NotFound, match=re.escape(why)) as caught:
        [*trace(key, artifacts)]
    assert f"in {artifacts.store.uri}: looked through 4 artifacts and 4 rows" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stage_before_the_key_must_be_its_own(artifacts: Artifacts, rows: list[Row]) -> None:
    with pytest.raises(NotFound):
        [*trace(f"prepare/{target(1).key}", artifacts)]


def test_every_key_on_every_board_is_found(artifacts: Artifacts, rows: list[Row]) -> None:
    console = Console(width=160)
    with console.capture() as capture:
        for table in board.console(rows):
            console.print(table)
    short = f"({HEX}{{8}}) (?:@|published)"
    shown = {
        "console": re.findall(short, capture.get()),
        "Markdown": re.findall(short, board.markdown(rows)),
        "HTML": re.findall(f"(?:row|config) key</dt><dd><code>({HEX}+)<", page(rows, {})),
        "JSON": [
            line[name]
            for group in json.loads(board.as_json(rows))
            for line in group["rows"]
            for name in ("key", "config_key")
            if line[name]
        ],
    }
    assert {form: len(keys) for form, keys in shown.items()} == {
        "console": 4,
        "Markdown": 4,
        "HTML": 7,
        "JSON": 7,
    }
    for key in {key for keys in shown.values() for key in keys}:
        assert told(key, artifacts)
