"""A sweep: one file that says what to search and how parameters become a pipeline.

    def space(trial, options): ...       # what Optuna may choose
    def pipeline(params, options): ...   # parameters -> the node whose metric is the objective
    def entries(params, options): ...    # what to put on the leaderboard, for the best parameters
    def products(params, options): ...   # files that people take away, made along with it
    def pictures(params, options): ...   # what to draw of each trial, to be compared side by side
    if __name__ == "__main__":
        sys.exit(main(Sweep(...)))

The same command again continues where it was stopped, and never repeats what is done. An experiment
that has nothing to search, and only puts methods side by side, leaves space and pipeline out; one
that has nothing to take away, or to draw of trials, leaves products or pictures out.
"""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from stageflow.board import Entry, Row
from stageflow.executor import RunError
from stageflow.options import OptionError, add_flags, from_file, from_flags
from stageflow.product import Product
from stageflow.session import Session
from stageflow.settings import Settings
from stageflow.stage import Node
from stageflow.store import StoreError

if TYPE_CHECKING:
    import optuna

Options = TypeVar("Options")
Params = TypeVar("Params")
Given = TypeVar("Given", contravariant=True)
Chosen = TypeVar("Chosen", contravariant=True)
Made = TypeVar("Made", covariant=True)


class Space(Protocol[Given, Made]):
    """What Optuna may choose."""

    def __call__(self, trial: optuna.Trial, options: Given) -> Made:
        """Parameters, each suggested under the name of its field."""
        ...


class Pipeline(Protocol[Chosen, Given]):
    """Parameters to work."""

    def __call__(self, params: Chosen, options: Given) -> Node:
        """The node whose metric is the objective; nothing runs."""
        ...


class Entries(Protocol[Chosen, Given]):
    """Parameters to results worth showing."""

    def __call__(self, params: Chosen, options: Given) -> Sequence[Entry]:
        """What to put on the board, for the best parameters; none where none can be scored."""
        ...


class Pictures(Protocol[Chosen, Given]):
    """Parameters to pictures."""

    def __call__(self, params: Chosen, options: Given) -> Node:
        """The node with PNG files, of the same names for all parameters."""
        ...


class Products(Protocol[Chosen, Given]):
    """Parameters to files that people take away."""

    def __call__(self, params: Chosen, options: Given) -> Sequence[Product]:
        """What to make along with the board, for the best parameters."""
        ...


class Summary(Protocol[Given]):
    """Results to a text for people."""

    def __call__(self, rows: Sequence[Row], options: Given) -> str:
        """A section of Markdown, from its "## heading" on, that tells what the rows say."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sweep(Generic[Options, Params]):
    """An experiment.

    Attributes:
        name: of the experiment, in MLflow and in the study's name.
        about: what it does, for `--help`; usually the module's docstring.
        options: what a user may set by flags; its values are the defaults.
        defaults: the parameters to try first, for instance the published ones.
        space, pipeline, entries, products, pictures: see the module's docstring; with no pipeline
            nothing is searched.
        summary: what `--results FILE.md` writes of the rows; without it, the board as Markdown.
        metric: the objective, a metric of the pipeline's node.
        rung: a metric that stages report on the way, on which ASHA stops trials; "" for none.
        trials: how many, unless `--trials` says otherwise.
        published: rows of the board to compare with.
    """

    name: str
    about: str
    options: Options
    defaults: Params
    space: Space[Options, Params] | None = None
    pipeline: Pipeline[Params, Options] | None = None
    entries: Entries[Params, Options]
    products: Products[Params, Options] | None = None
    pictures: Pictures[Params, Options] | None = None
    summary: Summary[Options] | None = None
    metric: str = "miou"
    rung: str = ""
    maximise: bool = True
    trials: int = 12
    published: Sequence[Row] = ()


def main(sweep: Sweep[Any, Any], arguments: Sequence[str] | None = None) -> int:
    """Run a sweep from the command line. Returns 0, 1 if stages failed, 2 for bad input."""
    try:
        session = _parse(sweep, arguments)
        with _terminated_like_interrupted():
            session.run()
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    except (OptionError, StoreError, ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _parse(sweep: Sweep[Any, Any], arguments: Sequence[str] | None) -> Session:
    parser = argparse.ArgumentParser(
        description=textwrap.dedent(sweep.about),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="options from a TOML file; flags win"
    )
    if sweep.pipeline is not None:
        parser.add_argument(
            "--trials",
            type=int,
            default=sweep.trials,
            metavar="INTEGER",
            help=f"how many parameter sets to try; 0: only the board (default: {sweep.trials})",
        )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="say what would be run for the board and a first trial, and what is there; then stop",
    )
    parser.add_argument(
        "--results", type=Path, metavar="FILE.md", help="also write a section of results to FILE.md"
    )
    add_flags(parser.add_argument_group("this experiment"), sweep.options)
    add_flags(parser.add_argument_group("where it runs, and where things are kept"), Settings())
    given = vars(parser.parse_args(arguments))
    file, trials = given.pop("config"), given.pop("trials", 0)
    only_plan, results = given.pop("plan"), given.pop("results")
    if trials < 0:
        raise OptionError(f"--trials is {trials}: give zero or more")
    if results is not None and not results.parent.is_dir():
        raise OptionError(f"--results {results}: folder {results.parent} does not exist")
    platform = {f.name for f in fields(Settings)}
    options = from_file(sweep.options, file) if file else sweep.options
    options = from_flags(options, {n: v for n, v in given.items() if n not in platform})
    settings = from_flags(Settings(), {n: v for n, v in given.items() if n in platform})
    return Session(sweep, options, settings, trials, only_plan, results)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM, which `ray job stop` sends, unwind like Ctrl-C and release the study."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
