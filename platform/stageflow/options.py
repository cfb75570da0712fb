"""Options: a frozen dataclass as flags and as a TOML file, with errors that name the field.

Nested dataclasses become dotted flags (`--recam.loss-weight 0.5`) and TOML tables. The help text of
a field is its metadata: `field(default=3, metadata={"help": "seeds per row of the board"})`.
"""

import argparse
import difflib
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from stageflow.redact import safe

Config = TypeVar("Config")
Place: TypeAlias = Callable[[tuple[str, ...]], str]
"""How a user finds a field: its name, in parts, to a flag or to a place in a file."""


class OptionError(ValueError):
    """A flag or a field of a file does not fit; one line that names it."""


def add_flags(parser: argparse._ArgumentGroup, config: object, prefix: str = "") -> None:
    """Add a flag for every field of the dataclass instance; its values are the defaults."""
    for field, hint in _fields(type(config)):
        name, value = f"{prefix}{field.name}", getattr(config, field.name)
        if is_dataclass(hint):
            add_flags(parser, value, f"{name}.")
            continue
        text = field.metadata.get("help", "")
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            default=argparse.SUPPRESS,
            metavar=_metavar(hint),
            help=f"{text} (default: {_shown(value)})".strip().replace("%", "%%"),
        )


def from_flags(config: Config, given: Mapping[str, str]) -> Config:
    """`config` with the fields of `given` ("recam.loss_weight": "0.5") replaced.

    Raises OptionError naming the flag.
    """
    tree: dict[str, Any] = {}
    for name, text in given.items():
        *above, last = name.split(".")
        table = tree
        for part in above:
            table = table.setdefault(part, {})
        table[last] = text
    return _replaced(config, tree, lambda names: "--" + ".".join(names).replace("_", "-"))


def from_file(config: Config, path: Path) -> Config:
    """`config` with the fields of a TOML file replaced.

    Raises OptionError naming the file and the field.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not TOML: {error}") from error
    return _replaced(config, data, lambda names: f"{path}: {'.'.join(names)}")


def _replaced(
    config: Config, given: Mapping[str, Any], place: Place, above: tuple[str, ...] = ()
) -> Config:
    """All given fields at once, because a dataclass checks its values against each other."""
    hints = {field.name: hint for field, hint in _fields(type(config))}
    new: dict[str, Any] = {}
    for name, value in given.items():
        where, hint = place((*above, name)), hints.get(name)
        if hint is None:
            near = difflib.get_close_matches(name, hints, n=1)
            say = f"did you mean {near[0]}?" if near else f"there are {', '.join(hints)}"
            raise OptionError(f"{where}: {type(config).__name__} has no field {name!r}; {say}")
        is_table = is_dataclass(hint)
        if is_table and isinstance(value, Mapping):
            new[name] = _replaced(getattr(config, name), value, place, (*above, name))
        elif is_table:
            inside = ", ".join(f"{name}.{field.name}" for field, _ in _fields(hint))
            raise OptionError(f"{where} is a table, not a value: set {inside}")
        else:
            new[name] = _parsed(value, hint, where)
    try:
        return replace(config, **new)  # type: ignore[type-var]
    except ValueError as error:  # the dataclass checks its own values
        where = ", ".join(place((*above, name)) for name in new)
        raise OptionError(f"{where}: {error}") from error


def _parsed(value: Any, hint: Any, where: str) -> Any:
    """The value of a flag (text) or of TOML as the field's type wants it."""
    if get_origin(hint) in (Union, UnionType):
        if value == "none" and NoneType in get_args(hint):
            return None
        hint = next(part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Literal:
        choices = {str(choice): choice for choice in get_args(hint)}
        if str(value) not in choices:
            raise OptionError(f"{where} is {value!r}: choose from {', '.join(choices)}")
        return choices[str(value)]
    if get_origin(hint) is tuple and isinstance(value, str | list):
        return _parsed_tuple(value, get_args(hint), where)
    if hint is bool and str(value).lower() in ("true", "false", "1", "0", "yes", "no"):
        return str(value).lower() in ("true", "1", "yes")
    number = _number(value, hint) if hint in (int, float) else None
    if number is not None:
        return number
    if hint is str and isinstance(value, str):
        return value
    raise OptionError(f"{where} is {value!r}: it takes {_metavar(hint)}")


def _parsed_tuple(value: str | list[Any], kinds: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    items = value.split(",") if isinstance(value, str) and value else list(value)
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(items)
    if len(items) != len(kinds):
        raise OptionError(f"{where} has {len(items)} values: it takes {len(kinds)}")
    return tuple(_parsed(item, kind, where) for item, kind in zip(items, kinds, strict=True))


def _number(value: Any, kind: type[int] | type[float]) -> int | float | None:
    """A finite number of this kind, if the value is one or spells one: 2.5 is no integer."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or isinstance(value, str) or (kind is float and isinstance(value, float))):
        return None
    try:
        number = kind(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _fields(kind: type) -> Iterator[tuple[Field[Any], Any]]:
    hints = get_type_hints(kind)
    return ((field, hints[field.name]) for field in fields(kind) if field.init)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else safe(str(value))


def _metavar(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        parts = get_args(hint)
        return "|".join("none" if part is NoneType else _metavar(part) for part in parts)
    if get_origin(hint) is tuple:
        return ",".join("..." if kind is Ellipsis else _metavar(kind) for kind in get_args(hint))
    return {int: "INTEGER", float: "NUMBER", str: "TEXT", bool: "yes|no"}.get(hint, str(hint))
