"""The Ray executor: the same graphs on a cluster, with GPU shares, shards, workers that may die."""

import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event as Flag
from threading import Thread
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stageflow.artifact import Artifacts
from stageflow.claim import new_driver
from stageflow.coordinator_ray import Coordinator
from stageflow.executor import Event, Observer, OnStale, Outcome, ignore, refuse_stale
from stageflow.fingerprint import project_packages
from stageflow.machines_ray import VARIABLE, startable
from stageflow.plan import plan
from stageflow.pool_ray import Handle
from stageflow.provenance import COMMIT_VARIABLE, commit
from stageflow.stage import Node
from stageflow.store import StoreError

POLL_SECONDS = 0.3


class CoordinatorError(RuntimeError):
    """The coordinator is no more, and nothing goes on without it."""

    def __init__(self) -> None:
        super().__init__(
            "the coordinator died (out of memory on the driver's machine, perhaps): the same "
            "command goes on from here"
        )


class RayExecutor:
    """Keeps workers on the cluster of RAY_ADDRESS, or on one that it starts on this machine."""

    def __init__(
        self,
        artifacts: Artifacts,
        *,
        on_stale: OnStale = OnStale.ASK,
        cpus: int | None = None,
        idle_seconds: float = 60.0,
    ) -> None:
        """Start or join the cluster. Raises ValueError if STAGEFLOW_MACHINES holds no machines.

        Args:
            artifacts: where to find and keep what is made.
            on_stale: what to do with artifacts that other code has made.
            cpus: cores of a cluster that is started here; None for all.
            idle_seconds: after which a worker without work gives its place back.
        """
        startable(os.environ.get(VARIABLE, ""))  # said here, rather than by what would use it
        self.artifacts = artifacts
        self.on_stale = on_stale
        self._own = not ray.is_initialized()
        if self._own:
            _connect(cpus)
        self.token = new_driver()
        artifacts.store.create(self.token, socket.gethostname().encode())
        actor: Any = ray.remote(Coordinator)
        # Beside the driver: on a machine that may be preempted it would take the sweep with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = actor.options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)
        self.coordinator: Handle = options.remote(artifacts, on_stale, self.token, idle_seconds)

    def run(self, targets: Sequence[Node], observe: Observer = ignore) -> dict[str, Outcome]:
        """See `Executor.run`. Raises CoordinatorError."""
        if self.on_stale is OnStale.ASK:
            refuse_stale(plan(*targets, artifacts=self.artifacts))
        demand = uuid.uuid4().hex
        with self.watching(observe):
            made: ray.ObjectRef[dict[str, Outcome]]
            made = self.coordinator.run.remote(demand, list(targets))
            try:
                return ray.get(made)
            except RayActorError as error:
                raise CoordinatorError from error
            finally:
                self.coordinator.release.remote(demand)

    @contextmanager
    def watching(self, observe: Observer) -> Iterator[None]:
        """Pass the coordinator's events to the observer, from a thread, while the block runs."""
        stop = Flag()
        so_far: ray.ObjectRef[int] = self.coordinator.events_so_far.remote()
        thread = Thread(target=self._follow, args=(observe, ray.get(so_far), stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def close(self) -> None:
        """Stop the coordinator with its workers, and leave the cluster if this object joined it."""
        ray.kill(self.coordinator)
        with suppress(StoreError):  # then others see by its silence that this driver has ended
            self.artifacts.store.delete([self.token])
        if self._own:
            ray.shutdown()

    def _follow(self, observe: Observer, seen: int, stop: Flag) -> None:
        while True:
            last = stop.is_set()
            fresh: ray.ObjectRef[list[Event]] = self.coordinator.events_after.remote(seen)
            try:
                events = ray.get(fresh)
            except RayActorError:  # it died; who waits for its work says so
                return
            for event in events:
                observe(event)
                seen += 1
            if last:
                return
            stop.wait(POLL_SECONDS)


def _connect(cpus: int | None) -> None:
    """Join or start the cluster, and give its processes the code as this process has it."""
    address = os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=address or "local",
        runtime_env={
            "py_modules": [str(package) for package in project_packages()],
            "env_vars": {COMMIT_VARIABLE: commit()},  # a copy of the code has no repository to ask
        },
        log_to_driver=False,
        logging_level=logging.ERROR,
        **local,
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler ends the process on the spot
