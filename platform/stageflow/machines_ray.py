"""The machines of a Ray cluster: those that are there, and those that it can start when asked.

Ray does not tell what its autoscaler may add, and adds nothing until work waits for it. So whoever
sets up such a cluster says it, in the environment of the head:

    STAGEFLOW_MACHINES="8:cpus=15,gpus=1 4:cpus=7"      eight with a GPU, four without
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from stageflow.group_ray import ranks, share
from stageflow.plan import excess
from stageflow.stage import Needs

VARIABLE = "STAGEFLOW_MACHINES"
KINDS = ("cpus", "gpus", "memory")


def present() -> list[Needs]:
    """What each living machine has."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [_needs(node["Resources"]) for node in found if node["Alive"]]


def startable(text: str) -> list[Needs]:
    """The machines that a value of STAGEFLOW_MACHINES names; ValueError where it is none."""
    found: list[Needs] = []
    for group in text.split():
        count, _, has = group.partition(":")
        amounts = dict(re.findall(r"(cpus|gpus|memory)=(\d+(?:\.\d+)?)(?:,|$)", has))
        if not (count.isdigit() and has) or ",".join(f"{n}={a}" for n, a in amounts.items()) != has:
            raise ValueError(f"{VARIABLE} holds {group!r}: write COUNT:cpus=N,gpus=N,memory=BYTES")
        found += int(count) * [
            Needs(
                cpus=float(amounts.get("cpus", 0)),
                gpus=float(amounts.get("gpus", 0)),
                memory=int(float(amounts.get("memory", 0))),
            )
        ]
    return found


def total(machines: Sequence[Needs]) -> Needs:
    """All that they have."""
    return Needs(
        cpus=sum(machine.cpus for machine in machines),
        gpus=sum(machine.gpus for machine in machines),
        memory=sum(machine.memory for machine in machines),
    )


def capacity() -> Needs:
    """All that the cluster has now."""
    return total(present())


def waiting_work() -> list[Needs]:
    """What waits for room in the cluster, of whichever driver."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    demands = get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands
    asked = [*demands.ray_task_actor_demand, *demands.placement_group_demand]
    bundles = [counted.bundle for demand in asked for counted in demand.bundles_by_count]
    return [_needs(bundle) for bundle in bundles]


@dataclass(slots=True)
class Machines:
    """What the cluster can give, as one driver has come to know it.

    GPUs that were there count as lost, not as never had: their work waits for others to come, and
    does not begin to crawl on CPUs.
    """

    richest: Sequence[Needs] = ()
    """Those that were there when there were most GPUs, then cores."""

    def now(self) -> list[Needs]:
        """Those that are there."""
        found = present()
        if _worth(found) > _worth(self.richest):
            self.richest = found
        return found

    def capacity(self) -> Needs:
        """All that the cluster has, or could have if it were asked for."""
        here, more = total(self.now()), total(_declared())
        return Needs(**{kind: max(getattr(here, kind), getattr(more, kind)) for kind in KINDS})

    def slots(self, needs: Needs) -> int:
        """How many executions with these needs the whole cluster can hold at once; at least one."""
        needs = self.fitted(needs)
        return max(1, self._rooms(needs, self.now()) // ranks(needs))

    def fitted(self, needs: Needs) -> Needs:
        """The needs as this cluster can meet them: without GPUs where there were never any."""
        if needs.gpus and not self.capacity().gpus and not total(self.richest).gpus:
            return Needs(cpus=max(needs.cpus, 1.0), memory=needs.memory)
        return needs

    def lacking(self, needs: Needs) -> str:
        """What this cluster can never give of the needs, in words; "" where there is room for them,
        or was before machines went away."""
        needs, here = self.fitted(needs), self.now()
        count = ranks(needs)
        each = share(needs)
        rooms = max(self._rooms(needs, here), self._rooms(needs, self.richest))
        known = [*here, *self.richest, *_declared()]
        largest = Needs(**{kind: max(getattr(m, kind) for m in known) for kind in KINDS})
        if beyond := excess(each, largest):
            return beyond
        if count == 1 or count <= rooms:
            return ""
        memory = f", {each.memory:,} bytes" if each.memory else ""
        kind = f"{each.cpus:.3g} CPU cores{memory} and {each.gpus:g} GPU each"
        return f"needs {count} processes of {kind}, the cluster has room for {rooms}"

    def missing(self, needs: Needs) -> str:
        """For what the needs have to wait because it has gone or is not started, in words."""
        needs = self.fitted(needs)
        if _places(needs, self.now()) >= ranks(needs):
            return ""
        what = f"{needs.cpus:g} CPU cores" + (f" and {needs.gpus:g} GPU" if needs.gpus else "")
        return f"no machine is there with {what}: waits for one to join"

    def _rooms(self, needs: Needs, machines: Sequence[Needs]) -> int:
        """How many processes with a share of these needs they hold, or those that can start."""
        return max(_places(needs, machines), _places(needs, _declared()))


def _needs(resources: Mapping[str, float]) -> Needs:
    """What Ray names by its own names."""
    return Needs(
        cpus=resources.get("CPU", 0),
        gpus=resources.get("GPU", 0),
        memory=int(resources.get("memory", 0)),
    )


def _worth(machines: Sequence[Needs]) -> tuple[float, float]:
    have = total(machines)
    return have.gpus, have.cpus


def _declared() -> list[Needs]:
    return startable(os.environ.get(VARIABLE, ""))


def _places(needs: Needs, machines: Sequence[Needs]) -> int:
    """How many processes with a share of these needs fit on the machines, each whole on one."""
    return sum(_on_one(machine, share(needs)) for machine in machines)


def _on_one(machine: Needs, needs: Needs) -> int:
    if 0 < needs.gpus < 1:  # shares of one GPU, not of two halves
        parts = int(1 / needs.gpus + 1e-6)
        needs = replace(needs, gpus=1 / parts)
    kinds = [name for name in KINDS if getattr(needs, name)]
    rooms = [int(getattr(machine, name) / getattr(needs, name) + 1e-6) for name in kinds]
    return min(rooms, default=1)
