"""The study: an Optuna study as the one record of what a sweep asked and what came out.

Ray Tune, MLflow and the console are fed from it, never the other way round, so a killed driver
loses nothing: the same command again claims the study, tells the trials that died with the old
driver that they failed, asks for the same parameters again, and goes on.

States are told truthfully: COMPLETE has the final value, PRUNED was stopped on the way, FAIL has a
reason, and a value that is not a number is a FAIL. (Optuna's heartbeats do not work with ask and
tell, hence the lease.)
"""

import contextlib
import math
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from stageflow.redact import safe

BEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
SETTLE_SECONDS = 0.3
LOST = "the driver died"

Params = TypeVar("Params")


class StudyError(RuntimeError):
    """The study cannot be used now; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Proposal(Generic[Params]):
    """Parameters to try, under the number of their trial."""

    number: int
    params: Params


@dataclass(frozen=True, slots=True)
class Completed:
    """The trial ran to its end; `target` is the artifact with the value, as "<stage>/<key>"."""

    value: float
    target: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """The scheduler stopped the trial after `step` reports, the last of which was `value`."""

    value: float
    step: int
    target: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """The trial failed, for a reason told in one line."""

    reason: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """What the study knows of one trial; `started` and `finished` are Unix seconds."""

    number: int
    state: str
    params: Mapping[str, Any]
    value: float | None
    target: str
    reason: str
    started: float | None
    finished: float | None


class Study(Generic[Params]):
    """Asks Optuna for parameters of one sweep, and tells it what came of them."""

    def __init__(
        self,
        name: str,
        url: str,
        *,
        space: Callable[[optuna.Trial], Params],
        maximise: bool = True,
        seed: int = 0,
    ) -> None:
        """Open or create the study `name` in the storage `url`.

        That is a SQLAlchemy URL, or the path of a journal file. Raises StudyError if there is none.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name = name
        self.space = space
        self._direction = StudyDirection.MAXIMIZE if maximise else StudyDirection.MINIMIZE
        self._taken = False
        try:
            self._study = optuna.create_study(
                study_name=name,
                storage=_storage(url),
                direction=self._direction,
                load_if_exists=True,
            )
        except Exception as error:
            raise StudyError(safe(f"no study storage at {url}: {_first_line(error)}")) from error
        # With the same seed, a sampler would propose an existing study's first parameters again.
        self._study.sampler = _sampler(seed + len(self._study.get_trials(deepcopy=False)))

    def ask(self) -> Proposal[Params]:
        """The next parameters: queued ones first, else what the sampler proposes.

        Raises StudyError once another driver has taken the study over.
        """
        if self._taken:
            raise StudyError(f"another driver has taken over {self.name}: this one was silent")
        trial = self._study.ask()
        return Proposal(trial.number, self.space(trial))

    def tell(self, number: int, result: Completed | Pruned | Broken) -> None:
        """Close a trial. A completed value that is no number counts as failed."""
        frozen = self._study.get_trials(deepcopy=False)[number]
        trial = optuna.Trial(self._study, frozen._trial_id)
        if isinstance(result, Completed) and not math.isfinite(result.value):
            result = Broken(f"the objective is {result.value}", result.target)
        if result.target:
            trial.set_user_attr("target", result.target)
        if isinstance(result, Completed):
            self._study.tell(trial, result.value)
        elif isinstance(result, Pruned):
            if math.isfinite(result.value):
                trial.report(result.value, result.step)
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr("reason", result.reason)
            self._study.tell(trial, state=TrialState.FAIL)

    def enqueue(self, params: Params) -> None:
        """Have `params` (a dataclass whose fields are named as in the space) tried first.

        Once, or again if all that came of it was a failure.
        """
        wanted = asdict(params)  # type: ignore[call-overload]
        if not any(
            trial.state is not TrialState.FAIL and _asked(trial) == wanted
            for trial in self._study.get_trials(deepcopy=False)
        ):
            self._study.enqueue_trial(wanted)

    def reconcile(self) -> int:
        """Fail the trials that an earlier driver left running, and queue their parameters again.

        Returns how many. In this order, so that nothing is lost if this driver dies in between.
        """
        lost = [t for t in self._study.get_trials(deepcopy=False) if t.state is TrialState.RUNNING]
        for trial in lost:
            params = _asked(trial)
            if params:
                self._study.enqueue_trial(params)
            self.tell(trial.number, Broken(LOST))
        return len(lost)

    def trials(self) -> list[Trial]:
        """All trials that were started, oldest first."""
        return [
            _record(trial)
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state is not TrialState.WAITING
        ]

    def spent(self) -> int:
        """How many trials count: all that ended, but not those lost with a driver.

        None does as long as all have failed: then something is wrong that is no trial's fault (a
        file, the store), and once it is mended the same command shall try again.
        """
        ended = [t for t in self.trials() if t.state != "RUNNING" and t.reason != LOST]
        return len(ended) if any(t.state != "FAIL" for t in ended) else 0

    def best(self) -> Trial | None:
        """The completed trial with the best value, the earliest of equals."""
        completed = [t for t in self.trials() if t.state == "COMPLETE" and t.value is not None]
        sign = 1 if self._study.direction is StudyDirection.MAXIMIZE else -1
        return max(completed, key=lambda t: sign * (t.value or 0.0), default=None)

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON value with the study."""
        self._study.set_user_attr(name, value)

    def notes(self) -> Mapping[str, Any]:
        """All values kept with the study."""
        return self._study.user_attrs

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the study as its one driver.

        Raises StudyError where a living driver has it, or it was made for the other direction.
        """
        direction = self._study.direction
        if direction is not self._direction:
            found = direction.name.lower()
            raise StudyError(
                f"study {self.name} is there to {found}: give this one another --study"
            )
        mine = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
        self._refuse_living_driver()
        self.note("driver", {**mine, "beat": time.time()})
        time.sleep(SETTLE_SECONDS)  # of two that start at once, the later overwrites the other
        if self._holder().get("id") != mine["id"]:
            self._refuse_living_driver()
        stop = threading.Event()
        beating = threading.Thread(target=self._beat, args=(mine, stop), daemon=True)
        beating.start()
        try:
            yield
        finally:
            stop.set()
            beating.join()
            if self._holder().get("id") == mine["id"]:
                self.reconcile()  # what an orderly stop leaves open
                self.note("driver", None)

    def _beat(self, mine: Mapping[str, Any], stop: threading.Event) -> None:
        while not stop.wait(BEAT_SECONDS):
            # A storage that is too busy to answer now may do so at the next beat.
            with contextlib.suppress(StorageInternalError, OSError):
                if self._holder().get("id") != mine["id"]:  # we slept, and seemed to be dead
                    self._taken = True
                    return
                self.note("driver", {**mine, "beat": time.time()})

    def _holder(self) -> Mapping[str, Any]:
        return self.notes().get("driver") or {}

    def _refuse_living_driver(self) -> None:
        holder = self._holder()
        if not holder:
            return
        age = time.time() - holder["beat"]
        dead_here = holder["host"] == socket.gethostname() and not _is_alive(holder["pid"])
        if age < LEASE_SECONDS and not dead_here:
            raise StudyError(
                f"sweep {self.name} is being driven by process {holder['pid']} on "
                f"{holder['host']} (last sign of life {age:.0f} s ago): wait for it, stop it, or "
                "give this one another --study"
            )


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def study_names(url: str) -> list[str]:
    """Names of all studies in a storage."""
    return optuna.get_all_study_names(_storage(url))


def _storage(url: str) -> optuna.storages.BaseStorage:
    if "://" in url:
        return optuna.storages.RDBStorage(url)
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    return JournalStorage(JournalFileBackend(url))


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # group: spaces may be conditional (parameters of a stage exist only if it is chosen)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)


def _asked(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters of a trial, as far as they are known: those that it was queued with, too."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _record(trial: FrozenTrial) -> Trial:
    return Trial(
        number=trial.number,
        state=trial.state.name,
        params=trial.params,
        value=trial.value if trial.state is TrialState.COMPLETE else None,
        target=trial.user_attrs.get("target", ""),
        reason=trial.user_attrs.get("reason", ""),
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        finished=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
