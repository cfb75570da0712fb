"""The fingerprint of a stage's code: a guard, written beside the key, that notices edits under one version.

It covers the syntax trees, without comments and docstrings, of the stage's function, of what that function
uses in its own module, and of every project module these import, directly or through others, lazily or not.
The platform itself is left out: it moves results about and does not make them.
"""

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

PLATFORM = __name__.partition(".")[0]
LIBRARIES = tuple(
    str(Path(path).resolve())
    for name, path in sysconfig.get_paths().items()
    if name in {"stdlib", "platstdlib", "purelib", "platlib"}
)


def fingerprint(function: Callable[..., Any]) -> str:
    """Digest of the code that `function` runs, as far as it belongs to the project."""
    tree = ast.parse(Path(function.__code__.co_filename).read_text(encoding="utf-8"))
    package = function.__module__.rpartition(".")[0]
    used = list(_reachable(tree, function.__name__))
    modules = _project_modules(_imports(used, package))
    parts = [_bare(node) for node in used]
    parts += [f"{name}:{_code(path)}" for name, path in sorted(modules.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def project_packages() -> list[Path]:
    """Folders of the imported top-level packages that are neither installed libraries nor the standard library."""
    found = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        is_package = "." not in name and path and Path(path).name == "__init__.py"
        if is_package and not _is_library(Path(path)):
            found.append(Path(path).resolve().parent)
    return sorted(found)


def _is_library(path: Path) -> bool:
    return any(str(path.resolve()).startswith(root) for root in LIBRARIES)


def _reachable(tree: ast.Module, start: str) -> Iterator[ast.stmt]:
    """The module's own statements that `start` depends on by name, and its imports, in file order."""
    defined = {name: node for node in tree.body for name in _names(node)}
    wanted, todo = set(), [start]
    while todo:
        node = defined.get(todo.pop())
        if node is not None and id(node) not in wanted:
            wanted.add(id(node))
            todo += [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    return (node for node in tree.body if id(node) in wanted)


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)


def _imports(nodes: Iterable[ast.AST], package: str) -> set[str]:
    """Absolute names of all modules (or names in modules) that the nodes import anywhere inside."""
    found: set[str] = set()
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def _project_modules(names: Iterable[str]) -> dict[str, Path]:
    """The project modules among `names` and all that they import in turn, with their files."""
    seen: dict[str, Path] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        path = _source(name)
        if name not in seen and path is not None:
            seen[name] = path
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            todo += _imports([ast.parse(path.read_text(encoding="utf-8"))], package)
    return seen


@lru_cache(maxsize=None)
def _source(name: str) -> Path | None:
    """The file of a project module; None for libraries, the platform, and names that are no module.

    Only the top-level package is asked for by import: finding `a.b.c` the usual way would import `a.b`, and
    with it perhaps torch, into a process that has to stay light.
    """
    top, *rest = name.split(".")
    if top in {PLATFORM, *sys.stdlib_module_names}:
        return None
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.origin or _is_library(Path(spec.origin)):
        return None
    base = Path(spec.origin).parent.joinpath(*rest) if rest else Path(spec.origin).parent
    candidates = (base / "__init__.py", base.with_suffix(".py") if rest else Path(spec.origin))
    return next((path for path in candidates if path.is_file()), None)


def _code(path: Path) -> str:
    return _bare(ast.parse(path.read_text(encoding="utf-8")))


def _bare(tree: ast.AST) -> str:
    """The code of a tree as text, without comments, docstrings and layout."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
