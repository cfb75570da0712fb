"""The study: an Optuna study as the one record of what a sweep asked and what came out.

Ray Tune, MLflow and the console are fed from it, never the other way round, so a killed driver
loses nothing: the same command again joins the study, tells the trials that died with the old
driver that they failed, asks for the same parameters again, and goes on. Several drivers may work
on one study at the same time: each marks its trials, and holds a lease by which the others see that
it lives.

States are told truthfully: COMPLETE has the final value, PRUNED was stopped on the way, FAIL has a
reason, and a value that is not a number is a FAIL.
"""

import contextlib
import math
import random
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from stageflow.liveness import Silence
from stageflow.redact import safe
from stageflow.study_lease import BEAT_SECONDS, LEASE_SECONDS, Drivers
from stageflow.study_storage import StudyError as StudyError
from stageflow.study_storage import first_line, open_storage

LOST = "the driver died"
WITHDRAWN = "withdrawn before it began: another driver had it, or had the last one"
UNCOUNTED = (LOST, WITHDRAWN)
DRIVER = "driver"  # of a trial: the id of the driver that asked for it
REQUEST = "request"  # of a queued trial: what is queued once only, though several drivers queue it
PAST = "past"  # of a study: how many of its failures count no more
BACK_OFF_SECONDS = 0.5  # at most, before two drivers reach for the last trial again

Params = TypeVar("Params")


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
        self.id = uuid.uuid4().hex[:8]
        self._direction = StudyDirection.MAXIMIZE if maximise else StudyDirection.MINIMIZE
        try:
            self._study = optuna.create_study(
                study_name=name,
                storage=open_storage(url),
                direction=self._direction,
                load_if_exists=True,
            )
        except StudyError:
            raise
        except Exception as error:
            raise StudyError(safe(f"no study storage at {url}: {first_line(error)}")) from error
        # With the same seed, a sampler would propose an existing study's first parameters again.
        self._study.sampler = _sampler(seed + len(self._all()))
        self._drivers = Drivers(self, self.id)
        self._unmarked = Silence(BEAT_SECONDS)
        self._asking = threading.RLock()

    def ask(self) -> Proposal[Params]:
        """The next parameters, however many were tried: queued ones first."""
        while True:
            proposal = self.ask_within(sys.maxsize)
            if proposal is not None:
                return proposal

    def ask_within(self, limit: int) -> Proposal[Params] | None:
        """The next parameters: queued ones first, else what the sampler proposes.

        None if, by now, `limit` trials have ended or run, or if another driver was faster. Two
        that reach for the last trial at once each see the other's, or one of them does: who sees
        too many withdraws, so that there never are.
        """
        self._drivers.show()
        with self._asking:
            if self.room(limit) <= 0:
                return None
            trial = self._study.ask()
            if self._is_twin(trial.number):
                self._close(trial, Broken(WITHDRAWN))
                return None
            if self.room(limit) < 0:
                self._queue(_asked(self._all()[trial.number]), trial.user_attrs.get(REQUEST))
                self._close(trial, Broken(WITHDRAWN))
                time.sleep(random.uniform(0, BACK_OFF_SECONDS))
                return None
            trial.set_user_attr(DRIVER, self.id)
        return Proposal(trial.number, self.space(trial))

    def tell(self, number: int, result: Completed | Pruned | Broken) -> None:
        """Close a trial. A completed value that is no number counts as failed.

        Others have closed it already if they took this driver for dead: then that stands.
        """
        trial = optuna.Trial(self._study, self._all()[number]._trial_id)
        if isinstance(result, Completed) and not math.isfinite(result.value):
            result = Broken(f"the objective is {result.value}", result.target)
        with contextlib.suppress(UpdateFinishedTrialError):
            self._close(trial, result)

    def enqueue(self, params: Params) -> None:
        """Have `params` (a dataclass whose fields are named as in the space) tried first.

        Once, or again if all that came of it was a failure.
        """
        wanted = asdict(params)  # type: ignore[call-overload]
        same = [trial for trial in self._all() if _asked(trial) == wanted]
        if all(trial.state is TrialState.FAIL for trial in same):
            self._queue(wanted, {"params": wanted, "failures": len(same)})

    def reconcile(self) -> int:
        """Fail the trials that dead drivers left running, and queue their parameters again.

        Returns how many.
        """
        return self._recover(leaving=False)

    def trials(self) -> list[Trial]:
        """All trials that were started, oldest first."""
        return [
            _record(trial)
            for trial in self._all()
            if not (trial.state is TrialState.WAITING or _is_withdrawn(trial))
        ]

    def spent(self) -> int:
        """How many trials count: all that ended, but not those lost with a driver or of the past.

        None does as long as all have failed: then something is wrong that is no trial's fault (a
        file, the store); once it is mended the same command tries again, and they are the past.
        """
        ended = self._ended()
        return 0 if _have_failed(ended) else len(ended) - self._past()

    def limit(self, trials: int) -> int:
        """How many trials may end in all, for `trials` to count."""
        return trials + self._past()

    def room(self, limit: int) -> int:
        """How many more trials may begin, for `limit` to end."""
        trials = self._all()  # once: none may end in between
        return limit - sum(_has_ended(t) or t.state is TrialState.RUNNING for t in trials)

    def is_spent(self, limit: int) -> bool:
        """Whether so many have ended."""
        return len(self._ended()) >= limit

    def elsewhere(self) -> int:
        """How many trials other drivers run."""
        return sum(trial.user_attrs.get(DRIVER) != self.id for trial in self._running())

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
    def joined(self) -> Iterator[None]:
        """Drive the study while the block runs, alone or beside others.

        Raises StudyError where it was made for the other direction.
        """
        direction = self._study.direction
        if direction is not self._direction:
            found = direction.name.lower()
            raise StudyError(
                f"study {self.name} is there to {found}: give this one another --study"
            )
        if self.is_first() and _have_failed(ended := self._ended()):
            self.note(PAST, len(ended))  # who joins means the same past
        self._drivers.enter()
        try:
            if self.others():  # who start at once would propose the same
                self._study.sampler = _sampler(int(self.id, 16))
            with self._drivers.beating(self.reconcile):
                yield
        finally:
            # Where the storage is away, others find out by the silence.
            with contextlib.suppress(StorageInternalError, StudyError, OSError):
                self._recover(leaving=True)
                self._drivers.leave()

    def others(self) -> list[str]:
        """The other drivers that live, or may, as one would call them."""
        return self._drivers.others()

    def is_first(self) -> bool:
        """Whether this is the one driver that does what one shall do for all."""
        return self._drivers.is_first()

    def _all(self) -> Sequence[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _running(self) -> list[FrozenTrial]:
        return [trial for trial in self._all() if trial.state is TrialState.RUNNING]

    def _ended(self) -> list[FrozenTrial]:
        return [trial for trial in self._all() if _has_ended(trial)]

    def _past(self) -> int:
        return int(self.notes().get(PAST, 0))

    def _close(self, trial: optuna.Trial, result: Completed | Pruned | Broken) -> None:
        if result.target:
            trial.set_user_attr("target", result.target)
        if isinstance(result, Completed):
            self._study.tell(trial, result.value, skip_if_finished=True)
        elif isinstance(result, Pruned):
            if math.isfinite(result.value):
                trial.report(result.value, result.step)
            self._study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            trial.set_user_attr("reason", result.reason)
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def _queue(self, params: Mapping[str, Any], request: Any) -> None:
        """Queue parameters; of several trials with the same request, one runs."""
        marks = None if request is None else {REQUEST: request}
        if params:
            self._study.enqueue_trial(dict(params), user_attrs=marks)

    def _is_twin(self, number: int) -> bool:
        """Whether another driver has queued the same, a little earlier."""
        *earlier, trial = self._all()[: number + 1]
        request = trial.user_attrs.get(REQUEST)
        return request is not None and any(
            other.user_attrs.get(REQUEST) == request and _reason(other) != WITHDRAWN
            for other in earlier
        )

    def _recover(self, *, leaving: bool) -> int:
        """Have the trials of dead drivers (when leaving, of this one) tried again.

        They are queued first and failed then, so that nothing is lost if this driver dies in
        between; a second time does not queue them twice.
        """
        with self._asking:
            running = self._running()  # before the leases: who asks has got one by then
            living, dead = self._drivers.look()
            lost = self._lost(running, {*living} - {self.id}, leaving)
            queued = [trial.user_attrs.get(REQUEST) for trial in self._all()]
            for trial in lost:
                request = {"again": trial.number}
                if request not in queued:
                    self._queue(_asked(trial), request)
                self.tell(trial.number, Broken(LOST))
            for driver in dead:
                self._drivers.bury(driver)
        return len(lost)

    def _lost(
        self, running: Sequence[FrozenTrial], others: set[str], leaving: bool
    ) -> list[FrozenTrial]:
        """Those whose driver lives no more.

        One without a mark may have begun this very moment, unless no other driver is there.
        """
        unmarked = {str(t.number): 0 for t in running if DRIVER not in t.user_attrs}
        silence = self._unmarked.look(unmarked)
        living = others if leaving else others | {self.id}
        return [
            trial
            for trial in running
            if (
                trial.user_attrs[DRIVER] not in living
                if DRIVER in trial.user_attrs
                else not others or silence[str(trial.number)] > LEASE_SECONDS
            )
        ]


def study_names(url: str) -> list[str]:
    """Names of all studies in a storage."""
    return optuna.get_all_study_names(open_storage(url))


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
        reason=_reason(trial),
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        finished=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
    )


def _reason(trial: FrozenTrial) -> str:
    """Why a trial failed; others may have begun to say so before it ended otherwise."""
    return trial.user_attrs.get("reason", "") if trial.state is TrialState.FAIL else ""


def _has_ended(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and _reason(trial) not in UNCOUNTED


def _have_failed(trials: Sequence[FrozenTrial]) -> bool:
    return all(trial.state is TrialState.FAIL for trial in trials)


def _is_withdrawn(trial: FrozenTrial) -> bool:
    """Whether it never began; one without a driver is about to begin, or to be withdrawn."""
    if trial.state is TrialState.RUNNING:
        return DRIVER not in trial.user_attrs
    return _reason(trial) == WITHDRAWN
