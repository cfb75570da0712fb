"""Checks that several configurations share; each raises a ValueError that names the field."""

from __future__ import annotations

from typing import Literal, get_args

Compat = Literal["none", "release"]
"""Whether a method keeps what its released code does otherwise, to compare with it."""

BY_CONTENT = "sha256:"
"""How the name of initial weights begins that lie in a file, see `content_of`."""


def check_initial(weights: str) -> None:
    """Initial weights of a backbone: "imagenet", "random", or a file by its content."""
    if weights not in ("imagenet", "random") and not weights.startswith(BY_CONTENT):
        raise ValueError(f"weights is {weights!r}: give imagenet, random, or `content_of(file)`")


def check_rates(**given: float) -> None:
    """Learning rates and loss weights are 0 or more."""
    for field, value in given.items():
        if not value >= 0:
            raise ValueError(f"{field} is {value}: give 0 or more")


def check_choice(field: str, value: object, kind: object) -> None:
    """`value` is one of the literals of `kind`."""
    if value not in get_args(kind):
        choices = ", ".join(str(choice) for choice in get_args(kind))
        raise ValueError(f"{field} is {value!r}: choose from {choices}")


def check_least(least: float, **given: float) -> None:
    """Numbers are `least` or more."""
    for field, value in given.items():
        if not value >= least:
            raise ValueError(f"{field} is {value}: give {least:g} or more")


def check_positive(**given: float) -> None:
    """Numbers are above 0."""
    for field, value in given.items():
        if not value > 0:
            raise ValueError(f"{field} is {value}: give a positive number")


def check_share(**given: float) -> None:
    """Numbers lie in [0, 1]."""
    for field, value in given.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{field} is {value}: give a number in [0, 1]")
