"""Stages, and the nodes that calling them builds.

A stage is a function that reads directories and writes one directory, plus a frozen config:

    @stage(version="1", needs=Needs(cpus=1, gpus=0.5))
    def recam_maps(context: Context, images: Source, weights: Path, config: ReCAMMaps) -> None: ...

    maps = recam_maps(images, weights, ReCAMMaps(weight="product"))   # a node; nothing runs
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard, get_type_hints

from stageflow.context import Context
from stageflow.fingerprint import fingerprint
from stageflow.identity import canonical, digest, encode_config

Metrics: TypeAlias = Mapping[str, float]
"""What a stage returns: named numbers, written into the manifest of its artifact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What one execution occupies: CPU cores, GPUs (fractions share one), memory in bytes."""

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
    """Data that no stage makes: what it is (`identity`, hashed) and where it lies (not hashed)."""

    name: str
    location: str = field(compare=False)
    identity: Mapping[str, Any] = field(compare=False, repr=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        content = canonical(self.identity, f"source {self.name}")
        object.__setattr__(self, "key", digest(["source", self.name, content]))


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
        """Bind inputs (nodes and sources, in order) and the config.

        Raises TypeError naming what does not fit.
        """
        *inputs, config = arguments if arguments else (None,)
        if not isinstance(config, self.config_type):
            wanted = self.config_type.__name__
            raise TypeError(f"{self.name}: the last argument must be a {wanted}, not {config!r}")
        if len(inputs) != len(self.inputs):
            wanted = ", ".join([*self.inputs, "config"])
            raise TypeError(f"{self.name} takes ({wanted}), and was given {len(inputs)} inputs")
        for (name, kind), value in zip(self.inputs.items(), inputs, strict=True):
            expected = Source if kind is Source else Node
            if not isinstance(value, expected):
                raise TypeError(f"{self.name}: {name} must be a {expected.__name__}, not {value!r}")
        return Node(stage=self, config=config, inputs=tuple(inputs))  # type: ignore[arg-type]

    def __reduce__(self) -> Any:
        """Travel by name where a worker can import it, so that it runs the code it finds there.

        By value from a script, with the fingerprint: a worker has no file to take that of.
        """
        module, name = self.function.__module__, self.function.__qualname__
        found = getattr(sys.modules.get(module), name, None)
        known = isinstance(found, Stage) and replace(found, needs=self.needs) == self
        if known and module != "__main__":
            return (_imported, (module, name, self.needs))
        values = tuple(getattr(self, f.name) for f in fields(self))
        return (Stage, values, {"fingerprint": self.fingerprint})

    @cached_property
    def fingerprint(self) -> str:
        """See `stageflow.fingerprint`."""
        return fingerprint(self.function)

    def on(self, *, cpus: float | None = None, gpus: float | None = None) -> "Stage":
        """The same stage with other needs; needs never change the key."""
        needs = replace(
            self.needs,
            cpus=self.needs.cpus if cpus is None else cpus,
            gpus=self.needs.gpus if gpus is None else gpus,
        )
        return replace(self, needs=needs)


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
        sharded: the function does the part of `context.shard`; all parts' files make the artifact.
        neutral: config fields that cannot change the result (workers, inference batch size).
    """

    def declare(function: Callable[..., Metrics | None]) -> Stage:
        hints = get_type_hints(function)
        parameters = list(inspect.signature(function).parameters)
        config_type = hints.get(parameters[-1]) if len(parameters) > 1 else None
        if not _is_config(config_type) or hints.get(parameters[0]) is not Context:
            raise TypeError(
                f"stage {function.__name__}: the signature is (context: Context, inputs..., config)"
                ", and the config a frozen dataclass"
            )
        inputs = parameters[1:-1]
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


def _is_config(kind: Any) -> TypeGuard[type]:
    return (
        isinstance(kind, type) and is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    )


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
