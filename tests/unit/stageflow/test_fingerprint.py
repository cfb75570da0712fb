"""The fingerprint notices every edit that can change a result, and no other."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stageflow.fingerprint import fingerprint, project_packages

PROJECT = {
    "work/proj/__init__.py": '"""A project."""\n',
    "work/proj/stages.py": '''
"""Stages of the project."""
import math, installed, space.inside
from proj import maths
from .inner import deep
try:
    import json as codec
except ImportError:
    codec = None
if True:
    FACTOR = 2
FACTOR += 1
UNUSED = 3

class Base:
    """What a config is made from."""
    size: int = 1

class Config(Base):
    rate: float = 0.1
    """The rate."""

def helper(value: int) -> int:
    return value * FACTOR  # a comment

def loud(function):
    return function

@loud
def train(context, config: Config):
    """Train."""
    from proj.lazy import late
    import beside
    total = helper(maths.square(2)) + deep(1)
    return late(total) + math.pi

def other():
    import proj.unrelated
    return UNUSED

''',
    "work/proj/maths.py": '''
"""Maths."""
from proj import third
def square(x):
    "Square."
    return third.same(x * x)
''',
    "work/proj/third.py": "def same(x):\n    return x\n",
    "work/proj/inner/__init__.py": "from .deeper import deep\n",
    "work/proj/inner/deeper.py": "from .. import fourth\n\ndef deep(x):\n    return x\n",
    "work/proj/fourth.py": "VALUE = 1\n",
    "work/proj/lazy.py": "raise ImportError('not to be run')\n\ndef late(x):\n    return x\n",
    "work/proj/unrelated.py": "VALUE = 1\n",
    "work/space/inside.py": "VALUE = 1\n",
    "work/sweeps/__init__.py": "",
    "work/sweeps/beside.py": "VALUE = 1\n",
    "lib/site-packages/installed.py": "VALUE = 1\n",
}
SHOW = """
import sys
root, module, name = sys.argv[1:]
sys.path[:0] = [f"{root}/work", f"{root}/lib/site-packages", f"{root}/work/sweeps"]
import importlib
from stageflow.fingerprint import fingerprint
print(fingerprint(getattr(importlib.import_module(module), name)))
"""


def fingerprint_of(root: Path, edits: dict[str, tuple[str, str]], function: str = "train") -> str:
    """That of the project with edits (file: old text, new text), in a process of its own."""
    for name, text in PROJECT.items():
        old, new = edits.get(name, ("", ""))
        assert old in text
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.replace(old, new) if old else text)
    done = subprocess.run(
        [sys.executable, "-c", SHOW, str(root), "proj.stages", function],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


STAGES = "work/proj/stages.py"
SAME = {
    "a comment": (STAGES, "  # a comment", "  # another"),
    "a docstring": (STAGES, '"""Train."""', '"""Train, and\n    say so."""'),
    "no docstring": (STAGES, '    """Train."""\n', ""),
    "the docstring of a field": (STAGES, '"""The rate."""', '"""Of learning."""'),
    "the docstring of the module": (STAGES, '"""Stages of the project."""', ""),
    "layout": (
        STAGES,
        "helper(maths.square(2)) + deep(1)",
        "(helper(maths.square(2))\n + deep(1))",
    ),
    "a function that it does not use": (STAGES, "return UNUSED", "return -UNUSED"),
    "a constant that it does not use": (STAGES, "UNUSED = 3", "UNUSED = 4"),
    "an import that it does not use": (STAGES, "import proj.unrelated", "import proj.fourth"),
    "a module that it does not use": ("work/proj/unrelated.py", "1", "2"),
    "texts of a module": ("work/proj/maths.py", '    "Square."\n', ""),
    "an installed library": ("lib/site-packages/installed.py", "1", "2"),
}
OTHER = {
    "its code": (STAGES, "+ deep(1)", "- deep(1)"),
    "a constant": (STAGES, "FACTOR += 1", "FACTOR += 2"),
    "a constant in a condition": (STAGES, "FACTOR = 2", "FACTOR = 3"),
    "a text in an expression": (STAGES, "return value * FACTOR", "return value * len('12')"),
    "a helper": (STAGES, "return value * FACTOR", "return value + FACTOR"),
    "a decorator": (STAGES, "    return function\n", "    return function or print\n"),
    "the config": (STAGES, "rate: float = 0.1", "rate: float = 0.2"),
    "the base of the config": (STAGES, "size: int = 1", "size: int = 2"),
    "an imported module": ("work/proj/maths.py", "x * x", "x * x * x"),
    "a module behind it": ("work/proj/third.py", "return x", "return -x"),
    "a package": ("work/proj/inner/__init__.py", "import deep", "import deep as deep"),
    "a relative import": ("work/proj/inner/deeper.py", "return x", "return -x"),
    "a relative import of a module": ("work/proj/fourth.py", "1", "2"),
    "a lazy import": ("work/proj/lazy.py", "return x", "return -x"),
    "a module of a folder without __init__": ("work/space/inside.py", "1", "2"),
    "a module beside a script": ("work/sweeps/beside.py", "1", "2"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Fingerprints of all edits, by name, each from its own process; "" is no edit."""
    edits = {"": ("", "", ""), **SAME, **OTHER}

    def one(name: str) -> str:
        file, old, new = edits[name]
        return fingerprint_of(tmp_path_factory.mktemp("root"), {file: (old, new)})

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(edits, pool.map(one, edits), strict=True))


@pytest.mark.parametrize("edit", SAME)
def test_does_not_notice(found: dict[str, str], edit: str) -> None:
    assert found[edit] == found[""]


@pytest.mark.parametrize("edit", OTHER)
def test_notices(found: dict[str, str], edit: str) -> None:
    assert found[edit] != found[""]


def test_another_function(tmp_path: Path, found: dict[str, str]) -> None:
    assert fingerprint_of(tmp_path, {}, function="other") != found[""]


def load(source: str, name: str, file: Path) -> Callable[[], object]:
    file.write_text(source)
    scope: dict[str, Callable[[], object]] = {}
    exec(compile(source, str(file), "exec"), scope)
    return scope[name]


def test_of_the_code_that_was_loaded(tmp_path: Path) -> None:
    """An edit while a process runs changes nothing in it; a new process sees it."""
    file = tmp_path / "module.py"
    old = load("def run():\n    return 1\n", "run", file)
    before = fingerprint(old)
    new = load("def run():\n    return 2\n", "run", file)
    assert fingerprint(old) == before
    assert fingerprint(new) != before


def test_inner_functions_are_those_of_the_outer(tmp_path: Path) -> None:
    source = "RATE = {}\ndef make():\n    def run():\n        return RATE\n    return run\n"
    one, two = (
        load(source.format(rate), "make", tmp_path / f"module{rate}.py")() for rate in (1, 2)
    )
    assert callable(one)
    assert callable(two)
    assert fingerprint(one) != fingerprint(two)


def test_wrapped_functions_are_looked_into(tmp_path: Path) -> None:
    def shown(rate: int) -> str:
        inner = load(f"def run():\n    return {rate}\n", "run", tmp_path / f"module{rate}.py")

        @functools.wraps(inner)
        def outer() -> object:
            return inner()

        return fingerprint(outer)

    assert shown(1) != shown(2)


def test_code_in_no_file() -> None:
    scope: dict[str, Callable[[], object]] = {}
    exec("def run(): ...", scope)
    with pytest.raises(ValueError, match=r"^run is defined in <string>, which is no file: put it"):
        fingerprint(scope["run"])


def test_lambda(tmp_path: Path) -> None:
    nameless = load("run = lambda: 1\n", "run", tmp_path / "module.py")
    with pytest.raises(ValueError, match=r"module\.py has no '<lambda>' at its top level: define"):
        fingerprint(nameless)


def test_project_packages() -> None:
    """Those that workers have to be given: not libraries, nor modules."""
    names = [path.name for path in project_packages()]
    assert "stageflow" in names
    assert not {"pytest", "numpy", "asyncio", "json", "stage"} & set(names)
    assert all((path / "__init__.py").is_file() for path in project_packages())
