"""The executor in this process, held to the contract."""

from __future__ import annotations

import pytest

from stageflow.artifact import Artifacts
from stageflow.executor import LocalExecutor, OnStale
from stageflow.testing_executor import ExecutorContract, OpenExecutor


class TestLocalExecutor(ExecutorContract):
    @pytest.fixture
    def open_executor(self) -> OpenExecutor:
        def opened(artifacts: Artifacts, on_stale: OnStale) -> LocalExecutor:
            return LocalExecutor(artifacts, on_stale=on_stale)

        return opened
