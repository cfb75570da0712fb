"""Provenance: which commit and which library versions made a number."""

import hashlib
import os
import shlex
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stageflow.fingerprint import project_packages

COMMIT_VARIABLE = "STAGEFLOW_COMMIT"
LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "ray",
    "optuna",
    "mlflow",
    "pydensecrf2",
)


@lru_cache(maxsize=1)
def commit() -> str:
    """The git commit of the running code, "-dirty" behind it if files were changed.

    Where there is no repository (a working directory shipped by `ray job submit` has none), the
    digest of the project's source files as "source:...". A driver tells its workers through the
    environment.
    """
    if told := os.environ.get(COMMIT_VARIABLE):
        return told
    root = Path(__file__).parent
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    if head is None:
        return f"source:{_source_digest()}"
    return head + ("-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def command() -> str:
    """The command line of this process, as one would type it in the folder that it ran in."""
    script, *given = sys.argv
    near, here = Path(script).resolve(), Path.cwd()
    name = near.relative_to(here).as_posix() if near.is_relative_to(here) else script
    return shlex.join([name, *given])


@lru_cache(maxsize=1)
def libraries() -> dict[str, str]:
    """Versions of the installed libraries that can change a result."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _source_digest() -> str:
    state = hashlib.sha256()
    for package in project_packages():
        for path in sorted(package.rglob("*.py")):
            state.update(path.relative_to(package.parent).as_posix().encode())
            state.update(path.read_bytes())
    return state.hexdigest()[:12]
