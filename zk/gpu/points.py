"""Sums of points with scalars of full width, and folding of points, for a machine (cuda/gpu/msm.cu)."""

from __future__ import annotations

from typing import Any

import numpy as np

from zkaudit.zk import field
from zkaudit.zk.backend import curve_core
from zkaudit.zk.gpu.machine import WORKERS, Machine, run

BITS = 256  # that windows cover: one more than a scalar has, for the last carry
POINT_WORDS, SUM_WORDS = 12, 24  # 64-bit words of an affine point, and of one in XYZZ coordinates
SHARE, MOST = 8, 64  # digits that one thread adds up
PIECE = 16  # buckets that one thread weighs
JOINED = 16  # sums that one thread adds up
FOLD_DIGIT = 16  # digits of a folding scalar are odd and below half of it


def msm(m: Machine, scalars: Any, points: Any, out: Any) -> None:
    """The sum of scalars[i] * points[i]; `out` is the host's."""
    n = len(points)
    windows = best_windows(n)
    half = 1 << (-(-BITS // windows) - 1)
    scalars, points = m.put(scalars), m.put(points)
    keys, items = m.empty((windows * n,), np.uint32), m.empty((windows * n,), np.int32)
    run(m, "bucket_keys", n, scalars, keys, items, n, half, windows)
    order = np.argsort(keys)
    starts = np.searchsorted(keys[order], m.put(np.arange(windows * half + 1, dtype=np.uint32)))
    used = int(m.get(starts[-1:])[0])
    share = max(SHARE, min(used // WORKERS, MOST))
    parts = -(-used // share)
    sums, buckets = m.empty((windows * half + parts, SUM_WORDS)), m.empty((windows * half, SUM_WORDS))
    run(m, "bucket_pieces", parts, points, items, keys, order, sums, used, share)
    run(m, "join_pieces", windows * half, sums, starts, buckets, share)
    piece = min(PIECE, half)
    weighed = m.empty((windows * half // piece, SUM_WORDS))
    run(m, "weigh_buckets", len(weighed), buckets, weighed, piece, half // piece)
    while len(weighed) > windows:
        weighed = _joined(m, weighed, min(JOINED, len(weighed) // windows))
    found = m.empty((windows, POINT_WORDS))
    run(m, "to_affine", windows, weighed, found)
    curve_core.msm(field.from_ints([1 << (BITS * k // windows) for k in range(windows)]), m.get(found), out)


def fold(m: Machine, low: Any, high: Any, x: Any, out: Any) -> None:
    """low[i] + x high[i], all at the machine."""
    digits = m.put(np.array(_odd_digits(field.to_ints(x)[0]), np.int64))
    run(m, "fold_points", len(out), m.put(low), m.put(high), out, digits, len(digits))


def best_windows(n: int) -> int:
    """The number of windows for which digits and buckets cost least, in products."""
    return min(range(17, 52), key=lambda windows: windows * (10 * n + 28 * (1 << (-(-BITS // windows) - 1))))


def _joined(m: Machine, sums: Any, count: int) -> Any:
    """The sums of `count` neighbours each."""
    out = m.empty((len(sums) // count, SUM_WORDS))
    run(m, "join_sums", len(out), sums, out, count)
    return out


def _odd_digits(x: int) -> list[int]:
    """x as digits that are zero or odd, few of them nonzero; the lowest first."""
    digits = []
    while x:
        digit = 0
        if x & 1:
            digit = x % FOLD_DIGIT
            digit -= FOLD_DIGIT if digit > FOLD_DIGIT // 2 else 0
        digits.append(digit)
        x = (x - digit) >> 1
    return digits
