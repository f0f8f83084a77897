"""Calls on vectors of elements, as the compiled core has them (cuda/cpu/bind_vector.hpp), for a machine."""

from __future__ import annotations

from typing import Any

from zkaudit.zk.backend import core as host
from zkaudit.zk.gpu.machine import Machine, count, reduce, run

INVERTED = 64  # elements that share an inversion


def add(m: Machine, a: Any, b: Any, out: Any) -> None:
    _element_wise(m, "add", a, b, out)


def sub(m: Machine, a: Any, b: Any, out: Any) -> None:
    _element_wise(m, "sub", a, b, out)


def mul(m: Machine, a: Any, b: Any, out: Any) -> None:
    _element_wise(m, "mul", a, b, out)


def neg(m: Machine, a: Any, out: Any) -> None:
    run(m, "neg", count(out), m.put(a), out)


def inverse(m: Machine, a: Any, out: Any) -> None:
    run(m, "inverse", -(-count(out) // INVERTED), m.put(a), out, count(out), INVERTED)


def total(m: Machine, a: Any, out: Any) -> None:
    out[:] = reduce(m, "total", 1, count(a), a)


def dot(m: Machine, a: Any, b: Any, out: Any) -> None:
    out[:] = reduce(m, "dot", 1, count(a), m.put(a), m.put(b))


def outer_sum(m: Machine, highs: Any, lows: Any, out: Any, terms: int) -> None:
    run(m, "outer_sum", count(out), m.put(highs), m.put(lows), out, terms, count(highs) // terms, count(lows) // terms)


def exclusive_cumsum(m: Machine, a: Any, out: Any, n: int) -> None:
    run(m, "row_scan", count(a) // n if n else 0, m.put(a), out, n)


def fold(m: Machine, table: Any, r: Any, out: Any) -> None:
    run(m, "fold", count(out), table, out, r)


def blocked_dot(m: Machine, table: Any, low: Any, high: Any, out: Any) -> None:
    """sum over h and l of high[h] low[l] table[h, l]; rows first."""
    rows = m.empty((count(high), 4))
    run(m, "row_dot", count(high), table, m.put(low), rows, count(low))
    host.dot(m.get(rows), m.get(high), out)


def _element_wise(m: Machine, kernel: str, a: Any, b: Any, out: Any) -> None:
    run(m, kernel, count(out), m.put(a), m.put(b), out, 0 if count(b) == 1 else 1)
