"""One execution: what a stage is given, what is kept of it, and what is refused."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from stageflow.artifact import Artifacts, File, Part, folder_of
from stageflow.context import Context, Shard
from stageflow.execution import StageError, assemble, execute, unfinished
from stageflow.stage import Metrics, Needs, Node, stage
from stageflow.store import FolderStore
from stageflow.testing_stages import Adding, Counting, Squaring, add, count, noted, squares


class Deaf:
    """Hooks that hear nothing."""

    def progress(self, done: int, total: int, note: str) -> None:
        pass

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class Config:
    answer: str = "nothing"
    place: Path = Path("/somewhere")


ANSWERS: dict[str, Any] = {
    "nothing": None,
    "empty": {},
    "mapping": MappingProxyType({"miou": 1}),
    "numpy": {"miou": np.float32(0.5), "images": np.int64(3), "good": True},
    "list": [1, 2],
    "number": 0,
    "text": {"miou": "high"},
    "unnamed": {1: 0.5},
    "array": {"miou": np.zeros(2)},
    "infinite": {"miou": 0.5, "loss": float("inf")},
}


@stage(version="1", neutral=("place",), needs=Needs(gpus=0.5))
def answer(context: Context, config: Config) -> Metrics:
    assert context.out.is_dir()
    assert list(context.out.iterdir()) == []
    assert context.scratch.is_dir()
    (context.scratch / "rubbish").write_text("x")
    (context.out / "place").write_text(str(context.out.parent))
    if config.answer == "chosen":
        context.device = "cuda"
    if config.answer == "raise":
        raise KeyError("miou")
    result: Metrics = ANSWERS.get(config.answer, {})
    return result


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where executions have their folders."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def run(
    node: Node, artifacts: Artifacts, *, device: str = "cpu", shard: Shard | None = None
) -> Part:
    return execute(node, artifacts=artifacts, hooks=Deaf(), device=device, shard=shard)


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("nothing", {}),
        ("empty", {}),
        ("mapping", {"miou": 1.0}),
        ("numpy", {"miou": 0.5, "images": 3.0, "good": 1.0}),
    ],
)
def test_metrics(artifacts: Artifacts, name: str, metrics: dict[str, float]) -> None:
    part = run(answer(Config(answer=name)), artifacts)
    assert part.metrics == metrics
    assert {type(value) for value in part.metrics.values()} <= {float}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("list", r"answer returned \[1, 2\]: return numbers by name, or nothing"),
        ("number", "answer returned 0: return numbers by name"),
        ("text", r"answer returned \{'miou': 'high'\}: return numbers"),
        ("unnamed", r"answer returned \{1: 0\.5\}: return numbers"),
        ("array", "answer returned .*array.*: return numbers"),
        ("infinite", "answer: metric loss is infinite: return a finite number"),
    ],
)
def test_what_is_no_metric(artifacts: Artifacts, name: str, message: str) -> None:
    """It is refused before anything is uploaded."""
    with pytest.raises(StageError, match=f"^{message}"):
        run(answer(Config(answer=name)), artifacts)
    assert [*artifacts.store.list("")] == []


@pytest.mark.parametrize("name", ["nothing", "raise", "infinite"])
def test_folders_are_removed(artifacts: Artifacts, temporary: Path, name: str) -> None:
    try:
        part = run(answer(Config(answer=name)), artifacts)
    except (KeyError, StageError):
        assert [*artifacts.store.list("")] == []
    else:
        assert [file.path for file in part.files] == ["place"]
    assert list(temporary.iterdir()) == []


def test_missing_input(artifacts: Artifacts) -> None:
    parent = count(Counting(label="x"))
    child = add(parent, parent, Adding(label="x"))
    with pytest.raises(StageError, match=f"^input count/{parent.key} is not in file://.*: run it"):
        run(child, artifacts)


@pytest.mark.parametrize(
    ("given", "name", "device", "charged"),
    [
        ("cpu", "nothing", "cpu", False),
        ("cuda", "nothing", "cuda", True),
        ("auto", "chosen", "cuda", True),
    ],
)
def test_device(artifacts: Artifacts, given: str, name: str, device: str, charged: bool) -> None:
    """The device that the stage had, or said that it took; only a GPU costs GPU seconds."""
    part = run(answer(Config(answer=name)), artifacts, device=given)
    assert part.device == device
    assert part.gpu_seconds == (0.5 * part.wall_seconds if charged else 0.0)


def test_ranks(artifacts: Artifacts) -> None:
    """Only rank 0 uploads; all their GPUs are charged, but no more than there are processes."""
    node = answer.on(gpus=2)(Config())
    parts = [
        execute(node, artifacts=artifacts, hooks=Deaf(), device="cuda", rank=rank, ranks=2)
        for rank in (0, 1)
    ]
    assert [len(part.files) for part in parts] == [1, 0]
    assert len([*artifacts.store.list("")]) == 1
    assert parts[0].gpu_seconds == 2 * parts[0].wall_seconds
    alone = run(node, artifacts, device="cuda")
    assert alone.gpu_seconds == alone.wall_seconds


def test_manifest_has_the_whole_config(artifacts: Artifacts) -> None:
    """Also neutral fields, which may hold what has no canonical form."""
    node = answer(Config())
    manifest = artifacts.publish(assemble(node, [run(node, artifacts)]))
    assert manifest.config == {"answer": "nothing", "place": "/somewhere"}
    assert artifacts.manifest(node) == manifest


def part(*paths: str, **changes: Any) -> Part:
    made = Part(
        files=tuple(File(path, 1, "0", "t") for path in paths),
        metrics={},
        reports=(),
        resumed_from=(),
        started=10.0,
        wall_seconds=2.0,
        gpu_seconds=1.0,
        host="a",
        device="cuda",
    )
    return replace(made, **changes)


class TestAssemble:
    node = squares(Squaring(label="x"))

    def test_parts_are_added_up(self) -> None:
        parts = [
            part("a", resumed_from=(3,)),
            part("b", "c", host="b", started=9.0, resumed_from=(1,)),
            part(),
        ]
        whole = assemble(self.node, parts)
        assert [file.path for file in whole.files] == ["a", "b", "c"]
        assert (whole.shards, whole.wall_seconds, whole.gpu_seconds) == (3, 6.0, 3.0)
        assert (whole.started, whole.hosts, whole.device) == (9.0, ("a", "b"), "cuda")
        assert whole.resumed_from == (3, 1)
        assert whole.inputs == {}

    def test_two_shards_with_one_path(self) -> None:
        with pytest.raises(
            StageError, match=r"^squares: two shards wrote b: name files by the fir"
        ):
            assemble(self.node, [part("a", "b"), part("b")])

    @pytest.mark.parametrize("parts", [1, 2])
    def test_metrics_of_shards(self, parts: int) -> None:
        """The answer must not depend on how many shards a cluster has room for."""
        told = [part("a", metrics={"miou": 1.0}), part("b")][:parts]
        with pytest.raises(StageError, match=r"^squares is declared sharded, so it cannot tell"):
            assemble(self.node, told)


class TestUnfinished:
    def test_name(self) -> None:
        """It tells shards apart, and code: a checkpoint of other code is not gone on with."""
        node = count(Counting(label="x"))
        edited = replace(node.stage)
        edited.__dict__["fingerprint"] = "0" * 16
        other = edited(node.config)
        assert other.key == node.key
        names = [
            unfinished(node, Shard()),
            unfinished(other, Shard()),
            unfinished(node, Shard(0, 2)),
            unfinished(node, Shard(1, 2)),
        ]
        assert len(set(names)) == 4

    def test_other_code_starts_afresh(self, artifacts: Artifacts, tmp_path: Path) -> None:
        log, gate = tmp_path / "log", tmp_path / "step-"
        node = count(Counting(label="x", log=str(log), gate=str(gate)))
        for step in (1, 2, 3):
            Path(f"{gate}{step}").touch()
        Path(f"{gate}3").write_text("stumble")
        with pytest.raises(RuntimeError, match="stumble"):
            run(node, artifacts)
        Path(f"{gate}3").write_text("")
        edited = replace(node.stage)
        edited.__dict__["fingerprint"] = "0" * 16
        made = run(edited(node.config), artifacts)
        assert made.resumed_from == ()
        assert [line.split()[1] for line in noted(log)] == ["1", "2", "3", "1", "2", "3"]
        artifacts.publish(assemble(node, [made]))
        assert len([*artifacts.store.list(folder_of(node))]) == 2
