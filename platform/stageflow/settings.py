"""Settings: where artifacts, studies and runs live, and what executes.

They come from flags, else from the environment. With nothing set, everything lies in ~/.stageflow
(or STAGEFLOW_HOME): a folder of artifacts, SQLite files for Optuna and MLflow, and a read cache. On
a cluster of several machines give a store that all of them reach.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stageflow.artifact import Artifacts
from stageflow.store import Store, open_store


def home() -> Path:
    """The platform's own folder: STAGEFLOW_HOME, else ~/.stageflow."""
    return Path(os.environ.get("STAGEFLOW_HOME") or "~/.stageflow").expanduser().absolute()


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Where a sweep runs and keeps things. None of it can change a result."""

    store: str = field(
        default_factory=lambda: os.environ.get("STAGEFLOW_STORE") or str(home() / "store"),
        metadata={"help": "artifacts and leaderboards: a folder, or s3://bucket/prefix"},
    )
    studies: str = field(
        default_factory=lambda: (
            os.environ.get("STAGEFLOW_STUDIES") or f"sqlite:///{home()}/studies.db"
        ),
        metadata={
            "help": "Optuna storage: sqlite:///..., postgresql+psycopg2://..., or a journal file"
        },
    )
    tracking: str = field(
        default_factory=lambda: (
            os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home()}/mlflow.db"
        ),
        metadata={"help": "MLflow: a server's address, sqlite:///..., or none"},
    )
    executor: Literal["ray", "local"] = field(
        default="ray",
        metadata={"help": "ray: RAY_ADDRESS's cluster, or one started here; local: this process"},
    )
    on_stale: Literal["ask", "rerun", "keep"] = field(
        default="ask", metadata={"help": "artifacts whose code has changed under the same version"}
    )
    concurrent: int = field(
        default=0, metadata={"help": "trials at the same time; 0: as many as fit"}
    )
    study: str | None = field(
        default=None, metadata={"help": "another name for the study than the usual one"}
    )

    def __post_init__(self) -> None:
        if self.concurrent < 0:
            raise ValueError(
                f"concurrent is {self.concurrent}: give zero or more trials at the same time"
            )

    def open_store(self) -> Store:
        """The store; raises StoreError where it cannot be reached."""
        return open_store(self.store)

    def artifacts(self) -> Artifacts:
        """The store's artifacts, read through the cache in the platform's folder."""
        return Artifacts(self.open_store(), home() / "cache")
