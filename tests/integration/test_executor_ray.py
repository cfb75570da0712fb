"""The executor on a real Ray of this machine, held to the contract; and what only a cluster does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from stageflow.artifact import Artifacts
from stageflow.executor import Executor, OnStale
from stageflow.executor_ray import RayExecutor
from stageflow.store import FolderStore
from stageflow.testing_executor import ExecutorContract, OpenExecutor


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayExecutor]:
    """One executor for the module, which starts Ray with two cores; that takes some ten seconds."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))  # Ray writes a token there
        executor = RayExecutor(Artifacts(FolderStore(folder / "store"), folder / "cache"), cpus=2)
    yield executor
    executor.close()
    assert not ray.is_initialized()


class TestRayExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, shared: RayExecutor) -> Executor:
        return shared

    @pytest.fixture
    def open_executor(self, shared: RayExecutor) -> OpenExecutor:
        def opened(artifacts: Artifacts, on_stale: OnStale) -> RayExecutor:
            return RayExecutor(artifacts, on_stale=on_stale)

        return opened
