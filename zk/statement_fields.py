"""Checks of a statement's fields, with one form of error."""

from __future__ import annotations

from collections.abc import Sequence

from zkaudit.zk.errors import BadInput


def require_integer(name: str, value: object, low: int, high: int) -> None:
    """BadInput unless it is an integer, and no boolean, in [low, high]."""
    if type(value) is not int or not low <= value <= high:
        raise BadInput(f"statement field '{name}' is {str(value)[:40]}; it must be an integer from {low} to {high}")


def require_one_of(name: str, value: object, known: Sequence[str]) -> None:
    """BadInput unless it is one of these names."""
    if value not in known:
        raise BadInput(f"statement field '{name}' is {str(value)[:40]!r}; known are {', '.join(known)}")


def require_per_layer(name: str, values: object, layers: int) -> None:
    """BadInput unless it is a tuple of so many entries."""
    if not isinstance(values, tuple) or len(values) != layers:
        raise BadInput(f"statement field '{name}' must have {layers} entries")
