"""What is the same and what is not; the same in every process; and what is refused."""

from __future__ import annotations

import enum
import hashlib
import math
import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from stageflow.identity import KEY_LENGTH, IdentityError, canonical, digest, encode_config


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass(frozen=True)
class Sgd:
    rate: float = 0.1


@dataclass(frozen=True)
class Adam:
    rate: float = 0.1


@dataclass(frozen=True)
class Config:
    optimiser: Any = field(default_factory=Sgd)
    scales: tuple[float, ...] = (1.0, 0.5)
    workers: int = 2


@dataclass(frozen=True)
class Reordered:
    workers: int = 2
    scales: tuple[float, ...] = (1.0, 0.5)
    optimiser: Any = field(default_factory=Sgd)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, 1.0),
        (0.0, -0.0),
        (2**53, float(2**53)),
        (1e300, int(1e300)),
        (0.1 + 0.2, 0.30000000000000004),
        ((1, 2), [1, 2]),
        ((), []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, OrderedDict(a=1)),
        ({"a": {"b": 1}}, MappingProxyType({"a": MappingProxyType({"b": 1.0})})),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (np.float64(0.5), 0.5),
        (np.str_("x"), "x"),
        (Config(), Config(optimiser=Sgd(0.1), scales=[1, 0.5], workers=2.0)),  # type: ignore[arg-type]
    ],
)
def test_equal_values_have_one_key(left: object, right: object) -> None:
    assert digest(left) == digest(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, True),
        (0, False),
        (0, None),
        (1, "1"),
        (None, "null"),
        (None, "None"),
        (0.1, 0.1 + 2**-56),
        (0.3, 0.1 + 0.2),
        (2**53, 2**53 + 1),
        ("a", "A"),
        ("é", "e\u0301"),
        ("", " "),
        ("\ud800", "\ud801"),
        ((1, 2), (2, 1)),
        ((1, (2,)), (1, 2)),
        (((),), ()),
        ({"a": 1}, {"a": 2}),
        ({"a": None}, {}),
        ({"a": 1}, ["a", 1]),
        ("[1,2]", [1, 2]),
        (Sgd(), {"rate": 0.1}),
        (Sgd(), Adam()),
        (Config(optimiser=Sgd()), Config(optimiser=Adam())),
        (Config(scales=(1.0, 0.5)), Config(scales=(0.5, 1.0))),
    ],
)
def test_other_values_have_other_keys(left: object, right: object) -> None:
    assert digest(left) != digest(right)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "value is nan: give a finite number"),
        ([1.0, -math.inf], r"value\[1\] is -inf: give a finite number"),
        ({"lr": {"x": math.inf}}, "value.lr.x is inf"),
        ({1: "a"}, "value has the key 1: only text can name an entry"),
        ({"a": {None: 1}}, "value.a has the key None"),
        (Path("/data"), "value is a path, which names a place .* a Source, or a neutral field"),
        ([PurePosixPath("x")], r"value\[0\] is a path"),
        (print, "value is a builtin_function_or_method, which has no canonical form"),
        ({"f": lambda: 0}, "value.f is a function"),
        (Sgd, "value is a type"),
        (object(), "value is a object"),
        ({1, 2}, "value is a set"),
        (b"bytes", "value is a bytes"),
        (1j, "value is a complex"),
        (np.arange(3), "value is a ndarray"),
        (np.float32(0.5), "value is a float32"),
        (np.int64(3), "value is a int64"),
        (np.bool_(True), "value is a bool"),
        (range(3), "value is a range"),
        (Config(optimiser=print), "value.optimiser is a builtin_function_or_method"),
    ],
)
def test_what_has_no_canonical_form_is_refused(value: object, message: str) -> None:
    with pytest.raises(IdentityError, match=f"^{message}") as caught:
        digest(value)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value), "a memory address"


def test_key_is_the_hash_of_plain_json() -> None:
    """Written out, so that no key changes by accident: everybody's artifacts would be lost."""
    text = '["\\u00e9",1,0.5,true,null,{"a":[],"b":{"class":"Sgd","rate":0.1}}]'
    key = digest(["é", 1.0, 0.5, True, None, {"b": Sgd(), "a": ()}])
    assert key == hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
    assert len(key) == 20


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_same_key_in_every_process(seed: str) -> None:
    code = (
        "from stageflow.identity import digest\n"
        "names = {'b', 'a', 'c', 'ü'}\n"
        "print(digest([{name: 0.1 for name in names}, (1, 2.0), 'ü', None, True]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = digest([{name: 0.1 for name in ("ü", "a", "b", "c")}, (1, 2.0), "ü", None, True])
    assert done.stdout.strip() == here


def test_order_of_fields_does_not_matter() -> None:
    assert digest(encode_config(Config())) == digest(encode_config(Reordered()))


def test_neutral_fields_are_left_out() -> None:
    assert encode_config(Config(), neutral=("workers", "optimiser")) == {"scales": [1, 0.5]}
    few, many = (encode_config(Config(workers=n), ("workers",)) for n in (1, 16))
    assert few == many


def test_neutral_fields_need_no_canonical_form() -> None:
    assert "optimiser" not in encode_config(Config(optimiser=Path("/data")), ("optimiser",))


@pytest.mark.parametrize("value", [Config, None, {"a": 1}, (1,)])
def test_a_config_is_a_dataclass_instance(value: object) -> None:
    with pytest.raises(IdentityError, match=r"^training must be a dataclass instance, not ."):
        encode_config(value, where="training")


def test_an_error_names_the_config_and_the_field() -> None:
    with pytest.raises(IdentityError, match=r"^train\.scales\[1\] is nan: give a finite number$"):
        encode_config(Config(scales=(1.0, math.nan)), where="train")


def test_canonical_is_plain_data() -> None:
    value = canonical({"a": (Colour.RED, 2.0, Config())})
    assert value == {
        "a": [
            "red",
            2,
            {
                "class": "Config",
                "optimiser": {"class": "Sgd", "rate": 0.1},
                "scales": [1, 0.5],
                "workers": 2,
            },
        ]
    }
    assert type(value["a"][1]) is int
