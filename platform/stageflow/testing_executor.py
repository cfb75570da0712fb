"""The contract of executors as a test class: subclass it and give the fixture `open_executor`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import pytest

from stageflow.artifact import Artifacts, Manifest, folder_of
from stageflow.executor import (
    Done,
    Event,
    Executor,
    Failed,
    Kind,
    OnStale,
    RunError,
    StaleError,
    run,
)
from stageflow.stage import Node, Source
from stageflow.store import FolderStore
from stageflow.testing_stages import (
    Adding,
    Counting,
    Failing,
    Squaring,
    Telling,
    add,
    boast,
    copy,
    count,
    fail,
    noted,
    squares,
    tell,
)

OpenExecutor: TypeAlias = Callable[[Artifacts, OnStale], Executor]


def make_stale(artifacts: Artifacts, node: Node) -> Manifest:
    """Let the node's artifact look as if other code had made it; returns the new manifest."""
    manifest = artifacts.manifest(node)
    assert manifest is not None
    changed = replace(manifest, fingerprint="0" * 16)
    name = f"{folder_of(node)}/manifest.json"
    artifacts.store.delete([name])
    assert artifacts.store.create(name, changed.to_json())
    return changed


def _wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 240
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


class ExecutorContract:
    """What every `stageflow.executor.Executor` must do.

    A subclass gives the fixture `open_executor`, a function of artifacts and `OnStale`. It may give
    an `executor` of its own that lives longer than one test: no test needs an empty store.
    """

    @pytest.fixture
    def executor(self, open_executor: OpenExecutor, tmp_path: Path) -> Iterator[Executor]:
        """An executor with a store of its own, that asks about stale artifacts."""
        store = FolderStore(tmp_path / "store")
        executor = open_executor(Artifacts(store, tmp_path / "cache"), OnStale.ASK)
        yield executor
        executor.close()

    @pytest.fixture
    def label(self) -> str:
        """What tells the nodes of this test from all others."""
        return uuid4().hex

    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        """Where the toy stages note down what they do."""
        return tmp_path / "log"

    def test_makes_what_the_target_needs(self, executor: Executor, label: str) -> None:
        """Parents first; every node has an outcome, a manifest, and its files in the store."""
        left, right = count(Counting(label=label, to=2)), squares(Squaring(label=label))
        total = add(left, right, Adding(label=label))
        outcomes = executor.run([total])
        assert set(outcomes) == {left.key, right.key, total.key}
        assert all(isinstance(o, Done) and o.executed for o in outcomes.values())
        manifest = executor.artifacts.manifest(total)
        assert manifest is not None
        assert manifest.metrics == {"value": 2 + sum(n**2 for n in range(10))}
        folder = executor.artifacts.fetch(manifest)
        assert [path.name for path in folder.iterdir()] == ["sum"]
        assert (folder / "sum").read_text() == "287"

    def test_two_drivers_make_it_once(
        self, executor: Executor, open_executor: OpenExecutor, label: str, log: Path, tmp_path: Path
    ) -> None:
        """Another driver that shares the store waits for the one that works, and says for whom."""
        gate, told = str(tmp_path / "step-"), list[Event]()
        other = open_executor(replace(executor.artifacts, cache=tmp_path / "other"), OnStale.ASK)
        node = count(Counting(label=label, to=2, log=str(log), gate=gate))
        Path(f"{gate}1").touch()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(run, node, executor=executor)
            _wait_until(lambda: log.exists() and len(noted(log)) == 2)
            second = pool.submit(run, node, executor=other, observe=told.append)
            _wait_until(lambda: any(event.kind is Kind.WAITING for event in told))
            Path(f"{gate}2").touch()
            assert first.result() == second.result()
        other.close()
        assert [line.split()[1] for line in noted(log)] == ["1", "2"]
        assert [event.kind for event in told] == [Kind.WAITING, Kind.HIT]
        assert told[0].text.startswith("process "), told[0].text

    def test_manifest(self, executor: Executor, label: str) -> None:
        """It says of what, by which code, where, and at what cost the artifact was made."""
        left = count(Counting(label=label, to=2))
        total = add(left, left, Adding(label=label))
        before = time.time()
        run(total, executor=executor)
        made, counted = executor.artifacts.manifest(total), executor.artifacts.manifest(left)
        assert made is not None
        assert counted is not None
        assert (made.key, made.stage, made.version) == (total.key, "add", "1")
        assert made.config == {"label": label, "log": ""}
        assert made.inputs["left"] == made.inputs["right"] == {"name": "count", "key": left.key}
        assert made.fingerprint == add.fingerprint
        assert made.commit
        assert made.hosts
        assert before - 1 < counted.started <= made.started <= time.time() + 1
        assert [(r.step, r.metrics) for r in counted.reports] == [
            (1, {"value": 1}),
            (2, {"value": 2}),
        ]
        assert (counted.shards, counted.resumed_from, counted.gpu_seconds) == (1, (), 0.0)

    def test_same_again(self, executor: Executor, label: str, log: Path) -> None:
        """What is there is not made again, whatever a neutral field says."""
        first = count(Counting(label=label, log=str(log)))
        other = count(Counting(label=label, log=f"{log}-other"))
        made = run(first, executor=executor)
        events: list[Event] = []
        outcomes = executor.run([other], events.append)
        assert run(other, executor=executor) == made
        assert outcomes == {other.key: Done(made[0], executed=False)}
        assert [event.kind for event in events if event.key == other.key] == [Kind.HIT]
        assert len(noted(log)) == 3
        assert not noted(log.with_name("log-other"))

    def test_only_what_is_needed(self, executor: Executor, label: str, log: Path) -> None:
        """Nobody asks for the parents of what is there."""
        left = count(Counting(label=label, log=str(log)))
        total = add(left, left, Adding(label=label))
        run(total, executor=executor)
        manifest = executor.artifacts.manifest(left)
        assert manifest is not None
        executor.artifacts.store.delete([f"{folder_of(left)}/manifest.json"])
        assert set(executor.run([total])) == {total.key}
        assert executor.artifacts.manifest(left) is None
        assert len(noted(log)) == 3

    def test_shared_parents_run_once(self, executor: Executor, label: str, log: Path) -> None:
        """Equal nodes are one node, however they were built and however often one asks."""

        def shared() -> Node:
            return count(Counting(label=label, log=str(log)))

        sums = [add(shared(), shared(), Adding(label=label + text)) for text in ("a", "b", "a")]
        manifests = run(*sums, shared(), executor=executor)
        assert [manifest.metrics["value"] for manifest in manifests] == [6, 6, 6, 3]
        assert len(noted(log)) == 3

    def test_failure(self, executor: Executor, label: str, log: Path) -> None:
        """What depends on a failure does not run, all else does, and nothing is half there."""
        broken = fail(Failing(label=label, text="no such\nluck"))
        good = count(Counting(label=label, log=str(log)))
        waiting = add(good, broken, Adding(label=label))
        later = add(waiting, good, Adding(label=label))
        unrelated = squares(Squaring(label=label))
        events: list[Event] = []
        outcomes = executor.run([later, unrelated], events.append)
        failed = outcomes[broken.key]
        assert isinstance(failed, Failed)
        assert failed.reason == "LookupError: no such"
        assert "raise LookupError" in failed.traceback
        for node, parent in ((waiting, broken), (later, waiting)):
            outcome = outcomes[node.key]
            assert isinstance(outcome, Failed)
            assert outcome.blocked_by == parent.key
            assert outcome.reason == "fail: LookupError: no such"
        assert isinstance(outcomes[good.key], Done)
        assert isinstance(outcomes[unrelated.key], Done)
        assert {event.kind for event in events if event.key == broken.key} >= {Kind.FAILED}
        assert [event.kind for event in events if event.key == later.key] == [Kind.BLOCKED]
        for node in (broken, waiting, later):
            assert executor.artifacts.manifest(node) is None

    def test_failure_table(self, executor: Executor, label: str) -> None:
        """`run` raises a table: what is done, what failed, what was not run, and why."""
        broken = fail(Failing(label=label, text="out of luck"))
        good = count(Counting(label=label))
        with pytest.raises(RunError) as caught:
            run(add(good, broken, Adding(label=label)), executor=executor)
        rows = [line.split(maxsplit=3) for line in str(caught.value).splitlines()[1:]]
        assert rows[0] == ["done", "count", good.key]
        assert rows[1] == ["failed", "fail", broken.key, "LookupError: out of luck"]
        assert rows[2][:3] == ["not", "run", "add"]
        assert rows[2][3].endswith("fail: LookupError: out of luck")

    def test_failure_can_be_mended(self, executor: Executor, label: str, tmp_path: Path) -> None:
        """What failed is tried again when it is asked for again."""
        node = fail(Failing(label=label, mended=str(tmp_path / "mended")))
        with pytest.raises(RunError, match="LookupError: cannot"):
            run(node, executor=executor)
        (tmp_path / "mended").touch()
        assert run(node, executor=executor)[0].metrics == {"mended": 1}
        names = [*executor.artifacts.store.list(f"{folder_of(node)}/")]
        assert len(names) == 2, "the files of the attempt that failed are still there"

    def test_goes_on_from_a_checkpoint(
        self, executor: Executor, label: str, log: Path, tmp_path: Path
    ) -> None:
        """A stage that failed goes on behind its newest checkpoint, and loses no report."""
        gates = [tmp_path / f"step-{step}" for step in (1, 2, 3, 4)]
        node = count(
            Counting(label=label, to=4, first=10, log=str(log), gate=str(tmp_path / "step-"))
        )
        for gate in gates:
            gate.touch()
        gates[2].write_text("stumble")
        with pytest.raises(RunError, match="RuntimeError: stumble"):
            run(node, executor=executor)
        assert executor.artifacts.manifest(node) is None
        gates[2].write_text("")
        manifest = run(node, executor=executor)[0]
        assert manifest.metrics == {"value": 14}
        assert manifest.resumed_from == (2,)
        assert [report.step for report in manifest.reports] == [1, 2, 3, 4]
        assert [line.split()[1] for line in noted(log)] == ["1", "2", "3", "3", "4"]
        names = {name.split("/")[2] for name in executor.artifacts.store.list(folder_of(node))}
        assert names == {"manifest.json", manifest.files[0].attempt}, "checkpoints are left"

    def test_events(self, executor: Executor, label: str) -> None:
        """They come in order, and a report before the end."""
        node = count(Counting(label=label, to=2))
        events: list[Event] = []
        executor.run([node], events.append)
        mine = [event for event in events if event.key == node.key]
        assert {event.stage for event in mine} == {"count"}
        kinds = [event.kind for event in mine if event.kind is not Kind.PROGRESS]
        assert kinds == [Kind.STARTED, Kind.REPORT, Kind.REPORT, Kind.FINISHED]
        assert [e.metrics for e in mine if e.kind is Kind.REPORT] == [{"value": 1}, {"value": 2}]
        assert [(e.done, e.total) for e in mine if e.kind is Kind.PROGRESS][-1] == (2, 2)
        assert mine[-1].metrics == {"value": 2}

    @pytest.mark.parametrize("text", ["inf", "-inf"])
    def test_infinite_metric(self, executor: Executor, label: str, text: str) -> None:
        """A metric that is infinite is a mistake of the stage."""
        with pytest.raises(RunError, match="tell: metric value is infinite: return a finite"):
            run(tell(Telling(label=label, text=text)), executor=executor)

    def test_metric_that_is_no_number(self, executor: Executor, label: str) -> None:
        """NaN is kept as it is: the search says that the trial failed."""
        manifest = run(tell(Telling(label=label, text="nan")), executor=executor)[0]
        assert math.isnan(manifest.metrics["value"])

    def test_shards_make_one_artifact(self, executor: Executor, label: str, log: Path) -> None:
        """However many shards there are, the files together are those of one execution."""
        manifest = run(squares(Squaring(label=label, numbers=7, log=str(log))), executor=executor)[
            0
        ]
        folder = executor.artifacts.fetch(manifest) / "squares"
        found = {path.name: int(path.read_text()) for path in folder.iterdir()}
        assert found == {f"{number:04d}": number**2 for number in range(7)}
        assert manifest.shards == len(noted(log))
        assert manifest.metrics == {}

    def test_shards_tell_no_metric(self, executor: Executor, label: str) -> None:
        """Not even where a small machine has only one shard: it would not do on a large one."""
        with pytest.raises(RunError, match="declared sharded, so it cannot tell metrics"):
            run(boast(Telling(label=label)), executor=executor)

    def test_source(self, executor: Executor, label: str, tmp_path: Path) -> None:
        """A stage gets a source as it is; only what it is, not where it lies, is in the key."""
        nodes = []
        for place in ("here", "there"):
            (tmp_path / place).write_text("42")
            source = Source("number", str(tmp_path / place), {"content": 42, "label": label})
            nodes.append(copy(source, Telling(label=label)))
        manifests = run(*nodes, executor=executor)
        assert manifests[0] == manifests[1]
        assert manifests[0].metrics == {"value": 42}
        described = manifests[0].inputs["number"]
        assert described["identity"] == {"content": 42, "label": label}

    def test_stale_is_refused(self, executor: Executor, label: str, log: Path) -> None:
        """Other code under the same version: one line that says which, and what can be done."""
        old = count(Counting(label=label, log=str(log)))
        run(old, executor=executor)
        make_stale(executor.artifacts, old)
        new = squares(Squaring(label=label, log=str(log)))
        with pytest.raises(StaleError, match=r"count \(version 1\).*--on-stale=rerun.*=keep") as no:
            executor.run([add(old, new, Adding(label=label))])
        assert "\n" not in str(no.value)
        assert len(noted(log)) == 3
        assert executor.artifacts.manifest(new) is None

    def test_stale_is_kept(
        self, executor: Executor, open_executor: OpenExecutor, label: str, log: Path
    ) -> None:
        """It is used as it is, and said to be stale."""
        old = count(Counting(label=label, log=str(log)))
        total = add(old, old, Adding(label=label))
        run(old, executor=executor)
        stale = make_stale(executor.artifacts, old)
        keeping = open_executor(executor.artifacts, OnStale.KEEP)
        events: list[Event] = []
        outcomes = keeping.run([total], events.append)
        keeping.close()
        assert outcomes[old.key] == Done(stale, executed=False)
        assert isinstance(outcomes[total.key], Done)
        hits = [event.text for event in events if event.kind is Kind.HIT]
        assert hits == ["code changed under version 1"]
        assert len(noted(log)) == 3

    def test_stale_is_made_anew(
        self, executor: Executor, open_executor: OpenExecutor, label: str, log: Path
    ) -> None:
        """With all that was made from it; what is not stale stays."""
        old, fresh = count(Counting(label=label, log=str(log))), squares(Squaring(label=label))
        total = add(old, fresh, Adding(label=label, log=str(log)))
        run(total, executor=executor)
        make_stale(executor.artifacts, old)
        renewing = open_executor(executor.artifacts, OnStale.RERUN)
        outcomes = renewing.run([total])
        renewing.close()
        executed = {key for key, o in outcomes.items() if isinstance(o, Done) and o.executed}
        assert executed == {old.key, total.key}
        assert noted(log).count("add") == 2
        manifest = executor.artifacts.manifest(old)
        assert manifest is not None
        assert manifest.fingerprint == count.fingerprint
