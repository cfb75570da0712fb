"""Execution by a group of processes, each with a GPU of its own, through Ray Train.

A stage that asks for more than one whole GPU is executed by as many processes, its ranks, which may
lie on different machines. Each runs the whole stage, with a process group of torch around it: NCCL
where torch sees GPUs, Gloo where it sees none. What rank 0 leaves behind is the result; needs are
no part of a key, so it has to be that of one process. The executor without Ray, and a cluster
without GPUs, have only one.

Ray Train places the ranks, connects them and watches over them. Its checkpoints, its retries and
its storage are not used: those of `stageflow` serve all stages alike.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from ray.exceptions import RayActorError
from ray.util.placement_group import placement_group, remove_placement_group

from stageflow.artifact import Part
from stageflow.executor import Failed
from stageflow.stage import Needs

Work: TypeAlias = Callable[[str, int, int], Part | Failed]
"""What each rank does: given its device, its rank and how many there are."""

HELD_BACK = 3.0  # seconds: long enough for the death of a rank to be seen before what it causes
SETTINGS = {  # of Ray Train, which reads them in the environment only
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a data set may lie at a relative path
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a machine that goes away is a death like others
}


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The execution ended without a result and through no fault of the stage; try it again."""

    reason: str


class RankFailed(Exception):
    """Carries the failure of a rank, as text, out of the group."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed)
        self.failed = failed


def ranks(needs: Needs) -> int:
    """How many processes execute a stage with these needs: one for each whole GPU."""
    return max(1, int(needs.gpus))


def share(needs: Needs) -> Needs:
    """What each of them occupies."""
    count = ranks(needs)
    return Needs(cpus=needs.cpus / count, gpus=needs.gpus / count, memory=needs.memory // count)


def wait_for_room(needs: Needs) -> None:
    """Return as soon as the cluster has room for all ranks at once; it is not kept for them."""
    room = placement_group([_bundle(needs)] * ranks(needs))
    try:
        while not room.wait(60):
            pass
    finally:
        remove_placement_group(room)


def in_group(work: Work, needs: Needs) -> Part | Failed | Interrupted:
    """What rank 0 leaves of `work`, which all ranks do at the same time; or what came between."""
    from ray.train import ControllerError, WorkerGroupError

    with tempfile.TemporaryDirectory(
        prefix="stageflow-group-", ignore_cleanup_errors=True
    ) as storage:
        try:
            found: Part = _trainer(work, needs, storage).fit().return_value
            return found
        except WorkerGroupError as error:
            return _outcome(error.worker_failures)
        except (ControllerError, RayActorError) as error:
            return Interrupted(f"the group did not come about: {str(error).splitlines()[-1]}")


def _trainer(work: Work, needs: Needs, storage: str) -> Any:
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer

    os.environ.update(SETTINGS)
    v2: Any = train  # checkers see the names of its first version
    each: Any = partial(_as_rank, work, storage)
    return TorchTrainer(
        each,
        torch_config=TorchConfig(backend="undefined"),  # torch takes what its device needs
        scaling_config=v2.ScalingConfig(
            num_workers=ranks(needs), use_gpu=True, resources_per_worker=_bundle(needs)
        ),
        run_config=v2.RunConfig(
            storage_path=storage,
            failure_config=v2.FailureConfig(controller_failure_limit=0, max_preemption_failures=0),
            logging_config=v2.LoggingConfig("ERROR"),
        ),
    )


def _as_rank(work: Work, storage: str) -> Part | None:
    from ray.train import get_context

    if os.path.isdir(storage):  # on this machine: a rank that is killed cannot tidy up
        tempfile.tempdir = storage
    context = get_context()
    rank = context.get_world_rank()
    outcome = work("auto", rank, context.get_world_size())
    if isinstance(outcome, Failed):
        if not outcome.cancelled:
            time.sleep(HELD_BACK)
        raise RankFailed(outcome)
    return outcome if rank == 0 else None


def _outcome(failures: Mapping[int, Exception]) -> Failed | Interrupted:
    """Of the lowest rank that failed by itself, if none died: the others may fail for that."""
    failed = [error.failed for error in failures.values() if isinstance(error, RankFailed)]
    dead = [rank for rank, error in failures.items() if not isinstance(error, RankFailed)]
    return Interrupted(f"rank {dead[0]} of the group died") if dead else failed[0]


def _bundle(needs: Needs) -> dict[str, float]:
    """A rank's share as Ray names it."""
    each = share(needs)
    memory = {"memory": float(each.memory)} if each.memory else {}
    return {"CPU": each.cpus, "GPU": each.gpus, **memory}
