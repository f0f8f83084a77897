"""Which defences no other one beats: at least as much utility with at most as much recovered, and better in one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zkaudit.attacks.errors import AuditError


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (utility, recovery) whether no other point dominates it; equal points do not dominate each other."""
    if any(math.isnan(value) for point in points for value in point):
        raise AuditError("a point of the utility-recovery plane is NaN")
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(other: tuple[float, float], point: tuple[float, float]) -> bool:
    return other[0] >= point[0] and other[1] <= point[1] and other != point
