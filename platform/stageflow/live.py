"""The live view of a run: a table that changes in a terminal, one line an event everywhere else."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stageflow.executor import Event, Kind

LINE_SECONDS = 10.0  # between progress lines of a stage, where nothing can be redrawn
STYLES = {
    Kind.HIT: "dim",
    Kind.WAITING: "dim",
    Kind.STARTED: "cyan",
    Kind.FINISHED: "green",
    Kind.INTERRUPTED: "yellow",
    Kind.FAILED: "bold red",
    Kind.BLOCKED: "red",
    Kind.CANCELLED: "yellow",
}


@dataclass(slots=True)
class _Running:
    stage: str
    since: float
    done: int = 0
    total: int = 0
    note: str = ""
    told: float = 0.0


@dataclass(slots=True)
class LiveView:
    """An observer of executor events. `headline` is asked for the line above the table."""

    console: Console = field(default_factory=lambda: Console(file=sys.stdout, highlight=False))
    headline: Callable[[], str] = lambda: ""
    running: dict[str, _Running] = field(default_factory=dict)
    counts: dict[Kind, int] = field(default_factory=dict)
    finished_stages: dict[str, tuple[int, float]] = field(default_factory=dict)
    deaths: dict[tuple[str, str], int] = field(default_factory=dict)  # of workers, by stage and key
    repeated: dict[tuple[str, str], str] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    def __call__(self, event: Event) -> None:
        """Take notice of one event."""
        self.counts[event.kind] = self.counts.get(event.kind, 0) + 1
        if event.kind is Kind.STARTED:
            self.running[event.key] = _Running(event.stage, time.monotonic())
        elif event.kind is Kind.PROGRESS:
            self._progress(event)
        elif event.kind in (Kind.FINISHED, Kind.FAILED, Kind.CANCELLED):
            self.running.pop(event.key, None)
        node = (event.stage, event.key)
        if event.kind is Kind.INTERRUPTED:
            self.deaths[node] = self.deaths.get(node, 0) + 1
        if event.kind is Kind.FINISHED:
            if node in self.deaths:
                self.repeated[node] = f"{event.repeated} of {event.total}"
            count, seconds = self.finished_stages.get(event.stage, (0, 0.0))
            self.finished_stages[event.stage] = (count + 1, seconds + event.seconds)
        if event.kind in STYLES and not (
            self.console.is_terminal and event.kind in (Kind.HIT, Kind.STARTED)
        ):
            self.console.print(self._line(event), soft_wrap=True)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw the table while the block runs (in a terminal); then what deaths have cost."""
        drawn = Live(
            console=self.console, get_renderable=self.table, refresh_per_second=4, transient=True
        )
        try:
            with drawn if self.console.is_terminal else nullcontext():
                yield
        finally:
            if self.deaths:
                self.console.print(self.interruptions())

    def interruptions(self) -> Table:
        """Stages whose workers or machines died, and how much of their progress was made again."""
        table = Table(title="worker deaths", title_justify="left", box=None)
        for heading in ("stage", "key", "deaths", "done again"):
            table.add_column(heading)
        for (stage, key), deaths in self.deaths.items():
            again = self.repeated.get((stage, key), "not finished")
            table.add_row(stage, key[:8], str(deaths), again)
        return table

    def table(self) -> Group:
        """The table as it is now: what runs, how far it is, and what was done so far."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("running", "", "for", ""):
            table.add_column(heading, style="cyan" if heading == "running" else None)
        for key, row in list(self.running.items()):
            bar = ProgressBar(
                total=row.total or None, completed=row.done, width=24, pulse=not row.total
            )
            count = Text(f"{row.done}/{row.total} {row.note}" if row.total else row.note)
            table.add_row(
                f"{row.stage} {key[:6]}", bar, _clock(time.monotonic() - row.since), count
            )
        done = "  ".join(f"{name} ×{n}" for name, (n, _) in list(self.finished_stages.items()))
        hits = self.counts.get(Kind.HIT, 0)
        footer = Text(f"made {done or 'nothing yet'}   from the store {hits}", style="dim")
        return Group(
            Text(f"{self.headline()}   {_clock(time.monotonic() - self.begun)}", style="bold"),
            table,
            footer,
        )

    def _progress(self, event: Event) -> None:
        row = self.running.setdefault(event.key, _Running(event.stage, time.monotonic()))
        row.done, row.total, row.note = event.done, event.total, event.text
        now = time.monotonic()
        if not self.console.is_terminal and now - max(row.told, row.since) > LINE_SECONDS:
            row.told = now
            what = f"{_clock(now - self.begun):>8}  {event.stage} {event.key[:6]}"
            line = f"{what}  {event.done}/{event.total} {event.text}".rstrip()
            self.console.print(Text(line), soft_wrap=True)

    def _line(self, event: Event) -> Text:
        clock = _clock(time.monotonic() - self.begun)
        shown = [(n, v) for n, v in event.metrics.items() if "/" not in n][:3]
        facts = [event.text, *(f"{name} {value:.4g}" for name, value in shown)]
        if event.kind is Kind.FINISHED:
            facts.append(f"{event.seconds:.1f} s")
        what = f"{clock:>8}  {event.kind:11} {event.stage} {event.key[:6]}"
        return Text("  ".join([what, *filter(None, facts)]), style=STYLES[event.kind])


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"
