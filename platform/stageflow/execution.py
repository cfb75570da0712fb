"""Execution of a node, the same in every executor: fetch inputs, run the function, upload."""

import math
import numbers
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from stageflow.artifact import Artifacts, Manifest, Part, folder_of
from stageflow.checkpoints import StoredCheckpoints
from stageflow.context import Context, Hooks, Shard
from stageflow.identity import encode_config
from stageflow.provenance import commit, libraries
from stageflow.stage import Node, Source


class StageError(RuntimeError):
    """A stage function failed, or returned what cannot be kept."""


def execute(
    node: Node,
    *,
    artifacts: Artifacts,
    hooks: Hooks,
    device: str,
    shard: Shard | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> Part:
    """Run the node's function, for one shard where it is split, and upload its files.

    As one of several `ranks` it runs with the others at the same time; only rank 0 uploads, and its
    part stands for all. Raises whatever the function raises; nothing is published then, and scratch
    folders are removed.
    """
    shard = shard or Shard()
    inputs = [_local(given, artifacts) for given in node.inputs]
    with tempfile.TemporaryDirectory(prefix=f"{node.name}-") as temporary:
        out, scratch = Path(temporary) / "out", Path(temporary) / "scratch"
        out.mkdir()
        scratch.mkdir()
        context = Context(
            out=out,
            scratch=scratch,
            device=device,
            shard=shard,
            hooks=hooks,
            checkpoints=StoredCheckpoints(
                artifacts, folder_of(node), unfinished(node, shard), scratch
            ),
            rank=rank,
            ranks=ranks,
        )
        started, clock = time.time(), time.perf_counter()
        returned = node.stage.function(context, *inputs, node.config)
        seconds = time.perf_counter() - clock
        metrics = _checked(node, returned)
        gpus = min(node.stage.needs.gpus, ranks)  # a process has no more than one
        return Part(
            files=artifacts.put(folder_of(node), out) if rank == 0 else (),
            metrics=metrics,
            reports=tuple(context.reports),
            resumed_from=() if context.resumed_from is None else (context.resumed_from,),
            started=started,
            wall_seconds=seconds,
            gpu_seconds=seconds * gpus if context.device != "cpu" else 0.0,
            host=socket.gethostname(),
            device=context.device,
        )


def unfinished(node: Node, shard: Shard) -> str:
    """Under which name an unfinished node keeps what is done; other code cannot go on from it."""
    return f"{node.stage.fingerprint}-{shard.index}-of-{shard.count}"


def assemble(node: Node, parts: Sequence[Part]) -> Manifest:
    """The manifest of a node from the parts of its shards: files joined, seconds summed.

    Raises StageError when two shards wrote the same path, or a sharded stage told metrics.
    """
    files = tuple(file for part in parts for file in part.files)
    paths = [file.path for file in files]
    if len(set(paths)) != len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise StageError(
            f"{node.name}: two shards wrote {twice}: name files by the first image of the shard"
        )
    if node.stage.sharded and any(part.metrics or part.reports for part in parts):
        raise StageError(
            f"{node.name} is declared sharded, so it cannot tell metrics: write them to a file"
        )
    return Manifest(
        key=node.key,
        stage=node.name,
        version=node.stage.version,
        config=_recorded(node),
        inputs={
            name: _described(given)
            for name, given in zip(node.stage.inputs, node.inputs, strict=True)
        },
        files=files,
        metrics=parts[0].metrics,
        reports=tuple(report for part in parts for report in part.reports),
        resumed_from=tuple(step for part in parts for step in part.resumed_from),
        shards=len(parts),
        fingerprint=node.stage.fingerprint,
        commit=commit(),
        libraries=libraries(),
        hosts=tuple(sorted({part.host for part in parts})),
        device=parts[0].device,
        started=min(part.started for part in parts),
        wall_seconds=sum(part.wall_seconds for part in parts),
        gpu_seconds=sum(part.gpu_seconds for part in parts),
    )


def _local(given: "Node | Source", artifacts: Artifacts) -> "Path | Source":
    if isinstance(given, Source):
        return given
    manifest = artifacts.manifest(given)
    if manifest is None:
        raise StageError(f"input {folder_of(given)} is not in {artifacts.store.uri}: run it first")
    return artifacts.fetch(manifest)


def _described(given: "Node | Source") -> dict[str, object]:
    described: dict[str, object] = {"name": given.name, "key": given.key}
    return (
        described | {"identity": dict(given.identity)} if isinstance(given, Source) else described
    )


def _recorded(node: Node) -> dict[str, object]:
    """The whole config; neutral fields, which may hold anything, as text."""
    neutral = {name: str(getattr(node.config, name)) for name in node.stage.neutral}
    return {**encode_config(node.config, node.stage.neutral), **neutral}


def _checked(node: Node, returned: object) -> dict[str, float]:
    metrics = {} if returned is None else returned
    if not isinstance(metrics, Mapping) or not all(
        isinstance(name, str) and isinstance(value, numbers.Real) for name, value in metrics.items()
    ):
        raise StageError(f"{node.name} returned {metrics!r}: return numbers by name, or nothing")
    infinite = [name for name, value in metrics.items() if math.isinf(value)]
    if infinite:
        raise StageError(f"{node.name}: metric {infinite[0]} is infinite: return a finite number")
    return {name: float(value) for name, value in metrics.items()}
