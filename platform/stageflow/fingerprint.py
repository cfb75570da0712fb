"""The fingerprint of a stage's code: a guard, beside the key, that notices edits under one version.

It covers the syntax trees, without comments and docstrings, of the stage's function, of what that
function uses in its own module, and of every project module these import, directly or through
others, lazily or not. The platform itself is left out: it moves results and does not make them.
"""

import ast
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

PLATFORM = __name__.partition(".")[0]
INSTALLED = {"site-packages", "dist-packages"}  # folders of what pip and distributions install
STANDARD = [Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib")]


@cache
def fingerprint(function: Callable[..., Any]) -> str:
    """Digest of the code that `function` runs, as far as it belongs to the project.

    Made once in a process: what runs is the code as it was imported, whatever is edited later.
    Raises ValueError for a function whose code is in no file.
    """
    function = inspect.unwrap(function)
    file, name = Path(function.__code__.co_filename), function.__qualname__.partition(".")[0]
    if not file.is_file():
        raise ValueError(f"{name} is defined in {file}, which is no file: put it into a module")
    used = list(_reachable(ast.parse(file.read_text(encoding="utf-8")), name))
    if not used:
        raise ValueError(f"{file} has no '{name}' at its top level: define it there with def")
    modules = _project_modules(_imports(used, function.__globals__.get("__package__") or ""))
    parts = [_bare(node) for node in used]
    parts += [f"{module}:{_module(path)[0]}" for module, path in sorted(modules.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def project_packages() -> list[Path]:
    """Folders of the imported top-level packages that belong to the project."""
    found = []
    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "")
        if "." not in name and path.name == "__init__.py" and not _is_library(path):
            found.append(path.resolve().parent)
    return sorted(found)


def _is_library(path: Path) -> bool:
    path = path.resolve()
    return bool(INSTALLED & set(path.parts)) or any(path.is_relative_to(root) for root in STANDARD)


def _reachable(tree: ast.Module, start: str) -> Iterator[ast.stmt]:
    """The module's statements that `start` depends on by name, its imports too, in file order."""
    binding: dict[str, list[ast.stmt]] = defaultdict(list)
    for node in tree.body:
        for name in _names(node):
            binding[name].append(node)
    wanted, todo = set(), [start]
    while todo:
        for node in binding.pop(todo.pop(), []):
            wanted.add(id(node))
            todo += [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]
    return (node for node in tree.body if id(node) in wanted)


def _names(node: ast.AST) -> Iterator[str]:
    """The names that a statement binds, also inside `if`, `try`, `with` and the like."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    else:
        for child in ast.iter_child_nodes(node):
            yield from _names(child)


def _imports(nodes: Iterable[ast.AST], package: str) -> set[str]:
    """Absolute names of all modules (or names in modules) that the nodes import anywhere inside."""
    found: set[str] = set()
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".") if node.level else []
            parents = above[: len(above) - node.level + 1]
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
            todo += _imports([_module(path)[1]], package)
    return seen


@cache
def _source(name: str) -> Path | None:
    """The file of a project module; None for libraries, the platform, and names that are no module.

    Only the top-level package is asked for by import: finding `a.b.c` the usual way would import
    `a.b`, and with it perhaps torch, into a process that has to stay light.
    """
    top, *rest = name.split(".")
    if top in {PLATFORM, "__main__", *sys.stdlib_module_names}:
        return None
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    candidates = [Path(spec.origin or "")]
    if rest:
        inside = [Path(folder, *rest) for folder in spec.submodule_search_locations or ()]
        candidates = [path for at in inside for path in (at / "__init__.py", Path(f"{at}.py"))]
    return next(
        (p for p in candidates if p.suffix == ".py" and not _is_library(p) and p.is_file()), None
    )


@cache
def _module(path: Path) -> tuple[str, ast.Module]:
    """The code of a whole module as text, and as a tree."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return _bare(tree), tree


def _bare(tree: ast.AST) -> str:
    """The code of a tree as text, without comments, docstrings and layout."""
    return ast.unparse(_WithoutTexts().visit(tree))


class _WithoutTexts(ast.NodeTransformer):
    """Takes out statements that are nothing but a text: docstrings of anything."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node
