"""Options: a frozen dataclass as command-line flags and as a TOML file, with errors that name the field.

Nested dataclasses become dotted flags (`--recam.loss-weight 0.5`) and TOML tables. The help text of a field is
its metadata: `field(default=3, metadata={"help": "seeds per row of the board"})`.
"""

import argparse
import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


class OptionError(ValueError):
    """A flag or a field of a file does not fit; one line that names it."""


def add_flags(parser: argparse._ArgumentGroup, kind: type, prefix: str = "") -> None:
    """Add a flag for every field of the dataclass, nested ones dotted."""
    for field, hint in _fields(kind):
        name = f"{prefix}{field.name}"
        if is_dataclass(hint):
            add_flags(parser, hint, f"{name}.")  # type: ignore[arg-type]
            continue
        default = _default(field)
        text = field.metadata.get("help", "")
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            default=argparse.SUPPRESS,
            metavar=_metavar(hint),
            help=f"{text} (default: {_shown(default)})".strip().replace("%", "%%"),
        )


def from_flags(config: Config, given: Mapping[str, str]) -> Config:
    """`config` with the fields of `given` ("recam.loss_weight": "0.5") replaced, parsed by their types."""
    for name, text in given.items():
        config = _set(config, name.split("."), text, f"--{name.replace('_', '-')}")
    return config


def from_file(config: Config, path: Path) -> Config:
    """`config` with the fields of a TOML file replaced. Raises OptionError naming the file and the field."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not TOML: {error}") from error
    for names, value in _leaves(data):
        config = _set(config, names, value, f"{path}: {'.'.join(names)}")
    return config


def _leaves(
    data: Mapping[str, Any], names: tuple[str, ...] = ()
) -> Iterator[tuple[list[str], Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*names, name))
        else:
            yield [*names, name], value


def _set(config: Config, names: Sequence[str], value: Any, where: str) -> Config:
    name, *rest = names
    hints = {field.name: hint for field, hint in _fields(type(config))}
    if name not in hints or bool(rest) != is_dataclass(hints[name]):
        near = difflib.get_close_matches(name, hints, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(hints)}"
        raise OptionError(f"{where}: {type(config).__name__} has no field {name!r}; {hint}")
    new = (
        _set(getattr(config, name), rest, value, where)
        if rest
        else _parsed(value, hints[name], where)
    )
    try:
        return replace(config, **{name: new})  # type: ignore[type-var]
    except ValueError as error:  # the dataclass checks its own values
        raise OptionError(f"{where}: {error}") from error


def _parsed(value: Any, hint: Any, where: str) -> Any:
    """The value of a flag (text) or of TOML as the field's type wants it."""
    if get_origin(hint) in (Union, UnionType):
        if value in (None, "none"):
            return None
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        choices = {str(choice): choice for choice in get_args(hint)}
        if str(value) not in choices:
            raise OptionError(f"{where} is {value!r}: choose from {', '.join(choices)}")
        return choices[str(value)]
    if get_origin(hint) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        return tuple(_parsed(item, get_args(hint)[0], where) for item in items)
    if hint is bool and str(value).lower() in ("true", "false", "1", "0", "yes", "no"):
        return str(value).lower() in ("true", "1", "yes")
    if hint in (int, float, str) and not isinstance(value, bool):
        try:
            return hint(value)
        except ValueError:
            pass
    raise OptionError(f"{where} is {value!r}: it takes {_metavar(hint)}")


def _fields(kind: type) -> Iterator[tuple[Field[Any], Any]]:
    hints = get_type_hints(kind)
    return ((field, hints[field.name]) for field in fields(kind) if field.init)  # type: ignore[arg-type]


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _metavar(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return "|".join(
            _metavar(part) if part is not type(None) else "none" for part in get_args(hint)
        )
    if get_origin(hint) is tuple:
        return f"{_metavar(get_args(hint)[0])},..."
    return {int: "INTEGER", float: "NUMBER", str: "TEXT", bool: "yes|no"}.get(hint, str(hint))
