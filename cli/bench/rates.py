"""How fast this CPU does the two operations that proving consists of, one thread, nothing else in the way.

A multiplication is timed on arrays that stay in the first-level cache, at two lengths, so that the cost of a call cancels.
field.mul also turns elements from memory's form into the lanes' and back, which a pass does once an entry, not once a
multiplication; from_wide multiplies three times for the same loads and one store, so the difference shows what two
multiplications in registers take. The lower of both is the limit: with this arithmetic no pass over tables can multiply faster.
Passes that share reductions between products do better by count alone, which limit.py allows for.

An addition: a many-row sum of 16-bit numbers, whose additions are batch-affine and counted by the cost model (additions.py)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zkaudit.cli.bench.additions import Rows, row_additions
from zkaudit.zk import curve, field
from zkaudit.zk.backend import core

SHORT, LONG = 64, 320  # wide numbers and elements of LONG take 30 KiB
CALLS = 1000
STREAM = 1 << 18  # three arrays take 24 MiB
COLUMNS, ROWS = 1024, 2048
REPEATS = 7


@dataclass(frozen=True)
class Rates:
    """Seconds an operation, on one thread."""

    multiplication: float
    addition: float


def measure() -> Rates:
    """The best of several runs of each; uses one thread and leaves the setting at that."""
    field.set_threads(1)
    curve.set_threads(1)
    return Rates(tight_multiplication(), addition())


def tight_multiplication() -> float:
    """Seconds a field multiplication with nothing but the multiplier in the way."""
    alone, with_two_more = _an_element(_multiply), _an_element(_reduce_wide)
    return min(alone, (with_two_more - alone) / 2)


def streamed_multiplication() -> float:
    """Seconds a field multiplication on arrays that do not fit the cache: what memory leaves of it."""
    a, b = _elements(STREAM), _elements(STREAM)
    out = np.empty_like(a)
    return best(lambda: core.mul(a, b, out)) / STREAM


def addition() -> float:
    """Seconds a batch-affine point addition inside a many-row sum."""
    generators = curve.generators(b"zkaudit-bench-rates", COLUMNS)
    matrix = np.random.default_rng(0).integers(0, 1 << 16, (ROWS, COLUMNS), np.uint16)
    additions = row_additions([Rows(ROWS, matrix.size, 16)], COLUMNS)
    return best(lambda: curve.msm_rows([matrix], generators), 3) / additions


def best(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of several runs: the one that was disturbed least."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def _an_element(calls_at: Callable[[int], Callable[[], object]]) -> float:
    """Seconds an element of a kernel, the cost of its call taken away."""
    short, long = (best(calls_at(length)) / CALLS for length in (SHORT, LONG))
    return (long - short) / (LONG - SHORT)


def _multiply(length: int) -> Callable[[], object]:
    a, b = _elements(length), _elements(length)

    def calls() -> None:
        for _ in range(CALLS):
            core.mul(a, b, a)

    return calls


def _reduce_wide(length: int) -> Callable[[], object]:
    wide, out = np.frombuffer(np.random.default_rng(0).bytes(64 * length), "<u8"), _elements(length)

    def calls() -> None:
        for _ in range(CALLS):
            core.from_wide(wide, out)

    return calls


def _elements(count: int) -> field.Array:
    return field.from_wide_bytes(np.random.default_rng(0).bytes(64 * count))
