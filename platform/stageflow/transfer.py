"""Many files at once, and how far that is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeAlias, TypeVar

THREADS = 16
FIRST_LINE_S = 2.0
LINE_S = 10.0

Advance: TypeAlias = Callable[[int], None]
"""Told the bytes of each file that is done, by any thread."""

Meter: TypeAlias = Callable[[str, int], AbstractContextManager[Advance]]
"""Shows how far something is with so many files, from entering to leaving it."""


class Sized(Protocol):
    """What one file came to."""

    @property
    def size(self) -> int:
        """In bytes."""


Item = TypeVar("Item")
Done = TypeVar("Done", bound=Sized)


def each(
    what: str, items: Collection[Item], work: Callable[[Item], Done], meter: Meter
) -> list[Done]:
    """What `work` makes of each item, in their order, several at a time.

    Raises what the first of them raised; those that have not begun by then are left.
    """

    def one(item: Item) -> Done:
        done = work(item)
        advance(done.size)
        return done

    with meter(what, len(items)) as advance, ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, items))


def shown(what: str, files: int) -> AbstractContextManager[Advance]:
    """The meter for people, on stderr."""
    return bar(what, files) if sys.stderr.isatty() else lines(what, files)


@contextmanager
def bar(what: str, files: int) -> Iterator[Advance]:
    """A bar that goes when it is done."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    text = TextColumn("{task.description}  {task.fields[amount]}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), text)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=files, amount="")
        lock, total = threading.Lock(), 0

        def advance(size: int) -> None:
            nonlocal total
            with lock:
                total += size
                progress.update(task, advance=1, amount=f"{total / 1e6:,.0f} MB")

        yield advance


@contextmanager
def lines(what: str, files: int) -> Iterator[Advance]:
    """A line after two seconds, and then every ten."""
    begun = time.monotonic()
    lock, done, total, due = threading.Lock(), 0, 0, begun + FIRST_LINE_S

    def advance(size: int) -> None:
        nonlocal done, total, due
        with lock:
            done, total, now = done + 1, total + size, time.monotonic()
            if now < due:
                return
            due = now + LINE_S
            rate = total / 1e6 / (now - begun)
            say(f"{what}: {done}/{files} files, {total / 1e6:,.0f} MB, {rate:,.0f} MB/s")

    yield advance


def say(line: str) -> None:
    """Tell people something on the way."""
    print(line, file=sys.stderr, flush=True)
