"""What the executor on Ray looks at before it starts a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from stageflow.artifact import Artifacts
from stageflow.executor_ray import RayExecutor
from stageflow.machines_ray import VARIABLE
from stageflow.store import FolderStore


def test_machines_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in one line, rather than by the first stage or inside Tune; nothing is begun."""
    monkeypatch.setenv(VARIABLE, "8:cpus=many")
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("started"))
    with pytest.raises(ValueError, match=r"^STAGEFLOW_MACHINES holds '8:cpus=many': write [^\n]*$"):
        RayExecutor(Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache"))
