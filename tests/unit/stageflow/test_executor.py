"""The executor in this process, held to the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from stageflow.artifact import Artifacts
from stageflow.executor import LocalExecutor, OnStale, run
from stageflow.store import FolderStore
from stageflow.testing_executor import (
    Adding,
    Counting,
    ExecutorContract,
    OpenExecutor,
    add,
    count,
)


class TestLocalExecutor(ExecutorContract):
    @pytest.fixture
    def open_executor(self) -> OpenExecutor:
        def opened(artifacts: Artifacts, on_stale: OnStale) -> LocalExecutor:
            return LocalExecutor(artifacts, on_stale=on_stale)

        return opened


def test_forgetting_forgets_what_was_made_from_it(tmp_path: Path) -> None:
    """Else a child of a remade artifact would be a hit although it was made from the old one."""
    artifacts = Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache")
    left, right = count(Counting(label="left", to=1)), count(Counting(label="right", to=1))
    total = add(left, right, Adding(label="total"))
    made = {m.key: m for m in run(left, right, total, executor=LocalExecutor(artifacts))}
    artifacts.withdraw(made[left.key])
    assert artifacts.manifest(left) is None
    assert artifacts.manifest(total) is None
    assert artifacts.manifest(right) == made[right.key]
    assert not list(artifacts.store.list(f"{total.name}/{total.key}/"))
