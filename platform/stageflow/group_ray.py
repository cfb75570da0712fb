"""Execution by a group of processes, each with a GPU of its own, through Ray Train.

A stage that asks for more than one whole GPU is executed by as many processes, its ranks, which may
lie on different machines. Each runs the whole stage, with a process group of torch around it: NCCL
where torch sees GPUs, Gloo where it sees none. What rank 0 leaves behind is the result; needs are
no part of a key, so it has to be that of one process. The executor without Ray, and a cluster
without GPUs, have only one.

Ray Train waits until there is room for all ranks at once, places and connects them, and watches
over them. Its checkpoints, its retries and its storage are not used: those of `stageflow` serve all
stages alike.

Tested are groups with Gloo, of one node and of two on one machine. NCCL, and ranks on several
machines, have not been tried.
"""

import math
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)

from stageflow.artifact import Part
from stageflow.executor import Failed, failure
from stageflow.liveness import lives_here
from stageflow.stage import Needs

Work: TypeAlias = Callable[[str, int, int], Part | Failed]
"""What each rank does: given its device, its rank and how many there are."""

HELD_BACK = 3.0  # seconds: long enough for the death of a rank to be seen before what it causes
SETTINGS = {  # of Ray Train, which reads them in the environment only
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a data set may lie at a relative path
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a machine that goes away is a death like others
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "2592000",  # as long as others have the room
}
# How a traceback ends where a rank has lost the others; the platform does not import torch.
_LOST = re.compile(
    r"^(torch\.distributed\.Dist\w*Error|RuntimeError: .*\b(gloo|NCCL|ProcessGroup\w*)\b)",
    re.MULTILINE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The execution ended without a result and through no fault of the stage; try it again."""

    reason: str
    preempted: bool = False
    """Whether the machine was taken away, as Ray was told beforehand."""


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


def in_group(work: Work, needs: Needs) -> Part | Failed | Interrupted:
    """What rank 0 leaves of `work`, which all ranks do at the same time; or what came between.

    Waits until the cluster has room for all of them. The folder it makes is the scratch of those on
    this machine, and what little Ray Train keeps.
    """
    from ray.train import TrainingFailedError, WorkerGroupError

    with _scratch() as storage:
        try:
            found: Part = _trainer(work, needs, storage).fit().return_value
            return found
        except WorkerGroupError as error:
            return _outcome(error.worker_failures)
        except (TrainingFailedError, RayActorError) as error:
            return _without_ranks(error)


def free_rooms(needs: Needs, known: Collection[PlacementGroup]) -> None:
    """Remove what Ray Train left of a group with these needs: it would take its room for ever.

    Ray keeps a placement group as long as the job, even if who made it is dead, and tells not who
    that was: so all of this job that are for such needs, but for the `known`.
    """
    job = ray.get_runtime_context().get_job_id()
    spared = {room.id.hex() for room in known}
    for name, found in placement_group_table().items():
        gone = found["state"] == "REMOVED" or not name.endswith(job) or name in spared
        if not gone and _is_for(needs, [*found["bundles"].values()]):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))


def _is_for(needs: Needs, bundles: Sequence[Mapping[str, float]]) -> bool:
    each = {kind: amount for kind, amount in _bundle(needs).items() if amount}
    return len(bundles) == ranks(needs) and all(
        bundle.keys() == each.keys()
        and all(math.isclose(bundle[kind], each[kind], rel_tol=1e-3) for kind in each)
        for bundle in bundles
    )


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

    context = get_context()
    rank = context.get_world_rank()
    # The group's folder where it is on this machine: a rank that is killed cannot tidy up.
    with nullcontext(storage) if os.path.isdir(storage) else _scratch() as tempfile.tempdir:
        outcome = work("auto", rank, context.get_world_size())
    tempfile.tempdir = None
    if isinstance(outcome, Failed):
        if not outcome.cancelled:
            time.sleep(HELD_BACK)
        raise RankFailed(outcome)
    return outcome if rank == 0 else None


@contextmanager
def _scratch() -> Iterator[str]:
    """A folder of this process; those of processes that were killed on this machine are removed."""
    mine = f"stageflow-{socket.gethostname()}-"  # containers may share a folder, but no processes
    for folder in Path(tempfile.gettempdir()).glob("stageflow-*"):
        found = re.fullmatch(rf"{re.escape(mine)}(\d+)-[^-]+", folder.name)
        if found and not lives_here(int(found[1])):
            shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{mine}{os.getpid()}-", ignore_cleanup_errors=True
    ) as folder_of_mine:
        yield folder_of_mine


def _outcome(failures: Mapping[int, Exception]) -> Failed | Interrupted:
    """Of the lowest rank that failed by itself, if none died: the others may fail for that.

    A death may be seen later than what it causes: where all that failed have lost the others, one
    of these died.
    """
    for rank, error in sorted(failures.items()):
        if not isinstance(error, RankFailed):
            return Interrupted(f"rank {rank} of the group died")
    failed = [e.failed for _, e in sorted(failures.items()) if isinstance(e, RankFailed)]
    alone = next((each for each in failed if not _has_lost_others(each)), None)
    return alone or Interrupted(f"a rank lost the others: {failed[0].reason}")


def _has_lost_others(failed: Failed) -> bool:
    """Whether a rank failed in an exchange with others: by the name or the words of its error."""
    return _LOST.search(failed.traceback) is not None


def _without_ranks(error: Exception) -> Interrupted:
    """The end of a group of which no rank failed: of Ray Train's controller, or at the start."""
    cause = getattr(error, "controller_failure", error)
    return Interrupted(f"the group did not come about: {failure(_inner(cause)).reason}")


def _inner(error: Exception) -> BaseException:
    """What was raised on the other side, if this is how Ray passes it on."""
    inner = getattr(error, "cause", None)
    return inner if isinstance(inner, BaseException) else error


def _bundle(needs: Needs) -> dict[str, float]:
    """A rank's share as Ray names it."""
    each = share(needs)
    memory = {"memory": float(each.memory)} if each.memory else {}
    return {"CPU": each.cpus, "GPU": each.gpus, **memory}
