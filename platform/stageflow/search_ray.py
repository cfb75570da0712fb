"""The search on Ray: Tune runs the trials, the study decides what they try.

A trial process is light: it builds the pipeline of its parameters, has the coordinator make it, and
passes on the reports of its stages, on which ASHA may stop it. No stage runs in it, so it never
imports torch.
"""

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorDiedError, RayActorError
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from stageflow.executor import Outcome, failure
from stageflow.executor_ray import CoordinatorError, RayExecutor
from stageflow.machines_ray import Machines
from stageflow.pool_ray import Handle
from stageflow.search import Objective, Params, openings, worth
from stageflow.stage import Needs
from stageflow.study import Broken, Completed, Proposal, Pruned, Study, StudyError

RUNG = "rung"  # what ASHA compares; the last result has none, lest final values enter its rungs
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study and the manifests are the log
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the sweep, not only the search
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the searcher alone says how many run
    "RAY_AIR_NEW_OUTPUT": "0",
}
TRIAL_MEMORY = 300 * 2**20  # what a trial process asks for: it needs no CPU of its own
REST_SECONDS = 1.0  # before the study and the size of the cluster are looked at again
NEVER = 10**9  # reports after which ASHA would end a trial for having gone on long enough
TRIAL_RETRIES = 2  # restarts of a trial whose process died; its stages are not repeated


def search(
    study: Study[Params],
    objective: Objective[Params],
    executor: RayExecutor,
    *,
    trials: int,
    concurrent: int,
    say: Callable[[str], None] = print,
) -> None:
    """Run trials until `trials` are spent, `concurrent` at once (0: as many as fit)."""
    os.environ.update(TUNE_SETTINGS)
    limit = study.limit(trials)
    searcher = StudySearcher(study, executor.coordinator, limit, concurrent)
    for _ in openings(study, limit, say):
        _run_what_may_begin(searcher, objective)


def _run_what_may_begin(searcher: "StudySearcher", objective: Objective[Any]) -> None:
    """Have Tune run trials until none of ours runs and none may begin."""
    trial = tune.with_parameters(TuneTrial, coordinator=searcher.coordinator, objective=objective)
    with tempfile.TemporaryDirectory(prefix="tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": 0, "memory": TRIAL_MEMORY}),
            tune_config=tune.TuneConfig(
                metric=RUNG,
                mode="max" if objective.maximise else "min",
                search_alg=searcher,
                scheduler=_scheduler(objective),
                num_samples=-1,  # until the searcher has no more
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                stop=_IfLost(searcher),
            ),
        )
        tuner.fit()
    if searcher.lost is not None:
        raise searcher.lost


def fitting(machines: Machines) -> int:
    """How many trials at once keep the cluster busy: two for each GPU, else one for each core.

    Where all GPUs are gone, trials wait for others to come: more of them would only wait, too.
    """
    total = machines.capacity()
    had_gpus = machines.fitted(Needs(gpus=1)).gpus
    return max(2, int(2 * total.gpus if had_gpus else total.cpus))


class TuneTrial(tune.Trainable):
    """One trial: every step waits for the next report on the way, the last one for the value."""

    def setup(  # type: ignore[override]  # tune.with_parameters gives the last two
        self, config: dict[str, Any], coordinator: Handle, objective: Objective[Any]
    ) -> None:
        """Ask the coordinator for the pipeline's target."""
        self.coordinator, self.objective = coordinator, objective
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial over in the same process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next report or the end."""
        if self.broken:
            return _broken(self.broken)
        answer: ray.ObjectRef[tuple[Mapping[str, float], Outcome | None]]
        answer = self.coordinator.next.remote(self.target, self.seen, self.objective.rung)
        try:
            metrics, outcome = ray.get(answer)
        except ActorDiedError as error:  # the searcher sees it, too; another process would not help
            return _broken(failure(error).reason)
        target = f"{self.target.name}/{self.target.key}"
        self.seen += 1
        if outcome is None:
            return {RUNG: metrics[self.objective.rung], "seen": self.seen, "target": target}
        value, reason = worth(self.objective, self.target, outcome)
        return {"ended": True, "value": value, "reason": reason, "target": target, "done": True}

    def _begin(self, config: Mapping[str, Any]) -> None:
        self.seen, self.broken = 0, ""
        try:
            self.target = self.objective.pipeline(config["params"])
        except Exception as error:  # these parameters make no pipeline; others may
            self.broken = failure(error).reason
            return
        with contextlib.suppress(ActorDiedError):  # as the first step says
            ray.get(self.coordinator.start.remote(config["demand"], self.target))


class StudySearcher(Searcher):
    """Tune's view of the study. Holds nothing that the study does not know, so saves nothing."""

    def __init__(self, study: Study[Any], coordinator: Handle, limit: int, concurrent: int) -> None:
        super().__init__(metric=RUNG, mode="max")
        self.study = study
        self.coordinator = coordinator
        self.limit = limit
        self.concurrent = concurrent
        self.machines = Machines()  # one for the whole search: it remembers which were there
        self.numbers: dict[str, int] = {}
        self.rest = 0.0  # until then, nothing new is to be expected
        self.lost: StudyError | CoordinatorError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes down what it was given, and a study knows passwords."""
        return {}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """The study has its own direction and space."""
        return not config

    def suggest(  # type: ignore[override]  # whose annotation leaves FINISHED out
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """Ask the study. None: not now; Tune asks at every step, ten times a second.

        The end of it once nothing of ours runs: whether trials of other drivers come back to us is
        waited for without Tune, which does not expect to run nothing.
        """
        if time.monotonic() < self.rest:
            return None
        at_once = self.concurrent or fitting(self.machines)
        proposal = self._ask() if len(self.numbers) < at_once else None
        if proposal is None:
            self.rest = time.monotonic() + REST_SECONDS
            return None if self.numbers else Searcher.FINISHED
        self.numbers[trial_id] = proposal.number
        return {"params": proposal.params, "demand": trial_id}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study the truth.

        A trial that broke with the coordinator is left open, to be tried again.
        """
        self.coordinator.release.remote(trial_id)
        number = self.numbers.pop(trial_id)
        self.rest = 0.0
        if self.lost is not None:
            return
        told = _told(result, error)
        try:
            if isinstance(told, Broken):
                _check_life(self.coordinator)
            self.study.tell(number, told)
        except (StudyError, CoordinatorError) as lost:
            self.lost = lost

    def _ask(self) -> Proposal[Any] | None:
        try:
            return None if self.lost is not None else self.study.ask_within(self.limit)
        except StudyError as lost:  # Tune would bury it under its own errors
            self.lost = lost
            return None

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is on disk."""


class _IfLost(tune.Stopper):
    """Ends all trials once the study cannot be reached any more, or the coordinator."""

    def __init__(self, searcher: StudySearcher) -> None:
        self.searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.searcher.lost is not None


def _broken(reason: str) -> dict[str, Any]:
    return {"ended": True, "value": math.nan, "reason": reason, "done": True}


def _check_life(coordinator: Handle) -> None:
    """Return if it answers. Raises CoordinatorError."""
    try:
        ray.get(coordinator.events_so_far.remote())
    except RayActorError as error:
        raise CoordinatorError from error


def _told(result: Mapping[str, Any] | None, error: bool) -> Completed | Pruned | Broken:
    """What became of a trial.

    Tune's last result says `done` also for a trial that ASHA stopped, so only the mark that the
    trial itself puts on its last report tells a completed trial from a pruned one.
    """
    if error or not result:
        return Broken(f"the trial's process died {TRIAL_RETRIES + 1} times")
    if not result.get("ended"):
        return Pruned(result[RUNG], result["seen"], result["target"])
    if result["reason"]:
        return Broken(result["reason"], result.get("target", ""))
    return Completed(result["value"], result["target"])


def _scheduler(objective: Objective[Any]) -> TrialScheduler:
    if not objective.rung:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return AsyncHyperBandScheduler(
        time_attr="training_iteration", max_t=NEVER, grace_period=1, reduction_factor=3
    )
