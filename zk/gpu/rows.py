"""Sums of points weighed with many rows of small integers, for a machine: curve.msm_rows (cuda/gpu/rows.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk.gpu.machine import Machine, run
from zkaudit.zk.gpu.small import KINDS

Words = NDArray[np.uint64]

LARGEST_GROUP = 16
TABLE_BYTES = 1 << 29  # of tables held at a time
POINT_BYTES, SUM_BYTES = 96, 192  # an affine point, and one in XYZZ coordinates
THREADS = 1 << 17  # that add up planes, at least, where there is as much to do
BUILT = 1.5  # what a table entry costs to make, in entries added up
PARTS = 16  # of a row that is looked at


def msm_rows(m: Machine, matrices: Sequence[Any], points: Any, out: Any) -> None:
    """For each row of each matrix the sum of matrix[r, c] * points[c]; points and `out` are the host's, (.., 12)."""
    matrices = [m.put(matrix) for matrix in matrices]
    columns = max((matrix.shape[1] for matrix in matrices), default=0)
    shapes = _shapes(m, matrices)
    tasks, begins = shapes.tasks()
    group = _best_group(columns, np.diff(begins), matrices)
    bases = m.put(np.ascontiguousarray(points[:columns]))
    rows = m.put_bytes(b"".join(_plane_rows(m, matrix) for matrix in matrices))
    groups = -(-columns // group)
    tables, at_once = _room(m, group, groups)
    slices = max(1, min(-(-THREADS // max(len(tasks), 1)), at_once))
    device_tasks = m.put(tasks)
    sums = m.xp.zeros((len(tasks) * slices, SUM_BYTES // 8), np.uint64)
    for first in range(0, groups if len(tasks) else 0, at_once):
        held = min(at_once, groups - first)
        _make_tables(m, bases[first * group :], tables, min(columns - first * group, held * group), group, held)
        fields = (rows, device_tasks, tables, sums, len(tasks), slices, group, first, held)
        run(m, "plane_sums", len(tasks) * slices, *fields)
    places = [m.put(array) for array in (begins, shapes.planes, shapes.sign, shapes.kept)]
    found = m.empty((len(shapes.planes), POINT_BYTES // 8))
    run(m, "join_planes", len(shapes.planes), *places, sums, found, len(tasks), slices)
    out[:] = m.get(found)


def _room(m: Machine, group: int, groups: int) -> tuple[Any, int]:
    """Memory for the tables of some groups, and of how many: fewer where that is all there is; MemoryError if not for one."""
    at_once = max(1, min(groups, TABLE_BYTES // (POINT_BYTES << group)))
    while True:
        try:
            return m.empty((at_once << group, POINT_BYTES // 8)), at_once
        except MemoryError:
            if at_once == 1:
                raise
            at_once //= 2


@dataclass(frozen=True)
class _Shapes:
    """What the planes of each row are: how many, which of them do not equal the one above, which has the sign (-1 for none)."""

    planes: NDArray[np.int64]
    sign: NDArray[np.int64]
    kept: Words

    @staticmethod
    def of(words: Words) -> _Shapes:
        """From the three words of each row (RowBits in cuda/gpu/rows.cu)."""
        size, any_set, differ = words.T
        bits = _bit_length(size)
        negative = (any_set >> np.uint64(63)).astype(np.int64)
        planes = bits + negative
        below = np.where(planes == 64, ~np.uint64(0), (np.uint64(1) << np.minimum(planes, 63).astype(np.uint64)) - np.uint64(1))
        top = np.where(planes > 0, np.uint64(1) << np.maximum(planes - 1, 0).astype(np.uint64), np.uint64(0))
        # Above the top plane all is zero, whatever sign stands there.
        kept = ((differ & below & ~top) | (any_set & top)).astype(np.uint64)
        return _Shapes(planes, np.where(negative == 1, bits, -1), kept)

    def tasks(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """row * 64 + bit of every kept plane, lowest first, rows in order; and where each row's begin."""
        set_bits = np.unpackbits(self.kept.astype("<u8").view(np.uint8), bitorder="little")
        begins = np.concatenate([[0], np.cumsum(set_bits.reshape(-1, 64).sum(axis=1, dtype=np.int64))])
        return np.flatnonzero(set_bits).astype(np.int64, copy=False), begins.astype(np.int64)


def _shapes(m: Machine, matrices: Sequence[Any]) -> _Shapes:
    total = sum(len(matrix) for matrix in matrices)
    words, first = m.empty((total, 3)), 0
    for matrix in matrices:
        parts = m.empty((len(matrix) * PARTS, 3))
        run(m, f"row_bits_{matrix.dtype}", len(matrix) * PARTS, matrix, parts, matrix.shape[1], PARTS)
        run(m, "join_bits", len(matrix), parts, words[first : first + len(matrix)], PARTS)
        first += len(matrix)
    return _Shapes.of(m.get(words))


def _plane_rows(m: Machine, matrix: Any) -> bytes:
    """The struct PlaneRow of each row of a matrix (cuda/gpu/rows.cu)."""
    stride, kind, columns = matrix.shape[1] * matrix.dtype.itemsize, KINDS.index(matrix.dtype), matrix.shape[1]
    first = m.pointer(matrix)
    rows = np.empty((len(matrix), 3), np.int64)
    rows[:, 0] = first + stride * np.arange(len(matrix), dtype=np.int64)
    rows[:, 1], rows[:, 2] = kind, columns
    return rows.tobytes()


def _best_group(columns: int, kept: NDArray[np.int64], matrices: Sequence[Any]) -> int:
    """The group size for which making tables and adding up their entries cost least; `kept`: planes of each row."""
    lengths = np.repeat([matrix.shape[1] for matrix in matrices], [len(matrix) for matrix in matrices])
    entries = int((kept * lengths).sum())

    def cost(g: int) -> float:
        return BUILT * (-(-columns // g) << g) + entries / g

    return min(range(1, LARGEST_GROUP + 1), key=cost)


def _make_tables(m: Machine, bases: Any, tables: Any, columns: int, group: int, groups: int) -> None:
    """Subset sums of `groups` groups of the first `columns` bases."""
    tables[: groups << group : 1 << group] = 0  # the empty sums
    for k in range(group):
        batch = min(1 << k, 32)
        run(m, "subset_level", groups * ((1 << k) // batch), bases, tables, columns, group, k, batch)


def _bit_length(words: Words) -> NDArray[np.int64]:
    """Bits of each word."""
    out = np.zeros(len(words), np.int64)
    rest = words.copy()
    for step in (32, 16, 8, 4, 2, 1):
        large = rest >= np.uint64(1) << np.uint64(step)
        out[large] += step
        rest[large] >>= np.uint64(step)
    return out + (rest > 0)
