"""A node in flight: what is known of it from the moment that somebody asks for it."""

import asyncio
from dataclasses import dataclass, field

from stageflow.context import Report
from stageflow.executor import Outcome
from stageflow.stage import Node


@dataclass(slots=True)
class Flight:
    """Its outcome to come, what it has told so far, and how far it is."""

    node: Node
    outcome: "asyncio.Task[Outcome]"
    reports: list[Report] = field(default_factory=list)
    progress: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Units that are done, and all, by shard."""
    lost: dict[int, int] = field(default_factory=dict)
    """Units that were done, by shard, when a worker died on it; until it is begun again."""
    repeated: int = 0
    """Units that were begun or done, and had to be done again."""

    @property
    def total(self) -> int:
        """All units of all shards."""
        return sum(total for _, total in self.progress.values())

    def report(self, report: Report) -> bool:
        """Take a report; False for one that is told again, after a death."""
        if any(earlier.step >= report.step for earlier in self.reports):
            return False
        self.reports.append(report)
        return True

    def advance(self, shard: int, done: int, total: int) -> tuple[int, int]:
        """A shard is so far; returns how far the node is, and what all of it is."""
        if shard in self.lost:  # the first that is told since it was begun again
            self.repeated += max(0, self.lost.pop(shard) - done + 1)
        self.progress[shard] = (done, total)
        return sum(done for done, _ in self.progress.values()), self.total

    def interrupt(self, shard: int) -> None:
        """The worker of a shard died."""
        if shard in self.progress:
            self.lost[shard] = self.progress[shard][0]
