"""Identity: what makes two pieces of work the same, as a canonical encoding and a short key.

A permissive encoding would silently fork the cache (a memory address in a repr) or, worse, join two
different results under one key. So whatever has no canonical form is refused, with a message that
says what to do.
"""

import enum
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

KEY_LENGTH = 20  # hexadecimal digits: 80 bits, safe for billions of artifacts and still readable


class IdentityError(TypeError):
    """A value has no canonical form, so no key can be made of it."""


def canonical(value: object, where: str = "value") -> Any:
    """Encode `value` as plain JSON data that is equal exactly when the values are.

    Numbers that are equal encode alike (`1` and `1.0`), tuples as lists, enums by value, and
    dataclasses as the name of the class with the fields. Raises IdentityError, naming the place,
    for anything else (functions, paths, arrays, NaN, ...).
    """
    if isinstance(value, enum.Enum):
        return canonical(value.value, where)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise IdentityError(f"{where} is {value}: give a finite number")
        return int(value) if value.is_integer() else value
    if isinstance(value, list | tuple):
        return [canonical(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise IdentityError(f"{where} has the key {name!r}: only text can name an entry")
        return {name: canonical(value[name], f"{where}.{name}") for name in sorted(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__, **encode_config(value, where=where)}
    if isinstance(value, PurePath):
        raise IdentityError(
            f"{where} is a path, which names a place and not its content: "
            "make it a Source, or a neutral field"
        )
    raise IdentityError(
        f"{where} is a {type(value).__name__}, which has no canonical form: "
        "use numbers, text, tuples or dataclasses"
    )


def encode_config(
    config: object, neutral: Collection[str] = (), where: str = "config"
) -> dict[str, Any]:
    """Encode a dataclass instance, without the fields that cannot change the result."""
    if not is_dataclass(config) or isinstance(config, type):
        raise IdentityError(f"{where} must be a dataclass instance, not {config!r}")
    return {
        field.name: canonical(getattr(config, field.name), f"{where}.{field.name}")
        for field in fields(config)
        if field.name not in neutral
    }


def digest(value: object, where: str = "value") -> str:
    """The key of a value: the first 20 hexadecimal digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(canonical(value, where), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
