"""Toy stages that make it visible what an executor does with them.

They are steered, and watched, through files: whatever names such a file is a neutral field, so that
no key depends on it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stageflow.context import Context
from stageflow.stage import Metrics, Source, stage

LONGEST_WAIT = 240.0  # seconds that a toy stage waits for its gate, lest it be left behind


@dataclass(frozen=True, kw_only=True, slots=True)
class Counting:
    """Count from `first`, `to` steps of one.

    Step 2 waits for the file `<gate>2`, and between its report and its checkpoint for `<hold>2`.
    """

    label: str
    to: int = 3
    first: int = 0
    log: str = ""
    gate: str = ""
    hold: str = ""


@stage(version="1", neutral=("log", "gate", "hold"))
def count(context: Context, config: Counting) -> Metrics:
    """Count on from the newest checkpoint; a report, then a checkpoint, after each step."""
    found = context.restore()
    step, value = (found[0], int((found[1] / "value").read_text())) if found else (0, config.first)
    while step < config.to:
        step += 1
        note_down(config.log, f"{os.getpid()} {step}")
        wait_for(f"{config.gate}{step}" if config.gate else "")
        value += 1
        context.progress(step, config.to)
        context.report(step, {"value": value})
        wait_for(f"{config.hold}{step}" if config.hold else "")
        context.save(step, partial(_keep, value))
    _keep(value, context.out)
    return {"value": value}


@dataclass(frozen=True, kw_only=True, slots=True)
class Squaring:
    """Square the numbers below `numbers`; shard 1 waits for the file `<gate>1`."""

    label: str
    numbers: int = 10
    log: str = ""
    gate: str = ""


@stage(version="1", sharded=True, neutral=("log", "gate"))
def squares(context: Context, config: Squaring) -> None:
    """Write the squares of this shard's numbers, a file each, in a folder of their own."""
    note_down(config.log, f"{os.getpid()} {context.shard.index} of {context.shard.count}")
    wait_for(f"{config.gate}{context.shard.index}" if config.gate else "")
    for number in context.shard.of(range(config.numbers)):
        folder = context.out / "squares"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:04d}").write_text(str(number**2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Adding:
    """Add up all numbers in the inputs."""

    label: str
    log: str = ""


@stage(version="1", neutral=("log",))
def add(context: Context, left: Path, right: Path, config: Adding) -> Metrics:
    """The sum of all numbers in all files of two artifacts."""
    note_down(config.log, "add")
    files = [path for folder in (left, right) for path in folder.rglob("*") if path.is_file()]
    total = sum(int(path.read_text()) for path in files)
    (context.out / "sum").write_text(str(total))
    return {"value": total}


@dataclass(frozen=True, kw_only=True, slots=True)
class Failing:
    """Fail with `text` until the file `mended` is there."""

    label: str
    text: str = "cannot"
    mended: str = ""


@stage(version="1", neutral=("mended",))
def fail(context: Context, config: Failing) -> Metrics:
    """Write half of the result, then fail."""
    (context.out / "half").touch()
    if not (config.mended and Path(config.mended).exists()):
        raise LookupError(config.text)
    return {"mended": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Telling:
    """Tell the number that `text` spells."""

    label: str
    text: str = "1"


@stage(version="1")
def tell(context: Context, config: Telling) -> Metrics:
    """Tell a metric, and write nothing."""
    return {"value": float(config.text)}


@stage(version="1", sharded=True)
def boast(context: Context, config: Telling) -> Metrics:
    """Tell a metric from a shard, which nobody could add up."""
    return {"value": float(config.text)}


@stage(version="1")
def copy(context: Context, number: Source, config: Telling) -> Metrics:
    """The number in the file where the source lies."""
    value = int(Path(number.location).read_text())
    _keep(value, context.out)
    return {"value": value}


def note_down(log: str, line: str) -> None:
    """Append a line to the file `log`, in one piece whoever else does so."""
    if log:
        with open(log, "ab", buffering=0) as file:
            file.write(f"{line}\n".encode())


def wait_for(gate: str) -> None:
    """Wait for the file. Raises RuntimeError if it holds a text, or after some minutes."""
    until = time.monotonic() + LONGEST_WAIT
    while gate and not Path(gate).exists():
        if time.monotonic() > until:
            raise RuntimeError(f"{gate} did not appear")
        time.sleep(0.02)
    if gate and (text := Path(gate).read_text()):
        raise RuntimeError(text)


def noted(log: Path) -> list[str]:
    """The lines of a log so far."""
    return log.read_text().splitlines() if log.exists() else []


def _keep(value: int, folder: Path) -> None:
    (folder / "value").write_text(str(value))
