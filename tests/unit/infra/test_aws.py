"""infra/aws: Ray accepts the file of its cluster launcher."""

import copy
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from stageflow.machines_ray import startable

Config = dict[str, Any]


@pytest.fixture(scope="module")
def config(infra: Path) -> Config:
    loaded = yaml.safe_load((infra / "aws" / "cluster.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def prepared(config: Config) -> Config:
    """The file as the launcher completes it, if it accepts it."""
    found: Config = prepare_config(copy.deepcopy(config))
    validate_config(found)
    return found


def commands(config: Config) -> list[str]:
    return [line for key, lines in config.items() if key.endswith("_commands") for line in lines]


def test_ray_accepts_it(config: Config) -> None:
    nodes = prepared(config)["available_node_types"]
    assert nodes["head"]["max_workers"] == 0
    workers = [node for name, node in nodes.items() if name != "head"]
    assert workers
    assert all(node["min_workers"] == 0 for node in workers)


@pytest.mark.parametrize(
    ("part", "value"),
    [("idle_timeout", 3), ("head_node_type", "none"), ("setup_commands", "make setup")],
)
def test_ray_refuses_what_is_wrong(config: Config, part: str, value: object) -> None:
    with pytest.raises((jsonschema.ValidationError, ValueError, TypeError)):
        prepared(config | {part: value})


def test_only_workers_may_be_taken_away(config: Config) -> None:
    spot = {
        name: node["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        for name, node in config["available_node_types"].items()
    }
    assert spot == {"head": None, "gpu": "spot", "cpu": "spot"}


def test_flags_exist(config: Config, unknown_flags: Callable[[str], list[str]]) -> None:
    text = "\n".join(commands(config))
    assert "ray start --head" in text
    assert unknown_flags(text) == []


def test_sweeps_know_what_may_be_started(config: Config) -> None:
    [text] = re.findall(r'STAGEFLOW_MACHINES="([^"]+)"', "\n".join(commands(config)))
    machines = startable(text)
    gpus = [machine for machine in machines if machine.gpus]
    workers = config["available_node_types"]
    assert len(gpus) == workers["gpu"]["max_workers"]
    assert len(machines) == len(gpus) + workers["cpu"]["max_workers"]


def test_only_ssh_comes_in(config: Config) -> None:
    opened = config["provider"]["security_group"]["IpPermissions"]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in opened] == [(22, 22)]


def test_the_environment_is_a_file_and_its_secrets_are_not_here(
    config: Config, infra: Path
) -> None:
    example = (infra / "aws" / "cluster.env.example").read_text()
    lines = [line.partition("=") for line in example.splitlines() if not line.startswith("#")]
    given = {name: value for name, _, value in lines}
    assert given["RAY_AUTH_MODE"] == "token"
    assert {name for name, value in given.items() if not value} == {
        "PGPASSWORD",
        "MLFLOW_TRACKING_PASSWORD",
    }
    for value in given.values():  # a shell reads them
        assert shlex.quote(value or "x") == (value or "x")
    mounted = {Path(local).name for local in config["file_mounts"].values()}
    assert mounted == {"auth_token", "cluster.env"}
    assert "cluster.env" in (infra / "aws" / ".gitignore").read_text().split()
    assert not re.search(r"//[^/\s@:]+:[^/\s@]+@", example)
