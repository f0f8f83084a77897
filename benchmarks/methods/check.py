"""One small check of one method: a published effect, ours on a small workload, and the ratio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """What a check found, in the check's unit; `published` is None where the paper gives no number."""

    ours: float
    published: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Check:
    """`run` measures it in less than a minute on one core; `goal` says which way is good: "higher", "lower" or "equal"."""

    method: str  # its name in the catalogue
    what: str  # the effect, in words
    unit: str
    goal: str
    run: Callable[[], Measured]

    def ratio(self, found: Measured) -> float | None:
        """Ours over the published effect."""
        return None if found.published in (None, 0) else found.ours / found.published
