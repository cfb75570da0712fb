"""The plan: hit, run, stale or blocked, and what it will cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stageflow.artifact import Artifacts, Manifest, folder_of
from stageflow.executor import LocalExecutor, run
from stageflow.plan import EXAMPLES, Plan, Status, excess, plan
from stageflow.stage import Needs, Node
from stageflow.store import FolderStore
from stageflow.testing_executor import make_stale
from stageflow.testing_stages import Adding, Counting, add, count


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
def made(artifacts: Artifacts) -> LocalExecutor:
    return LocalExecutor(artifacts)


LEFT, RIGHT = (count(Counting(label=label, to=1)) for label in ("left", "right"))
SUM = add(LEFT, RIGHT, Adding(label="sum"))
TOP = add(SUM, LEFT, Adding(label="top"))


def statuses(found: Plan) -> dict[str, Status]:
    names = {LEFT.key: "left", RIGHT.key: "right", SUM.key: "sum", TOP.key: "top"}
    return {names[step.node.key]: step.status for step in found.steps}


def test_nothing_is_there(artifacts: Artifacts) -> None:
    found = plan(TOP, artifacts=artifacts)
    assert statuses(found) == dict.fromkeys(("left", "right", "sum", "top"), Status.RUN)
    assert [step.node for step in found.steps] == [LEFT, RIGHT, SUM, TOP]
    assert found.seconds is None


def test_some_is_there(artifacts: Artifacts, made: LocalExecutor) -> None:
    run(SUM, executor=made)
    found = plan(TOP, TOP, artifacts=artifacts)
    assert statuses(found) == {
        "left": Status.HIT,
        "right": Status.HIT,
        "sum": Status.HIT,
        "top": Status.RUN,
    }
    assert [step.node for step in found.of(Status.RUN)] == [TOP]
    assert found.steps[0].manifest == artifacts.manifest(LEFT)


def test_stale(artifacts: Artifacts, made: LocalExecutor) -> None:
    """What other code has made is said to be; on request, it is made anew with all behind it."""
    run(TOP, executor=made)
    make_stale(artifacts, RIGHT)
    kept = plan(TOP, artifacts=artifacts)
    assert statuses(kept) == {
        "left": Status.HIT,
        "right": Status.STALE,
        "sum": Status.HIT,
        "top": Status.HIT,
    }
    assert kept.steps[1].reason == "code changed under version 1"
    renewed = plan(TOP, artifacts=artifacts, remake=True)
    assert statuses(renewed) == {
        "left": Status.HIT,
        "right": Status.RUN,
        "sum": Status.RUN,
        "top": Status.RUN,
    }
    assert all(step.manifest is not None for step in renewed.steps), "what is to be withdrawn"


def needing(needs: Needs) -> Node:
    return replace(count, needs=needs)(Counting(label="left", to=1))


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Needs(cpus=8), "needs 8 CPU cores, the largest node has 4"),
        (Needs(gpus=1), "needs 1 GPUs, the largest node has 0.5"),
        (Needs(memory=200), "needs 200 bytes of memory, the largest node has 100"),
        (Needs(cpus=4, gpus=0.5, memory=100), ""),
    ],
)
def test_blocked(artifacts: Artifacts, needs: Needs, reason: str) -> None:
    """By what no machine can give, with all that depends on it; other branches run."""
    capacity = Needs(cpus=4, gpus=0.5, memory=100)
    assert excess(needs, capacity) == reason
    large = needing(needs)
    top = add(add(large, RIGHT, Adding(label="sum")), RIGHT, Adding(label="top"))
    found = plan(top, artifacts=artifacts, capacity=capacity)
    if not reason:
        assert not found.of(Status.BLOCKED)
        return
    assert [step.node for step in found.of(Status.RUN)] == [RIGHT]
    assert [step.reason for step in found.of(Status.BLOCKED)] == [
        reason,
        "waits for count, which is blocked",
        "waits for add, which is blocked",
    ]


def test_what_is_there_is_not_blocked(artifacts: Artifacts, made: LocalExecutor) -> None:
    run(LEFT, executor=made)
    large = needing(Needs(cpus=1000))
    found = plan(large, artifacts=artifacts, capacity=Needs(cpus=1))
    assert [step.status for step in found.steps] == [Status.HIT]


class TestCost:
    def costing(self, artifacts: Artifacts, seconds: list[float], stage: str = "count") -> None:
        """Let there be artifacts of a stage that took so long."""
        executor = LocalExecutor(artifacts)
        like = run(count(Counting(label="like", to=1)), executor=executor)[0]
        artifacts.withdraw(like)
        for number, wall in enumerate(seconds):
            found = replace(like, key=f"{number:020}", stage=stage, wall_seconds=wall)
            name = f"{stage}/{found.key}/manifest.json"
            artifacts.store.create(name, found.to_json())

    def test_is_that_of_the_stage_before(self, artifacts: Artifacts) -> None:
        """The median: one run on a slow machine says little."""
        self.costing(artifacts, [10.0, 11.0, 500.0])
        found = plan(LEFT, RIGHT, artifacts=artifacts)
        assert [step.seconds for step in found.steps] == [11.0, 11.0]
        assert found.seconds == 22.0

    def test_is_unknown_if_any_is(self, artifacts: Artifacts) -> None:
        self.costing(artifacts, [10.0])
        assert plan(SUM, artifacts=artifacts).seconds is None

    def test_what_is_there_costs_nothing(self, artifacts: Artifacts, made: LocalExecutor) -> None:
        run(SUM, executor=made)
        assert plan(SUM, artifacts=artifacts).seconds == 0

    def test_reads_few_manifests(
        self, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each is a request to the store: a plan may not take longer with every run."""
        self.costing(artifacts, [10.0] * (EXAMPLES + 20))
        read: list[str] = []
        from_json = Manifest.from_json

        def counting(data: bytes, where: str) -> Manifest:
            read.append(where)
            return from_json(data, where)

        monkeypatch.setattr(Manifest, "from_json", counting)
        assert plan(LEFT, RIGHT, artifacts=artifacts).seconds == 20.0
        assert len(read) == EXAMPLES


def test_as_text(artifacts: Artifacts, made: LocalExecutor) -> None:
    """A line for each node, and the sum."""
    assert str(plan(LEFT, artifacts=artifacts)) == (
        f"run     count  {LEFT.key}    unknown\n1 to run, unknown"
    )
    run(LEFT, executor=made)
    slow = replace(made.run([LEFT])[LEFT.key].manifest, wall_seconds=600.0)  # type: ignore[union-attr]
    artifacts.store.delete([f"{folder_of(LEFT)}/manifest.json"])
    artifacts.store.create(f"{folder_of(LEFT)}/manifest.json", slow.to_json())
    lines = str(plan(LEFT, RIGHT, artifacts=artifacts)).splitlines()
    assert lines[0] == f"hit     count  {LEFT.key}"
    assert lines[1] == f"run     count  {RIGHT.key}  about 10 min"
    assert lines[2] == "1 to run, about 10 min"
    make_stale(artifacts, LEFT)
    lines = str(plan(LEFT, artifacts=artifacts)).splitlines()
    assert lines[0].split(maxsplit=3)[0::3] == ["stale", "code changed under version 1"]
    assert lines[1] == "0 to run"
