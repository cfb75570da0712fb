"""Declaring stages, building nodes, what their keys depend on, and how they travel."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from stageflow import testing_stages as toys
from stageflow.context import Context
from stageflow.fingerprint import fingerprint
from stageflow.identity import IdentityError
from stageflow.stage import Metrics, Needs, Node, Source, Stage, ancestry, stage


@dataclass(frozen=True, kw_only=True)
class Config:
    rate: float = 0.1
    workers: int = 2
    place: Path = Path("/somewhere")


@dataclass
class Loose:
    rate: float = 0.1


@stage(version="1", neutral=("workers", "place"))
def make(context: Context, config: Config) -> Metrics:
    return {}


@stage(version="1", neutral=("workers", "place"))
def join(context: Context, left: Path, right: Path, config: Config) -> None:
    return None


@stage(version="1", neutral=("workers", "place"))
def read(context: Context, images: Source, config: Config) -> None:
    return None


def source(name: str = "voc", place: str = "/data", **identity: object) -> Source:
    return Source(name, place, identity or {"ids": "1a2b"})


class TestDeclaration:
    def test_defaults(self) -> None:
        assert (make.name, make.version, make.needs, make.sharded) == ("make", "1", Needs(), False)
        assert join.inputs == {"left": Path, "right": Path}
        assert read.inputs == {"images": Source}
        assert make.config_type is Config

    def test_signature(self) -> None:
        def nothing() -> None: ...
        def no_config(context: Context) -> None: ...
        def no_context(config: Config) -> None: ...
        def other_order(config: Config, context: Context) -> None: ...
        def number(context: Context, config: int) -> None: ...
        def mutable(context: Context, config: Loose) -> None: ...
        def bare(context, config) -> None: ...  # type: ignore[no-untyped-def]

        wrong: list[Callable[..., Any]]
        wrong = [nothing, no_config, no_context, other_order, number, mutable, bare]
        for function in wrong:
            with pytest.raises(TypeError, match=f"^stage {function.__name__}: the signature is"):
                stage(version="1")(function)

    def test_inputs_are_paths_or_sources(self) -> None:
        def load(context: Context, images: str, config: Config) -> None: ...

        with pytest.raises(TypeError, match=r"^stage load: annotate images with Path or Source$"):
            stage(version="1")(load)

    def test_neutral_fields_exist(self) -> None:
        def load(context: Context, config: Config) -> None: ...

        with pytest.raises(TypeError, match=r"^stage load: no config field batch, worker$"):
            stage(version="1", neutral=("worker", "rate", "batch"))(load)

    @pytest.mark.parametrize(
        ("needs", "message"),
        [
            ({"cpus": -1}, r"needs\.cpus is -1: give zero or more"),
            ({"gpus": -0.5}, r"needs\.gpus is -0\.5: give zero or more"),
            ({"memory": -1}, r"needs\.memory is -1: give zero or more"),
            ({"gpus": 1.5}, r"needs\.gpus is 1\.5: give a fraction of one GPU, or whole GPUs"),
        ],
    )
    def test_needs(self, needs: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Needs(**needs)


class TestCall:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "make: the last argument must be a Config, not None"),
            ((Loose(),), r"make: the last argument must be a Config, not .*Loose\(rate=0\.1\)"),
            ((Config,), "make: the last argument must be a Config, not <class"),
            ((make(Config()), Config()), r"make takes \(config\), and was given 1 inputs"),
        ],
    )
    def test_wrong_config(self, arguments: tuple[object, ...], message: str) -> None:
        with pytest.raises(TypeError, match=f"^{message}"):
            make(*arguments)

    def test_wrong_inputs(self) -> None:
        node, config = make(Config()), Config()
        with pytest.raises(
            TypeError, match=r"^join takes \(left, right, config\), and was given 1"
        ):
            join(node, config)
        with pytest.raises(TypeError, match=r"^join: right must be a Node, not Source\("):
            join(node, source(), config)
        with pytest.raises(TypeError, match=r"^join: left must be a Node, not '/data'$"):
            join("/data", node, config)
        with pytest.raises(TypeError, match=r"^read: images must be a Source, not Node\("):
            read(node, config)

    def test_what_cannot_be_hashed_is_refused_at_once(self) -> None:
        with pytest.raises(IdentityError, match=r"^make\.rate is inf: give a finite number$"):
            make(Config(rate=float("inf")))
        with pytest.raises(IdentityError, match=r"^source voc\.root is a path"):
            source(root=Path("/data"))


class TestKey:
    def other_version(self, of: Stage) -> Stage:
        return replace(of, version="2")

    def test_depends_on_what_can_change_the_result(self) -> None:
        a, b = make(Config()), make(Config(rate=0.2))
        nodes = [
            a,
            b,
            self.other_version(make)(Config()),
            replace(make, name="made")(Config()),
            join(a, b, Config()),
            join(b, a, Config()),
            join(a, a, Config()),
            join(a, self.other_version(make)(Config()), Config()),
            join(a, b, Config(rate=0.2)),
            read(source(), Config()),
            read(source("coco"), Config()),
            read(source(ids="other"), Config()),
        ]
        assert len({node.key for node in nodes}) == len(nodes)

    def test_does_not_depend_on_anything_else(self) -> None:
        node = make(Config())
        assert make(Config(workers=9, place=Path("/elsewhere"))).key == node.key
        assert make.on(cpus=4, gpus=0.5)(Config()).key == node.key
        assert read(source(place="/here"), Config()) == read(source(place="/there"), Config())
        assert join(node, node, Config()).key == join(make(Config()), node, Config()).key

    def test_node_is_its_key(self) -> None:
        a, b = make(Config()), make(Config())
        assert a == b
        assert len({a, b}) == 1
        assert a != make(Config(rate=0.2))
        assert a != a.key
        assert (a.name, a.parents) == ("make", ())
        assert join(a, b, Config()).parents == (a, b)
        assert read(source(), Config()).parents == ()


def test_on_keeps_what_is_not_given() -> None:
    declared = replace(make, needs=Needs(cpus=2, gpus=1, memory=5))
    assert declared.on(gpus=0.25).needs == Needs(cpus=2, gpus=0.25, memory=5)
    assert declared.on(cpus=0).needs == Needs(cpus=0, gpus=1, memory=5)
    assert declared.needs == Needs(cpus=2, gpus=1, memory=5)


def test_ancestry() -> None:
    """Parents first, everything once, also where paths meet again."""
    a, b = make(Config()), make(Config(rate=0.2))
    left, right = join(a, b, Config()), join(b, a, Config())
    top = join(left, right, Config())
    order = ancestry(right, top, make(Config()))
    assert len(order) == 5
    for node in order:
        assert all(order.index(parent) < order.index(node) for parent in node.parents)
    assert ancestry() == []


def test_deep_ancestry_shares() -> None:
    """A ladder of thirty rungs is thirty nodes, not two to the thirtieth visits."""
    node = make(Config())
    for _ in range(30):
        node = join(node, node, Config())
    assert len(ancestry(node)) == 31


class TestTravel:
    def test_by_name(self) -> None:
        """Small, and the receiver gets the stage that it finds in its own module."""
        node = toys.count.on(cpus=2, gpus=0.5)(toys.Counting(label="x"))
        data = pickle.dumps(node)
        assert len(data) < 500
        there: Node = pickle.loads(data)
        assert there == node
        assert there.stage.function is toys.count.function
        assert there.stage.needs == Needs(cpus=2, gpus=0.5)
        assert there.config == node.config

    def test_with_inputs(self) -> None:
        node = toys.copy(source(), toys.Telling(label="x"))
        there = pickle.loads(pickle.dumps(node))
        assert there.key == node.key
        assert there.inputs[0].location == "/data"
        assert there.inputs[0].identity == {"ids": "1a2b"}

    def test_second_stage_of_one_function(self) -> None:
        """It is not mixed up with the one that bears the function's name."""
        other = replace(toys.count, name="recount", version="7")
        there = cloudpickle.loads(cloudpickle.dumps(other(toys.Counting(label="x"))))
        assert (there.stage.name, there.stage.version) == ("recount", "7")

    def test_inside_a_function(self) -> None:
        """What cannot be found by name travels by value."""

        @stage(version="3")
        def inner(context: Context, config: Config) -> Metrics:
            return {"rate": config.rate}

        there = cloudpickle.loads(cloudpickle.dumps(inner))
        assert (there.name, there.version) == ("inner", "3")
        assert there.fingerprint == fingerprint(inner.function)

    def test_from_a_script(self, tmp_path: Path) -> None:
        """By value, and with its fingerprint: the receiver has not got the file."""
        script = tmp_path / "script.py"
        script.write_text(SCRIPT)
        sent = tmp_path / "sent"
        shown = subprocess.run(
            [sys.executable, str(script), str(sent)], capture_output=True, text=True, check=True
        )
        script.unlink()
        receive = (
            "import sys\nfrom ray import cloudpickle\n"
            "node = cloudpickle.loads(open(sys.argv[1], 'rb').read())\n"
            "print(node.key, node.stage.fingerprint)\n"
            "print(node.stage.function(None, node.config))"
        )
        got = subprocess.run(
            [sys.executable, "-c", receive, str(sent)], capture_output=True, text=True, check=True
        )
        key_and_fingerprint, result = got.stdout.splitlines()
        assert key_and_fingerprint == shown.stdout.strip()
        assert result == "{'value': 6}"


SCRIPT = """
import sys
from dataclasses import dataclass
from ray import cloudpickle
from stageflow.context import Context
from stageflow.stage import Metrics, stage

FACTOR = 2


@dataclass(frozen=True)
class Config:
    value: int = 3


@stage(version="1")
def double(context: Context, config: Config) -> Metrics:
    return {"value": FACTOR * config.value}


if __name__ == "__main__":
    node = double(Config())
    open(sys.argv[1], "wb").write(cloudpickle.dumps(node))
    print(node.key, node.stage.fingerprint)
"""
