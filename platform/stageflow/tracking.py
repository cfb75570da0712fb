"""Tracking: MLflow as a projection of what the study, the manifests and the board say.

Nothing is ever true only in MLflow. One idempotent function brings a server to what
`stageflow.runs` says that it shall hold; a sweep has it called by a thread now and then, and
`stageflow relog` calls it again whenever one likes. So a server that is away, slow or dying costs
nothing, whatever it has missed.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stageflow.artifact import Artifacts
from stageflow.redact import safe
from stageflow.run_notes import IN_THE_UI
from stageflow.runs import Lineages, Tracked, row_runs, study_run, trial_run

if TYPE_CHECKING:
    from types import TracebackType

    from stageflow.tracking_mlflow import Experiment

__all__ = ["Background", "Links", "Tracked", "Tracker", "project"]

PERIOD_SECONDS = 10.0
LOOK_SECONDS = 0.3  # between two looks at whose turn it is
TURN_SECONDS = 5.0  # how long a driver that ends waits for another one that writes
LAST_SECONDS = 30.0  # how long the end of a sweep may wait for MLflow
BROKEN_OFF_SECONDS = 5.0  # the same, for one that was stopped or failed
LONGEST_REASON = 160  # characters
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # we come again ourselves
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True, slots=True)
class Links:
    """Where a study is in MLflow: the ids of its experiment and of its parent run."""

    uri: str
    experiment: str
    run: str

    def __str__(self) -> str:
        place = safe(self.uri)
        if place.startswith("http"):
            page = f"#/experiments/{self.experiment}/runs/{self.run}"
            return f"{place.rstrip('/')}/{page}?{IN_THE_UI}"
        command = shutil.which("mlflow") or Path(sys.executable).with_name("mlflow")
        return f"run {self.run}; to open it: {command} ui --backend-store-uri {place}"


class Tracker:
    """Projects one study, again and again; what it remembers only saves requests."""

    def __init__(self, uri: str) -> None:
        """Nothing is asked of the server yet."""
        self.uri = uri
        self._experiment: Experiment | None = None
        self._shown: dict[str, object] = {}

    def project(self, tracked: Tracked, artifacts: Artifacts) -> Links:
        """Bring the server to what is tracked. Raises what MLflow or the store raise."""
        try:
            return self._project(tracked, artifacts)
        except BaseException:
            self._experiment = None  # who knows what went through: the next call looks again
            self._shown.clear()
            raise

    def _project(self, tracked: Tracked, artifacts: Artifacts) -> Links:
        experiment = self._experiment = self._experiment or _open(self.uri, tracked.experiment)
        lineages = Lineages(artifacts)
        parent = experiment.write(study_run(tracked, lineages, experiment.id), artifacts)
        for trial in tracked.trials:
            if self._is_news(f"trial {trial.number}", (trial, tracked.pictures.get(trial.number))):
                experiment.write(trial_run(tracked, trial, lineages).under(parent), artifacts)
        for row in tracked.rows:
            if self._is_news(f"row {row.key}", row):
                for run in row_runs(tracked, row, lineages):
                    experiment.write(run.under(parent), artifacts)
        return Links(self.uri, experiment.id, parent)

    def _is_news(self, name: str, told: object) -> bool:
        before = self._shown.get(name)
        self._shown[name] = told
        return before != told


def project(tracked: Tracked, artifacts: Artifacts, uri: str) -> Links:
    """Bring the server at `uri` to what is tracked, once. Raises what MLflow or the store raise."""
    return Tracker(uri).project(tracked, artifacts)


@dataclass(slots=True)
class Background:
    """Keeps MLflow up to date from a thread while its block runs, and never fails or delays that.

    Attributes:
        latest: what to show now; called in the thread.
        is_mine: whether it is for this driver to write, of several: two at once would make each run
            twice. Called in the thread.
        say: told once, in one line, while the block runs, when MLflow cannot be written.
        problem: that line as it was last time; empty if all went well.
        links: where the study is, once it is there.
    """

    latest: Callable[[], Tracked]
    artifacts: Artifacts
    uri: str
    is_mine: Callable[[], bool] = lambda: True
    period: float = PERIOD_SECONDS
    turn: float = TURN_SECONDS
    patience: float = LAST_SECONDS
    haste: float = BROKEN_OFF_SECONDS
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)
    problem: str = field(default="", init=False)
    links: Links | None = field(default=None, init=False)
    _told: bool = field(default=False, init=False)
    _over: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Background:
        self._thread = threading.Thread(target=self._keep_up, name="tracking", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Have it written a last time; wait for `patience` seconds, on an error `haste`."""
        self._over.set()
        self._thread.join(self.patience if error is None else self.haste)
        if self._thread.is_alive():
            self._complain(f"not done after {self.patience:g} s")

    @property
    def complete(self) -> bool:
        """After the block: whether MLflow has everything."""
        return not self._thread.is_alive() and not self.problem

    def verdict(self) -> str:
        """After the block: one line that says where the study is in MLflow, or why it is not."""
        if not self.complete:
            return self.problem
        return f"MLflow: {self.links or 'another driver of this study writes it'}"

    def _keep_up(self) -> None:
        tracker = Tracker(self.uri)
        over = False
        while not over:
            over = self._over.is_set()  # asked first, so that the last round sees the last change
            went_well = not self.problem
            self._round(tracker, self.turn if over else 0.0)
            if over and self.problem and went_well:  # somebody may have been at it meanwhile
                self._round(tracker, 0.0)
            if not over:
                self._over.wait(self.period)

    def _round(self, tracker: Tracker, turn: float) -> None:
        """Write it if it is ours to write, be it after a wait of `turn` seconds."""
        until = time.monotonic() + turn
        try:
            while not self.is_mine():
                if time.monotonic() >= until:
                    return
                time.sleep(LOOK_SECONDS)
            self.links = tracker.project(self.latest(), self.artifacts)
            self.problem = ""
        except Exception as error:  # a sweep goes on: MLflow holds nothing of its own
            self._complain(root_cause(error))

    def _complain(self, reason: str) -> None:
        self.problem = (
            f"MLflow at {safe(self.uri)} is not up to date ({safe(reason)[:LONGEST_REASON]}): "
            "nothing is lost; `stageflow relog` writes it later"
        )
        if not self._told and not self._over.is_set():  # at the end the verdict says it
            self._told = True
            self.say(self.problem)


def root_cause(error: BaseException) -> str:
    """The root of an error in one line; our own errors say it themselves."""
    package = __name__.partition(".")[0]
    while not type(error).__module__.startswith(package):
        deeper = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if deeper is None:
            break
        error = deeper
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _open(uri: str, experiment: str) -> Experiment:
    """The experiment, by an MLflow that is quiet and gives up soon unless the user wishes else."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from stageflow.tracking_mlflow import Experiment  # takes seconds, and reads the environment

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return Experiment(uri, experiment)
