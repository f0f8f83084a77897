"""Calls on small integers times elements (cuda/cpu/bind_small.hpp, bind_ternary.hpp), for a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zkaudit.zk import field
from zkaudit.zk.backend import core as host
from zkaudit.zk.gpu.machine import WORKERS, Machine, count, reduce, run

KINDS = [np.dtype(name) for name in ("uint8", "uint16", "int32", "uint32", "int64")]  # in the order of SmallKind
TERMS = 4  # of an affine form in one pass
LONGEST = 1 << 20  # terms of a sum of small products
TERNARY_BIAS = 1 << 41
FOLDED = 16  # outputs of fold_small a thread


def dot_small(m: Machine, a: Any, small: Any, out: Any) -> None:
    sums = reduce(m, f"dot_small_{small.dtype}", 1, count(a), m.put(a), m.put(small))
    lifted = field.mul(sums, _lift(small.dtype))
    out[:] = field.sub(lifted, _bias(small.dtype) * field.total(a) % field.MODULUS)


def combine(m: Machine, weights: Any, matrix: Any, out: Any) -> None:
    combine_all(m, [(weights, matrix)], out)


def combine_all(m: Machine, parts: Sequence[tuple[Any, Any]], out: Any) -> None:
    """The sum of several combinations: each fills its slices, and all slices are added up."""
    columns = count(out)
    slices = [_slices(columns, len(matrix)) for _, matrix in parts]
    lifted = m.put(np.concatenate([m.get(field.mul(weights, _lift(matrix.dtype))) for weights, matrix in parts]))
    partial, row, done, correction = m.empty((sum(slices), columns, 4)), 0, 0, 0
    for (weights, matrix), own in zip(parts, slices, strict=True):
        fields = (lifted[row : row + len(matrix)], m.put(matrix), partial[done : done + own])
        run(m, f"combine_{matrix.dtype}", own * columns, *fields, len(matrix), columns, own)
        if bias := _bias(matrix.dtype):
            correction += bias * field.total(weights)
        row, done = row + len(matrix), done + own
    run(m, "sum_slices", columns, partial, out, columns, done, field.from_ints([correction]))


def segment_dot(m: Machine, weights: Any, matrix: Any, out: Any, segments: int, length: int) -> None:
    rows = count(out) // segments if segments else 0
    slices = _slices(rows * segments, length)
    partial = m.empty((rows * segments, slices, 4))
    lifted = m.put(field.mul(weights, _lift(matrix.dtype)))
    fields = (lifted, m.put(matrix), partial, segments, length, matrix.shape[1], slices)
    run(m, f"segment_dot_{matrix.dtype}", rows * segments * slices, *fields)
    corrections = _corrections(m, weights, matrix.dtype, segments)
    run(m, "join_segments", rows * segments, partial, corrections, out, 1, segments, slices)


def evaluate_small(m: Machine, matrix: Any, high: Any, low: Any, out: Any) -> None:
    rows = m.empty((count(high), 4))
    segment_dot(m, low, matrix, rows, 1, count(low))
    host.dot(m.get(rows), m.get(high), out)


def affine(m: Machine, coefficients: Any, small: Sequence[Any], out: Any) -> None:
    """`coefficients` has the terms' coefficients, then the constant; more than TERMS terms take more passes."""
    *scales, constant = field.to_ints(coefficients)
    constant -= sum(scale * _bias(x.dtype) for scale, x in zip(scales, small, strict=True))
    for first in range(0, max(len(scales), 1), TERMS):
        terms = list(zip(scales, small, strict=True))[first : first + TERMS]
        fields: list[Any] = []
        for scale, x in terms:
            fields += [field.from_ints([scale << 104]), m.put(x), KINDS.index(x.dtype)]
        padding = np.zeros(48 * (TERMS - len(terms)), np.uint8)
        target = out if first == 0 else m.empty(out.shape)
        run(m, "affine", count(out), *fields, padding, len(terms), field.from_ints([0 if first else constant]), target)
        if first:
            run(m, "add", count(out), out, target, out, 1)


def words8(m: Machine, values: Any, offset: int, shift: int, out: Any) -> None:
    _words(m, "words8", values, offset, shift, out)


def words16(m: Machine, values: Any, offset: int, shift: int, out: Any) -> None:
    _words(m, "words16", values, offset, shift, out)


def histogram(m: Machine, values: Any, counts: Any) -> None:
    """counts[x] += how often x stands in `values`, 16-bit."""
    pieces = max(1, min(values.size // 64, WORKERS))
    run(m, "histogram", pieces, values, counts, values.size, pieces)


def ternary_sums(
    m: Machine, left: Any, left_scale: int, left_offset: int, right: Any, right_scale: int, right_offset: int, weights: Any,
    number: int, out: Any,
) -> None:  # fmt: skip
    highs = count(weights) // number
    lows = left.size // highs
    groups = lows // 8
    slices = _slices(3 * number * groups, highs)
    partial = m.empty((27 * number * groups, slices, 4))
    lifted = m.put(field.mul(weights, 1 << 104))
    fields = (m.put(left), m.put(right), left_scale, left_offset, right_scale, right_offset)
    run(m, f"ternary_{left.dtype}", 3 * number * groups * slices, *fields, lifted, partial, number, highs, lows, slices)
    totals = [field.total(weights.reshape(-1, 4)[k * highs : (k + 1) * highs]) for k in range(number)]
    corrections = m.put(field.from_ints([TERNARY_BIAS * x for x in totals]))
    run(m, "join_segments", 27 * number * groups, partial, corrections, out, groups, number, slices)


def fold_small(m: Machine, small: Any, scale: Any, offset: Any, chi: Any, out: Any) -> None:
    weights = m.put(field.mul(field.mul(chi, field.to_ints(scale)[0]), 1 << 52))
    n = count(out)
    run(m, f"fold_small_{small.dtype}", -(-n // FOLDED), small, weights, offset, out, n, FOLDED)


def _words(m: Machine, kernel: str, values: Any, offset: int, shift: int, out: Any) -> None:
    values = m.put(values)
    run(m, f"{kernel}_{values.dtype}", values.size, values, out, values.shape[1], offset, shift, out.shape[1])


def _lift(kind: np.dtype[Any]) -> int:
    """What sums of small products are divided by (cuda/wide.cuh)."""
    return 1 << (52 if kind.itemsize <= 4 else 104)


def _bias(kind: np.dtype[Any]) -> int:
    """What is added to small integers so that they have no sign (cuda/lane.cuh)."""
    return 1 << (8 * kind.itemsize - 1) if kind.kind == "i" else 0


def _slices(outputs: int, rows: int) -> int:
    """Parts of a sum over `rows`, so that all outputs together keep a GPU busy and no part has too many terms."""
    return max(-(-rows // LONGEST), min(-(-WORKERS // max(outputs, 1)), -(-rows // 16)), 1)


def _corrections(m: Machine, weights: Any, kind: np.dtype[Any], segments: int) -> Any:
    """For each segment the bias times the sum of its weights, (segments, 4); None if there is no bias."""
    if _bias(kind) == 0:
        return None
    rows = m.get(weights).reshape(segments, -1, 4)
    return m.put(field.mul(field.from_ints([field.total(row) for row in rows]), _bias(kind)))
