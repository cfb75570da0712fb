"""Stages, and the nodes that calling them builds.

A stage is a function that reads directories and writes one directory, plus a frozen config:

    @stage(version="1", needs=Needs(cpus=1, gpus=0.5))
    def recam_maps(context: Context, images: Source, weights: Path, config: ReCAMMaps) -> Metrics: ...

    maps = recam_maps(images, weights, ReCAMMaps(weight="product"))   # a node; nothing runs
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from stageflow.context import Context
from stageflow.identity import digest, encode_config

Metrics: TypeAlias = Mapping[str, float]
"""What a stage returns: named numbers, written into the manifest of its artifact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What one execution of a stage occupies: CPU cores, GPUs (fractions share one), memory in bytes."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus", "memory"):
            if getattr(self, name) < 0:
                raise ValueError(f"needs.{name} is {getattr(self, name)}: give zero or more")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(
                f"needs.gpus is {self.gpus}: give a fraction of one GPU, or whole GPUs"
            )


@dataclass(frozen=True, slots=True)
class Source:
    """Data that no stage makes: what it is (`identity`, which is hashed) and where it lies (which is not)."""

    name: str
    location: str = field(compare=False)
    identity: Mapping[str, Any] = field(compare=False, repr=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", digest(["source", self.name, self.identity]))


@dataclass(frozen=True)
class Stage:
    """A function with its declaration; calling it with inputs and a config builds a Node."""

    function: Callable[..., Metrics | None]
    name: str
    version: str
    needs: Needs
    sharded: bool
    neutral: tuple[str, ...]
    inputs: Mapping[str, type]
    config_type: type

    def __call__(self, *arguments: object) -> "Node":
        """Bind inputs (nodes and sources, in order) and the config. Raises TypeError naming what does not fit."""
        *inputs, config = arguments if arguments else (None,)
        if not isinstance(config, self.config_type):
            raise TypeError(
                f"{self.name}: the last argument must be a {self.config_type.__name__}, not {config!r}"
            )
        if len(inputs) != len(self.inputs):
            raise TypeError(
                f"{self.name} takes {', '.join(self.inputs)} and a config; got {len(inputs)} inputs"
            )
        for (name, kind), value in zip(self.inputs.items(), inputs, strict=True):
            expected = Source if kind is Source else Node
            if not isinstance(value, expected):
                raise TypeError(f"{self.name}: {name} must be a {expected.__name__}, not {value!r}")
        return Node(stage=self, config=config, inputs=tuple(inputs))  # type: ignore[arg-type]

    def __reduce__(self) -> Any:
        """Travel by name where the module can be imported, so that a worker runs the code it finds there."""
        if self.function.__module__ == "__main__":
            return (Stage, tuple(getattr(self, f.name) for f in fields(self)))
        return (_imported, (self.function.__module__, self.function.__qualname__, self.needs))

    def on(self, *, cpus: float | None = None, gpus: float | None = None) -> "Stage":
        """The same stage with other needs; needs never change the key."""
        given = {
            name: value for name, value in (("cpus", cpus), ("gpus", gpus)) if value is not None
        }
        return replace(self, needs=replace(self.needs, **given))  # type: ignore[arg-type]


def _imported(module: str, name: str, needs: Needs) -> Stage:
    found: Stage = getattr(importlib.import_module(module), name)
    return replace(found, needs=needs)


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One piece of work: a stage with its config and inputs. Equal keys mean the same result."""

    stage: Stage
    config: Any
    inputs: "tuple[Node | Source, ...]"
    key: str = field(init=False)

    def __post_init__(self) -> None:
        config = encode_config(self.config, self.stage.neutral, where=self.stage.name)
        inputs = [given.key for given in self.inputs]
        object.__setattr__(
            self, "key", digest([self.stage.name, self.stage.version, config, inputs])
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def name(self) -> str:
        """Name of the stage, for people."""
        return self.stage.name

    @property
    def parents(self) -> "tuple[Node, ...]":
        """The inputs that are made by stages."""
        return tuple(given for given in self.inputs if isinstance(given, Node))


def stage(
    *,
    version: str,
    needs: Needs | None = None,
    sharded: bool = False,
    neutral: tuple[str, ...] = (),
) -> Callable[[Callable[..., Metrics | None]], Stage]:
    """Declare a stage function.

    Args:
        version: bump it when the code changes what comes out; part of every key.
        needs: resources of one execution (default: one CPU core).
        sharded: the function honours `context.shard`, and the union of its shards' files is the artifact.
        neutral: config fields that cannot change the result (workers, inference batch size).
    """

    def declare(function: Callable[..., Metrics | None]) -> Stage:
        hints = get_type_hints(function)
        first, *inputs, last = inspect.signature(function).parameters
        config_type = hints.get(last)
        if hints.get(first) is not Context or not is_dataclass(config_type):
            raise TypeError(
                f"stage {function.__name__}: the signature is (context: Context, inputs..., config)"
            )
        for name in inputs:
            if hints.get(name) not in (Path, Source):
                raise TypeError(f"stage {function.__name__}: annotate {name} with Path or Source")
        unknown = set(neutral) - {f.name for f in fields(config_type)}
        if unknown:
            raise TypeError(
                f"stage {function.__name__}: no config field {', '.join(sorted(unknown))}"
            )
        return Stage(
            function=function,
            name=function.__name__,
            version=version,
            needs=needs or Needs(),
            sharded=sharded,
            neutral=neutral,
            inputs={name: hints[name] for name in inputs},
            config_type=config_type,
        )

    return declare


def ancestry(*targets: Node) -> list[Node]:
    """The targets and all they depend on, each once, every node after its parents."""
    done: dict[str, Node] = {}

    def visit(node: Node) -> None:
        if node.key not in done:
            for parent in node.parents:
                visit(parent)
            done[node.key] = node

    for target in targets:
        visit(target)
    return list(done.values())
