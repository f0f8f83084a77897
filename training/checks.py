"""Checks of a configuration's values, with one form of error."""

from __future__ import annotations

from typing import NoReturn

from zkaudit.training.errors import TrainingError


def is_kind(value: object, kind: type) -> bool:
    """Whether TOML would call it that: no booleans among numbers, an integer is a number too."""
    return not isinstance(value, bool) and isinstance(value, (int, float) if kind is float else kind)


def integer(name: str, value: object, low: int, high: int) -> None:
    """TrainingError unless it is an integer in [low, high]."""
    if not is_kind(value, int) or not isinstance(value, int) or not low <= value <= high:
        refuse(name, value, f"an integer from {low} to {high}")


def refuse(name: str, value: object, allowed: str) -> NoReturn:
    """TrainingError that says what is allowed."""
    raise TrainingError(f"{name} is {value!r:.60}; it must be {allowed}")
