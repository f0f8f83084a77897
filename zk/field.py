"""Vectors over the scalar field of BLS12-381.

An element is four little-endian 64-bit limbs in Montgomery form; a vector is a C-contiguous ``uint64[n, 4]``. Single
elements are plain ``int`` in ``[0, MODULUS)``. Integers known to be small stay in numpy's integer types and are multiplied
as they are. Results are new arrays and do not depend on the number of threads.

A wrong shape, dtype or layout is a ``ValueError`` that names the argument.
"""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zkaudit.zk.backend import HOST, Array, Place, Small, check, check_small, core, empty, home, place_of

MODULUS = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
"""The order r of the groups of BLS12-381."""

__all__ = [
    "MODULUS",
    "Array",
    "Small",
    "add",
    "affine",
    "combine",
    "combine_all",
    "dot",
    "dot_small",
    "evaluate_small",
    "exclusive_cumsum",
    "from_ints",
    "from_small",
    "from_wide_bytes",
    "full",
    "inverse",
    "mul",
    "neg",
    "outer_sum",
    "powers",
    "scatter_add",
    "segment_dot",
    "set_threads",
    "sub",
    "threads",
    "to_ints",
    "total",
    "zeros",
]


def zeros(n: int) -> Array:
    """n zeros, ``(n, 4)``."""
    return np.zeros((n, 4), np.uint64)


def full(n: int, x: int) -> Array:
    """n times x, ``(n, 4)``."""
    return np.tile(from_ints([x]), (n, 1))


def from_ints(values: Sequence[int]) -> Array:
    """Integers, negative ones too, reduced modulo r: ``(len(values), 4)``."""
    limbs = np.frombuffer(b"".join((operator.index(x) % MODULUS).to_bytes(32, "little") for x in values), "<u8").reshape(-1, 4)
    out = empty(*limbs.shape)
    core.to_montgomery(limbs, out)
    return out


def to_ints(a: Array) -> list[int]:
    """The elements of a vector as integers in ``[0, MODULUS)``, in C order."""
    check("a", a)
    a = place_of(a).get(a)
    plain = empty(*a.shape)
    core.from_montgomery(a, plain)
    data = plain.astype("<u8", copy=False).tobytes()
    return [int.from_bytes(data[i : i + 32], "little") for i in range(0, len(data), 32)]


def from_small(small: Small) -> Array:
    """Small integers of any shape as elements: shape ``small.shape + (4,)``."""
    check_small("small", small)
    return affine(0, [(1, small.reshape(-1))], small.size).reshape(*small.shape, 4)


def from_wide_bytes(data: bytes) -> Array:
    """64 bytes an element, little-endian, reduced modulo r: uniform elements (bias 2^-257) out of uniform bytes."""
    if len(data) % 64:
        raise ValueError(f"data: {len(data)} bytes are not a multiple of 64")
    out = empty(len(data) // 64, 4)
    core.from_wide(np.frombuffer(data, "<u8"), out)
    return out


def add(a: Array, b: Array | int) -> Array:
    """a + b, element by element; b is an array of a's shape or one integer."""
    return _element_wise("add", a, b)


def sub(a: Array, b: Array | int) -> Array:
    """a - b, element by element; b is an array of a's shape or one integer."""
    return _element_wise("sub", a, b)


def mul(a: Array, b: Array | int) -> Array:
    """a b, element by element; b is an array of a's shape or one integer."""
    return _element_wise("mul", a, b)


def neg(a: Array) -> Array:
    """-a, element by element."""
    check("a", a)
    at = place_of(a)
    out = at.empty(*a.shape)
    at.core.neg(a, out)
    return home(out)  # type: ignore[no-any-return]


def inverse(a: Array) -> Array:
    """1 / a, element by element, and 0 for 0; three multiplications an element."""
    check("a", a)
    at = place_of(a)
    out = at.empty(*a.shape)
    at.core.inverse(a, out)
    return home(out)  # type: ignore[no-any-return]


def dot(a: Array, b: Array) -> int:
    """sum a[i] b[i]"""
    check("a", a)
    check("b", b, a.shape)
    return _scalar("dot", a, b)


def total(a: Array) -> int:
    """sum a[i]"""
    check("a", a)
    return _scalar("total", a)


def dot_small(a: Array, small: Small) -> int:
    """sum a[i] small[i]"""
    check("a", a)
    check_small("small", small, a.shape[:-1])
    return _scalar("dot_small", a, small)


def powers(x: int, n: int) -> Array:
    """1, x, .., x^(n-1): ``(n, 4)``."""
    out = empty(n, 4)
    core.powers(from_ints([x]), out)
    return out


def scatter_add(values: Array, index: npt.NDArray[np.int64], size: int) -> Array:
    """out[index[i]] += values[i] over ``(n, 4)`` values, from zero: ``(size, 4)``."""
    check("values", values, (None, 4))
    if index.dtype != np.int64 or index.shape != values.shape[:1] or not index.flags.c_contiguous:
        raise ValueError(f"index: need contiguous int64[{len(values)}], got {index.dtype}{list(index.shape)}")
    if len(index) and not 0 <= index.min() <= index.max() < size:
        raise ValueError(f"index: entries must be in [0, {size})")
    out = empty(size, 4)
    core.scatter_add(values, index, out)
    return out


def exclusive_cumsum(a: Array) -> Array:
    """out[k, i] = sum of a[k, j] over j < i, for a of shape ``(k, n, 4)``."""
    check("a", a, (None, None, 4))
    at = place_of(a)
    out = at.empty(*a.shape)
    at.core.exclusive_cumsum(a, out, a.shape[1])
    return home(out)  # type: ignore[no-any-return]


def combine(weights: Array, matrix: Small) -> Array:
    """sum over h of weights[h] matrix[h, :]: ``(H, 4)`` and ``(H, R)`` give ``(R, 4)``."""
    check("weights", weights, (None, 4))
    check_small("matrix", matrix, (len(weights), None))
    at = place_of(matrix, weights)
    out = at.empty(matrix.shape[1], 4)
    at.core.combine(weights, matrix, out)
    return home(out)  # type: ignore[no-any-return]


def combine_all(parts: Sequence[tuple[Array, Small]], columns: int) -> Array:
    """The sum of combine(weights, matrix) over the parts, whose matrices have `columns` columns: one sum on a GPU."""
    for k, (weights, matrix) in enumerate(parts):
        check(f"parts[{k}] weights", weights, (None, 4))
        check_small(f"parts[{k}] matrix", matrix, (len(weights), columns))
    at = place_of(*(matrix for _, matrix in parts))
    if at is HOST:
        total = zeros(columns)
        for weights, matrix in parts:
            total = add(total, combine(weights, matrix))
        return total
    out = at.empty(columns, 4)
    at.core.combine_all(parts, out)
    return home(out)  # type: ignore[no-any-return]


def segment_dot(weights: Array, matrix: Small, T: int, n: int) -> Array:
    """out[h, t] = sum over b < n of weights[t n + b] matrix[h, t n + b]: ``(T n, 4)``, ``(H, >= T n)`` give ``(H, T, 4)``."""
    check("weights", weights, (T * n, 4))
    check_small("matrix", matrix, (None, None))
    if matrix.shape[1] < T * n:
        raise ValueError(f"matrix: rows of {matrix.shape[1]} are shorter than {T} segments of {n}")
    at = place_of(matrix, weights)
    out = at.empty(len(matrix), T, 4)
    at.core.segment_dot(weights, matrix, out, T, n)
    return home(out)  # type: ignore[no-any-return]


def outer_sum(highs: Array, lows: Array, place: Place | None = None) -> Array:
    """out[h R + r] = sum over k of highs[k, h] lows[k, r]: ``(k, H, 4)`` and ``(k, R, 4)`` give ``(H R, 4)``.

    Made at `place`, by default where the vectors are.
    """
    check("highs", highs, (None, None, 4))
    check("lows", lows, (len(highs), None, 4))
    size = highs.shape[1] * lows.shape[1]
    if len(highs) == 0 or size == 0:
        return zeros(size)
    at = place_of(highs, lows) if place is None else place
    out = at.empty(size, 4)
    at.core.outer_sum(highs, lows, out, len(highs))
    return home(out)  # type: ignore[no-any-return]


def affine(constant: int, terms: list[tuple[int, Small]], n: int, out: Array | None = None) -> Array:
    """constant + sum of coefficient * small[x] over the terms ``(coefficient, small[n])``: ``(n, 4)``, into `out` if given."""
    for k, (_, small) in enumerate(terms):
        check_small(f"terms[{k}]", small, (n,))
    at = place_of(*(small for _, small in terms))
    if out is None:
        out = at.empty(n, 4)
    check("out", out, (n, 4))
    at.core.affine(from_ints([coefficient for coefficient, _ in terms] + [constant]), [small for _, small in terms], out)
    return home(out)  # type: ignore[no-any-return]


def evaluate_small(matrix: Small, high: Array, low: Array) -> int:
    """sum of high[h] low[r] matrix[h, r], for ``(H, R)``, ``(H, 4)`` and ``(R, 4)``."""
    check("high", high, (None, 4))
    check("low", low, (None, 4))
    check_small("matrix", matrix, (len(high), len(low)))
    return _scalar("evaluate_small", matrix, high, low)


def set_threads(n: int) -> None:
    """How many threads the kernels use from now on."""
    if n < 1:
        raise ValueError(f"n: need at least one thread, got {n}")
    core.set_threads(n)


def threads() -> int:
    """How many threads the kernels use: OpenMP's default until set_threads."""
    return core.threads()


def _element_wise(operation: str, a: Array, b: Array | int) -> Array:
    """a op b; an integer is one element for all of a's."""
    check("a", a)
    if isinstance(b, int):
        other = from_ints([b])
    else:
        check("b", b, a.shape)
        other = b
    at = place_of(a, other)
    out = at.empty(*a.shape)
    getattr(at.core, operation)(a, other, out)
    return home(out)  # type: ignore[no-any-return]


def _scalar(call: str, *arguments: Any) -> int:
    """The one element that a call of the core writes."""
    out = empty(1, 4)
    getattr(place_of(*arguments).core, call)(*arguments, out)
    return to_ints(out)[0]
