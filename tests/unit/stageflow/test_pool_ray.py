"""What a Ray worker does before it executes anything; the pool itself is tested on a cluster."""

from pathlib import Path

from stageflow.artifact import Artifacts
from stageflow.context import Shard
from stageflow.executor import Failed
from stageflow.pool_ray import Worker
from stageflow.store import FolderStore
from stageflow.testing_executor import Counting, count


def test_a_machine_that_sees_another_folder_says_so(tmp_path: Path) -> None:
    """A folder that is not shared: results would go where nobody finds them."""
    drivers = Artifacts(FolderStore(tmp_path / "driver"), tmp_path / "cache")
    drivers.store.create("drivers/token", b"here")
    elsewhere = Artifacts(FolderStore(tmp_path / "elsewhere"), tmp_path / "cache")
    worker = Worker(elsewhere, None, "drivers/token")
    outcome = worker.execute(count(Counting(label="pool", to=1)), Shard(), "cpu")
    assert isinstance(outcome, Failed)
    assert "give a store that all machines reach" in outcome.reason
    assert not list(elsewhere.store.list(""))
