"""What a search for sequences returns, and how versions of one sequence are told from different ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Found:
    """Token ids with their mean distance; `gain` is how much closer than chance they are, in nats, larger is better."""

    ids: tuple[int, ...]
    distance: float
    gain: float
    passed: bool


@dataclass(frozen=True)
class Result:
    """The sequences that passed every test and the best that did not; `counts` of each step, `bounded` if a limit cut."""

    complete: Sequence[Found]
    failed: Sequence[Found]
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    bounded: bool = False


def similar(a: Sequence[int], b: Sequence[int], share: float) -> bool:
    """Whether two sequences agree in this share of the longer one's positions."""
    return sum(x == y for x, y in zip(a, b, strict=False)) >= share * max(len(a), len(b))


def best(result: Result, count: int, distinct: float, published: bool) -> list[Found]:
    """At most `count`: those that passed, then failures that are no version of one chosen already.

    If more passed than there are records, versions of one give way to others.
    """

    def order(found: Found) -> tuple[float, ...]:
        return (found.distance,) if published else (-found.gain, found.distance)

    passed = list(dict.fromkeys(result.complete if published else sorted(result.complete, key=order)))
    if len(passed) > count and not published:
        chosen = _apart([], passed, count, distinct)
        return [*chosen, *[found for found in passed if found not in chosen]][:count]
    return _apart(passed[:count], sorted(result.failed, key=order), count, distinct)


def _apart(chosen: list[Found], others: Sequence[Found], count: int, distinct: float) -> list[Found]:
    chosen = list(chosen)
    for found in others:
        if len(chosen) >= count:
            break
        if not any(_version(found.ids, known.ids, distinct) for known in chosen):
            chosen.append(found)
    return chosen


def _version(a: Sequence[int], b: Sequence[int], distinct: float) -> bool:
    """Agreement over the shorter one, so that a beginning counts as a version of the whole."""
    shorter = min(len(a), len(b))
    return sum(x == y for x, y in zip(a, b, strict=False)) >= distinct * shorter
