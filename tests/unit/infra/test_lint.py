"""Every YAML file and every shell script of infra/ and .ci is well-formed."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RULES = {
    "extends": "default",
    "rules": {
        "line-length": {"max": 120},
        "document-start": "disable",  # one document a file
        "comments": {"min-spaces-from-content": 2},
        "braces": {"max-spaces-inside": 0},
        "truthy": {"check-keys": False},
    },
}
SKIPPED = ("templates",)  # of Helm: YAML only once rendered, which test_kubernetes does


def texts() -> list[Path]:
    """The files of infra/ and .ci that git knows or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "infra", ".ci"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("no repository to ask what belongs to the project")
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


def is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline()
    return path.suffix == ".sh" or (first.startswith(b"#!") and first.rstrip().endswith(b"sh"))


def yamllint(tool: Callable[[str], str], paths: list[Path]) -> str:
    command = [tool("yamllint"), "--strict", "--format=parsable", "-d", json.dumps(RULES)]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True)
    return done.stdout + done.stderr


def shellcheck(tool: Callable[[str], str], paths: list[Path]) -> str:
    command = [tool("shellcheck"), "--format=gcc", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_yaml(tool: Callable[[str], str]) -> None:
    found = [
        path
        for path in texts()
        if path.suffix in (".yaml", ".yml") and not set(SKIPPED) & set(path.parts)
    ]
    assert {"compose.yaml", "cluster.yaml", "values.yaml"} <= {path.name for path in found}
    assert yamllint(tool, found) == ""


def test_yaml_finds_a_key_twice(tool: Callable[[str], str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: 1\na: 2\n")
    assert "duplication of key" in yamllint(tool, [broken])


def test_shell(tool: Callable[[str], str]) -> None:
    found = [path for path in texts() if is_shell(path)]
    assert {"run", "take-gpu"} <= {path.name for path in found}
    assert shellcheck(tool, found) == ""


def test_shell_finds_what_is_not_quoted(tool: Callable[[str], str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.sh"
    broken.write_text("#!/bin/sh\nrm -r $1\n")
    assert "SC2086" in shellcheck(tool, [broken])
