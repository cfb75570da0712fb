"""The Ray executor: the same graphs on a cluster, with fractional GPUs, shards, and workers that may die."""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event as Flag
from threading import Thread
from typing import Any

import ray
from ray.actor import ActorHandle

from stageflow.artifact import Artifacts
from stageflow.coordinator_ray import Coordinator
from stageflow.executor import Observer, OnStale, Outcome, ignore
from stageflow.fingerprint import project_packages
from stageflow.provenance import COMMIT_VARIABLE, commit
from stageflow.stage import Node

POLL_SECONDS = 0.3


class RayExecutor:
    """Connects to the cluster of RAY_ADDRESS (or starts one on this machine) and keeps workers alive on it."""

    def __init__(
        self, artifacts: Artifacts, *, on_stale: OnStale = OnStale.ASK, cpus: int | None = None
    ) -> None:
        self.artifacts = artifacts
        self._own = not ray.is_initialized()
        if self._own:
            _connect(cpus)
        actor: Any = ray.remote(Coordinator)
        options = actor.options(num_cpus=0, max_concurrency=10_000)
        self.coordinator: ActorHandle = options.remote(artifacts, on_stale)

    def run(self, targets: Sequence[Node], observe: Observer = ignore) -> dict[str, Outcome]:
        """See `Executor.run`."""
        with self.watching(observe):
            outcomes: dict[str, Outcome] = ray.get(
                self.coordinator.run.remote(uuid.uuid4().hex, list(targets))
            )
        return outcomes

    @contextmanager
    def watching(self, observe: Observer) -> Iterator[None]:
        """Pass the coordinator's events to the observer, from a thread, as long as the block runs."""
        stop = Flag()
        seen = len(ray.get(self.coordinator.events_after.remote(0)))
        thread = Thread(target=self._follow, args=(observe, seen, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def close(self) -> None:
        """Stop the coordinator with its workers, and the cluster if this object started or joined it."""
        ray.kill(self.coordinator)
        if self._own:
            ray.shutdown()

    def _follow(self, observe: Observer, seen: int, stop: Flag) -> None:
        while True:
            last = stop.is_set()
            fresh = ray.get(self.coordinator.events_after.remote(seen))
            for event in fresh:
                observe(event)
            seen += len(fresh)
            if last:
                return
            time.sleep(POLL_SECONDS)


def _connect(cpus: int | None) -> None:
    """Join or start the cluster, and give its processes the project's code as this process has it."""
    address = os.environ.get("RAY_ADDRESS")
    local = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    ray.init(
        address=address or "local",
        runtime_env={
            "py_modules": [str(package) for package in project_packages()],
            "env_vars": {COMMIT_VARIABLE: commit()},  # a copy of the code has no repository to ask
        },
        log_to_driver=False,
        logging_level="ERROR",
        **local,
    )
