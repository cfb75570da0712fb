"""What a group consists of, how its end is told, and what it leaves behind."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import PlacementGroupID
from ray.exceptions import RayActorError
from ray.train import ControllerError, WorkerGroupError
from ray.util.placement_group import PlacementGroup

from stageflow import group_ray
from stageflow.artifact import Part
from stageflow.executor import Failed, failure
from stageflow.group_ray import (
    Interrupted,
    RankFailed,
    Work,
    _outcome,
    _scratch,
    free_rooms,
    in_group,
    ranks,
    share,
)
from stageflow.stage import Needs

OWN = Failed("LookupError: no such", "Traceback ...\nLookupError: no such\n")
CANCELLED = Failed("nobody wants it", cancelled=True)
DIED = RayActorError()


def lost(text: str) -> Failed:
    return Failed(text, f"Traceback ...\n{text}\n")


GLOO = lost("RuntimeError: [/pytorch/third_party/gloo/gloo/pair.cc:561] Connection closed by peer")
NCCL = lost("torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690")


@pytest.mark.parametrize(
    ("needs", "count", "each"),
    [
        (Needs(cpus=2), 1, Needs(cpus=2)),
        (Needs(cpus=2, gpus=0.5), 1, Needs(cpus=2, gpus=0.5)),
        (Needs(cpus=2, gpus=1, memory=9), 1, Needs(cpus=2, gpus=1, memory=9)),
        (Needs(cpus=2, gpus=4, memory=9), 4, Needs(cpus=0.5, gpus=1, memory=2)),
    ],
)
def test_ranks(needs: Needs, count: int, each: Needs) -> None:
    """One for each whole GPU, with an equal share of everything."""
    assert ranks(needs) == count
    assert share(needs) == each


def test_a_failure_travels() -> None:
    failed = Failed("LookupError: no such", "Traceback ...")
    assert pickle.loads(pickle.dumps(RankFailed(failed))).failed == failed


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ({1: OWN}, OWN),
        ({2: lost("ValueError: two"), 1: OWN}, OWN),
        ({0: OWN, 1: DIED}, Interrupted("rank 1 of the group died")),
        ({1: CANCELLED}, CANCELLED),
        ({0: CANCELLED, 1: GLOO}, CANCELLED),
        ({0: CANCELLED, 1: OWN}, CANCELLED),
        ({0: GLOO, 1: OWN}, OWN),
        ({0: NCCL, 1: OWN}, OWN),
        ({1: GLOO}, Interrupted(f"a rank lost the others: {GLOO.reason}")),
        ({1: NCCL, 0: GLOO}, Interrupted(f"a rank lost the others: {GLOO.reason}")),
        ({0: GLOO, 1: DIED}, Interrupted("rank 1 of the group died")),
    ],
)
def test_the_end_of_a_group(ends: Mapping[int, Any], outcome: Failed | Interrupted) -> None:
    """What a rank does to itself counts for more than what others do to it, a death for all."""
    failures = {
        rank: RankFailed(end) if isinstance(end, Failed) else end for rank, end in ends.items()
    }
    assert _outcome(failures) == outcome


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        ("torch.distributed.DistNetworkError: The client socket has timed out", True),
        ("RuntimeError: NCCL communicator was aborted on rank 1", True),
        ("RuntimeError: CUDA error: out of memory", False),
        ("ValueError: no folder gloo", False),
    ],
)
def test_an_error_of_an_exchange_is_known_by_its_text(error: str, is_lost: bool) -> None:
    assert isinstance(_outcome({0: RankFailed(lost(error))}), Interrupted) == is_lost


def test_the_error_of_an_exchange_under_another_s_name() -> None:
    """A stage may have raised its own for it."""
    torch_s = type("DistBackendError", (RuntimeError,), {"__module__": "torch.distributed"})
    own = ValueError("the step failed")
    own.__cause__ = torch_s("NCCL error")
    assert isinstance(_outcome({0: RankFailed(failure(own))}), Interrupted)


def work(device: str, rank: int, count: int) -> Part | Failed:
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ControllerError(ValueError("no such\nstorage")), "ValueError: no such"),
        (ControllerError(RayActorError()), "RayActorError: The actor experienced an error"),
        (RayActorError(), "RayActorError: The actor experienced an error"),
    ],
)
def test_a_group_without_ranks(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    """What Ray Train itself cannot do is tried again; its reason is told in one line."""
    outcome = ended(monkeypatch, error)
    assert isinstance(outcome, Interrupted)
    assert outcome.reason.startswith(f"the group did not come about: {reason}")
    assert "\n" not in outcome.reason


def test_a_group_with_a_rank_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(monkeypatch, WorkerGroupError("", {1: RankFailed(OWN)})) == OWN


def ended(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Part | Failed | Interrupted:
    def trainer(work: Work, needs: Needs, storage: str) -> Any:
        def fit() -> None:
            raise error

        return SimpleNamespace(fit=fit)

    monkeypatch.setattr(group_ray, "_trainer", trainer)
    return in_group(work, Needs(gpus=2))


def test_scratch_of_the_dead_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And that of nobody else: not of the living, not of another machine's processes."""
    here = tmp_path / "here"
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    host = f"stageflow-{socket.gethostname()}"
    dead = here / f"{host}-{process.pid}-abc"
    kept = [
        here / f"{host}-{os.getppid()}-abc",
        here / f"{host}-1-abc",
        here / f"stageflow-elsewhere-{process.pid}-abc",
        here / f"{host}-{process.pid}-1-abc",
        here / f"{host}-notes",
    ]
    for folder in (dead, *kept):
        (folder / "inside").mkdir(parents=True)
    with _scratch() as mine:
        assert Path(mine).name.startswith(f"{host}-{os.getpid()}-")
        assert {*here.iterdir()} == {*kept, Path(mine)}
    assert {*here.iterdir()} == {*kept}


def test_what_is_left_of_a_group_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this job, for such needs, and nobody's that is known."""
    job, other = "01000000", "02000000"
    ours: Sequence[Mapping[str, float]] = [{"CPU": 0.3333, "GPU": 1.0}] * 3
    table = {
        "aa" * 14 + job: ("PENDING", ours),
        "ab" * 14 + job: ("CREATED", ours),
        "ac" * 14 + job: ("CREATED", ours),  # known
        "ad" * 14 + job: ("REMOVED", ours),
        "ae" * 14 + job: ("PENDING", ours[:2]),
        "af" * 14 + job: ("PENDING", [{"CPU": 0.3333}] * 3),
        "ba" * 14 + job: ("PENDING", [{"CPU": 1.0, "GPU": 1.0}] * 3),
        "bb" * 14 + other: ("PENDING", ours),
    }
    removed: list[PlacementGroup] = []
    monkeypatch.setattr(group_ray, "remove_placement_group", removed.append)
    monkeypatch.setattr(
        group_ray,
        "placement_group_table",
        lambda: {
            name: {"state": state, "bundles": dict(enumerate(bundles))}
            for name, (state, bundles) in table.items()
        },
    )
    context = SimpleNamespace(get_job_id=lambda: job)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    known = PlacementGroup(PlacementGroupID(bytes.fromhex("ac" * 14 + job)))
    free_rooms(Needs(cpus=1, gpus=3), [known])
    assert [room.id.hex()[:4] for room in removed] == ["aaaa", "abab"]
