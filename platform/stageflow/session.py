"""One execution of a sweep's command: search, then the board and what else people take away.

What is done is read, not made.
"""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from stageflow import board
from stageflow.artifact import Artifacts
from stageflow.board import Entry, Row
from stageflow.executor import (
    Executor,
    Failed,
    LocalExecutor,
    OnStale,
    RunError,
    failure_table,
    refuse_stale,
)
from stageflow.fingerprint import fingerprint
from stageflow.identity import digest
from stageflow.live import LiveView
from stageflow.plan import Plan, Status, plan
from stageflow.product import Product, listing
from stageflow.provenance import command
from stageflow.report import ranked, trial_headline, trial_table
from stageflow.results import write_section
from stageflow.search import Objective, search
from stageflow.settings import Settings, home
from stageflow.stage import Node, ancestry
from stageflow.store import Store
from stageflow.store_check import self_test

if TYPE_CHECKING:
    from stageflow.study import Study
    from stageflow.sweep import Sweep


MOST_DRAWN = 24  # trials, the best ones: as many as one looks at


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a command makes in the end: results for the board, and files to take away."""

    entries: Sequence[Entry]
    products: Sequence[Product]
    pictures: Mapping[int, Node] = field(default_factory=dict)
    """Of trials, by number."""

    def __post_init__(self) -> None:
        names = [product.name for product in self.products]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two products are called {twice[0]!r}: give each a name of its own")

    @property
    def nodes(self) -> list[Node]:
        """All that they need."""
        drawn = self.pictures.values()
        return [*_nodes(self.entries), *(product.node for product in self.products), *drawn]

    def without(self, failed: Set[str]) -> Wanted:
        """Those of which no node has a key among the failed."""
        return Wanted(
            entries=[e for e in self.entries if not failed & {n.key for n in _nodes([e])}],
            products=[product for product in self.products if product.node.key not in failed],
            pictures={n: node for n, node in self.pictures.items() if node.key not in failed},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What of it is whole, and a table of what failed."""

    rows: Sequence[Row]
    products: Sequence[Product]
    pictures: Mapping[int, Node] = field(default_factory=dict)
    failures: str = ""

    @property
    def places(self) -> dict[str, str]:
        """Where each product lies, by its name."""
        return {product.name: product.folder for product in self.products}


@dataclass(slots=True)
class Session:
    """The command of a sweep while it runs."""

    sweep: Sweep[Any, Any]
    options: Any
    settings: Settings
    trials: int
    only_plan: bool = False
    results: Path | None = None
    console: Console = field(default_factory=lambda: Console(highlight=False))
    on_stale: OnStale = OnStale.ASK
    closing: ExitStack = field(default_factory=ExitStack)
    _executor: Executor | None = None

    def run(self) -> None:
        """Do what the command says. Raises RunError when a result or every trial failed."""
        # Built first of all, so that bad input is told before anything is written or started.
        wanted = self._wanted(self.sweep.defaults)
        objective = self._objective()
        trial = [] if objective is None else [objective.pipeline(self.sweep.defaults)]
        first = [*trial, *wanted.nodes]
        store = self.settings.open_store()
        artifacts = Artifacts(store, home() / "cache")
        steps = plan(*first, artifacts=artifacts)
        if self.only_plan:
            self.console.print(str(steps), soft_wrap=True)
            return
        self._check_once(store)
        self._decide_stale(steps)
        with self.closing:
            if objective is not None and not self.trials:
                self._finish(self._make(wanted, artifacts))
                return
            with self._study(trial or first) as study, self._tracked(study, artifacts):
                if objective is not None:
                    self._search(study, objective, artifacts)
                    best = self._wanted(replace(self.sweep.defaults, **self._best(study)))
                    wanted = replace(best, pictures=self._pictures(study))
                made = self._make(wanted, artifacts)
                self._note(study, made)
                self._finish(made)

    def _wanted(self, params: Any) -> Wanted:
        products = self.sweep.products
        return Wanted(
            entries=self.sweep.entries(params, self.options),
            products=() if products is None else products(params, self.options),
        )

    def _objective(self) -> Objective[Any] | None:
        if self.sweep.pipeline is None:
            return None
        pipeline = functools.partial(self.sweep.pipeline, options=self.options)
        return Objective(pipeline, self.sweep.metric, self.sweep.rung, self.sweep.maximise)

    def _check_once(self, store: Store) -> None:
        """Have a store prove itself the first time that it is used from here."""
        mark = home() / "checked" / digest(store.uri)
        if not mark.exists():
            self_test(store)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(store.uri)

    def _decide_stale(self, steps: Plan) -> None:
        self.on_stale = OnStale(self.settings.on_stale)
        stale = steps.of(Status.STALE)
        if not stale or self.on_stale is not OnStale.ASK:
            return
        if not sys.stdin.isatty():
            refuse_stale(steps)
        names = ", ".join(sorted({step.node.name for step in stale}))
        answer = self.console.input(
            f"The code of {names} has changed since {len(stale)} artifacts were made. "
            "[r]erun or [k]eep them? "
        )
        self.on_stale = OnStale.RERUN if answer.lower().startswith("r") else OnStale.KEEP

    @contextmanager
    def _study(self, first: Sequence[Node]) -> Iterator[Study[Any]]:
        """The study of this command: of what it makes at the defaults and the code behind it.

        Where nothing is searched it has no trials, and keeps what MLflow shall show.
        """
        from stageflow.study import Study

        searching: list[Callable[..., Any] | None] = [self.sweep.space, self.sweep.pipeline]
        code = sorted({node.stage.fingerprint for node in ancestry(*first)})
        made_by = [*(fingerprint(function) for function in searching if function), *code]
        made = [node.key for node in first]
        identity = digest([made, self.sweep.metric, self.sweep.maximise, made_by])
        study: Study[Any] = Study(
            self.settings.study or f"{self.sweep.name}-{identity[:8]}",
            self.settings.studies,
            space=functools.partial(self.sweep.space or _nothing, options=self.options),
            maximise=self.sweep.maximise,
        )
        with study.joined():
            self._tell_of_others(study)
            if self.sweep.space is not None:
                study.enqueue(self.sweep.defaults)
            yield study

    def _tell_of_others(self, study: Study[Any]) -> None:
        lost = study.reconcile()
        if lost:
            self.console.print(
                f"{lost} trials of a driver that died are tried again", style="yellow"
            )
        others = study.others()
        if others:
            self.console.print(
                f"joining {' and '.join(others)}, at work on study {study.name} too; should one be "
                "dead, its trials are tried again in a minute",
                style="yellow",
                soft_wrap=True,
            )

    def _search(self, study: Study[Any], objective: Objective[Any], artifacts: Artifacts) -> None:
        spent = study.spent()
        self.console.print(
            f"study {study.name}: {spent} of {self.trials} trials done", style="bold"
        )
        if spent >= self.trials:
            return
        executor = self._executor_for(artifacts)
        view = LiveView(self.console, headline=lambda: trial_headline(study, self.trials))
        say = functools.partial(self.console.print, style="yellow", soft_wrap=True)
        if self.settings.executor == "local":
            with view.shown():
                search(study, objective, executor, trials=self.trials, observe=view, say=say)
            return
        from stageflow import search_ray
        from stageflow.executor_ray import RayExecutor

        assert isinstance(executor, RayExecutor)
        with view.shown(), executor.watching(view):
            search_ray.search(
                study,
                objective,
                executor,
                trials=self.trials,
                concurrent=self.settings.concurrent,
                say=say,
            )

    def _executor_for(self, artifacts: Artifacts) -> Executor:
        if self._executor is None:
            if self.settings.executor == "local":
                self._executor = LocalExecutor(artifacts, on_stale=self.on_stale)
            else:
                from stageflow.executor_ray import RayExecutor

                address = os.environ.get("RAY_ADDRESS")
                doing = f"joining Ray at {address}" if address else "starting Ray on this machine"
                self.console.print(f"{doing} ...", style="dim")
                self._executor = RayExecutor(artifacts, on_stale=self.on_stale)
            self.closing.callback(self._executor.close)
        return self._executor

    def _best(self, study: Study[Any]) -> dict[str, Any]:
        trials = study.trials()
        self.console.print(trial_table(trials, maximise=self.sweep.maximise))
        best = study.best()
        if best is None:
            reasons = sorted({trial.reason for trial in trials if trial.reason})
            raise RunError("no trial completed:\n" + "\n".join(f"  {reason}" for reason in reasons))
        return dict(best.params)

    def _pictures(self, study: Study[Any]) -> dict[int, Node]:
        """What to draw of the best trials."""
        draw = self.sweep.pictures
        if draw is None:
            return {}
        return {
            trial.number: draw(replace(self.sweep.defaults, **trial.params), self.options)
            for trial in ranked(study.trials(), maximise=self.sweep.maximise)[:MOST_DRAWN]
        }

    def _make(self, wanted: Wanted, artifacts: Artifacts) -> Made:
        """Make what is wanted; save and show what is whole of it."""
        nodes = wanted.nodes
        steps = plan(*nodes, artifacts=artifacts, remake=self.on_stale is OnStale.RERUN)
        missing = bool(steps.of(Status.RUN))
        # With everything there, no cluster has to be started to read it.
        executor = (
            self._executor_for(artifacts)
            if missing
            else LocalExecutor(artifacts, on_stale=self.on_stale)
        )
        doing = "filling the board" if wanted.entries else "making the products"
        view = LiveView(self.console, headline=lambda: doing)
        with view.shown():
            outcomes = executor.run(nodes, view)
        failed = {node.key for node in nodes if isinstance(outcomes[node.key], Failed)}
        # What is whole is kept, whatever failed: the same command needs to make the rest only.
        whole = wanted.without(failed)
        rows = [board.row(entry, artifacts) for entry in whole.entries]
        self._keep([*rows, *self.sweep.published], artifacts.store)
        self._tell(whole.products)
        failures = failure_table(outcomes, nodes) if failed else ""
        return Made(rows=rows, products=whole.products, pictures=whole.pictures, failures=failures)

    def _keep(self, rows: Sequence[Row], store: Store) -> None:
        board.save(rows, store)
        for table in board.console(rows):
            self.console.print(table)

    def _tell(self, products: Sequence[Product]) -> None:
        """Say how to get the files of each, from the store that was named."""
        store = self.settings.store
        place = "" if store == Settings().store else f" --store {shlex.quote(store)}"
        for product in products:
            line = f"{product.name}: {product.command}{place}"
            self.console.print(line, markup=False, emoji=False, soft_wrap=True)

    def _note(self, study: Study[Any], made: Made) -> None:
        from stageflow import projection

        drawn = {n: f"{node.name}/{node.key}" for n, node in made.pictures.items()}
        projection.made(study, rows=made.rows, products=made.places, pictures=drawn)

    def _finish(self, made: Made) -> None:
        if made.failures:
            raise RunError(made.failures)
        if self.results is not None:
            summary = self.sweep.summary if made.rows else None  # it may rely on a row
            text = summary(made.rows, self.options) if summary else self._usual_section(made)
            write_section(self.results, text)
            self.console.print(f"wrote {self.results}", soft_wrap=True)

    def _usual_section(self, made: Made) -> str:
        parts = [f"## {self.sweep.name}", board.markdown(made.rows), listing(made.places)]
        return "\n\n".join(part for part in parts if part)

    @contextmanager
    def _tracked(self, study: Study[Any], artifacts: Artifacts) -> Iterator[None]:
        """Keep MLflow up to date from a thread, and say at the end whether it is complete."""
        if self.settings.tracking == "none":
            yield
            return
        from stageflow import projection
        from stageflow.tracking import Background

        projection.describe(
            study,
            sweep=self.sweep.name,
            options=asdict(self.options),
            metric=self.sweep.metric,
            maximise=self.sweep.maximise,
            command=command(),
        )
        latest = functools.partial(projection.tracked, study, artifacts.store, driven=True)
        with (
            Background(
                latest, artifacts, self.settings.tracking, is_mine=study.is_first
            ) as background,
            projection.end_noted(study),
        ):
            yield
        self.console.print(background.verdict(), soft_wrap=True)


def _nothing(trial: object, options: object) -> None:
    """The space of an experiment that searches nothing."""


def _nodes(entries: Sequence[Entry]) -> list[Node]:
    return [node for entry in entries for node in (*entry.targets, *entry.pictures)]
