"""The shape of the project: what lies where, what imports what, and what must not be there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = {
    *("platform", "wsss", "sweeps", "infra", "tests", ".ci"),
    *("pyproject.toml", "requirements.lock", "Makefile", "README.md", ".gitignore", ".rayignore"),
}
LONGEST = {True: 400, False: 450}  # lines of the product's files, and of tests
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def files() -> list[Path]:
    """All files of the project that git knows, or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("no repository to ask what belongs to the project")
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


def product() -> list[Path]:
    """The modules that users run: not the tests, nor the contract classes."""
    return [
        path
        for path in files()
        if path.suffix == ".py"
        and path.relative_to(ROOT).parts[0] in ("platform", "wsss", "sweeps", "infra")
        and not path.name.startswith("testing")
    ]


def experiments() -> list[Path]:
    return sorted(set((ROOT / "sweeps").glob("*.py")) - {ROOT / "sweeps" / "__init__.py"})


def test_platform_is_no_package() -> None:
    """With an `__init__.py` it would hide the standard library's `platform` from every program."""
    assert {path.name for path in (ROOT / "platform").iterdir()} - {"__pycache__"} == {"stageflow"}


@pytest.mark.parametrize("module", ["platform", "uuid", "asyncio", "ray", "pip"])
def test_standard_library_from_the_checkout(module: str) -> None:
    code = f"import {module}, platform; assert platform.system(); print(platform.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not Path(done.stdout.strip()).is_relative_to(ROOT / "platform")


def test_top_level() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in files()} == TOP


def test_no_long_files() -> None:
    """One idea, one file: beyond this, there are two."""
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in files()
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".yml", ".sh")
    }
    long = {
        n: length for n, length in lengths.items() if length > LONGEST[not n.startswith("tests/")]
    }
    assert long == {}
    assert lengths["README.md"] <= 150


def test_no_pickle() -> None:
    """What is loaded from a store that others can write to must not be code."""
    found = []
    for path in product():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import) and PICKLES & {
                alias.name.partition(".")[0] for alias in node.names
            }:
                found.append(f"{where} imports pickle")
            if isinstance(node, ast.ImportFrom) and (
                {(node.module or "").partition(".")[0], *(a.name for a in node.names)} & PICKLES
            ):
                found.append(f"{where} imports pickle")
            if isinstance(node, ast.Call) and _unpickles(node):
                found.append(f"{where} loads a pickle")
    assert found == []


def _unpickles(call: ast.Call) -> bool:
    options = {option.arg: ast.unparse(option.value) for option in call.keywords}
    if ast.unparse(call.func) == "torch.load":
        return options.get("weights_only") != "True"
    return options.get("allow_pickle", "False") != "False"


@pytest.mark.parametrize("source", ["torch.load(f)", "torch.load(f, weights_only=False)"])
def test_no_pickle_finds_it(source: str) -> None:
    call = ast.parse(source, mode="eval").body
    assert isinstance(call, ast.Call)
    assert _unpickles(call)


def test_there_are_experiments() -> None:
    assert ROOT / "sweeps" / "recam_threshold.py" in experiments()


@pytest.mark.parametrize("path", experiments(), ids=lambda path: path.name)
def test_experiments_run_by_themselves(path: Path) -> None:
    """`ray job submit sweeps/x.py` is a command of a shell: without the bit, permission denied."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env python\n")
    assert os.access(path, os.X_OK)
    assert 'if __name__ == "__main__":' in text
    listed = subprocess.run(
        ["git", "ls-files", "-s", str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert not listed.stdout or listed.stdout.startswith("100755 ")


def test_direction_of_imports() -> None:
    """The contracts of pyproject.toml hold: sweeps, wsss, stageflow; and no torch below."""
    command = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_lock_names_no_registry() -> None:
    """Pinned versions of packages, from whichever index the user has."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = re.compile(r"[a-z0-9][a-z0-9._-]*(\[[a-z0-9,_-]+\])?==[0-9][^\s/@]*( ;.*)?")
    assert len(lines) > 50
    assert [line for line in lines if not pinned.fullmatch(line)] == []
    assert [line for line in lines if "://" in line or line.startswith("-")] == []
