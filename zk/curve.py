"""Points of BLS12-381's G1, in arrays.

A point is its affine coordinates in Montgomery form, x then y, six little-endian 64-bit limbs each: a row of
``uint64[n, 12]``. The identity is all zeros, which no point of the curve is. Nothing here is constant time: it serves a prover
on its own machine.

A wrong shape, dtype or layout is a ``ValueError`` that names the argument.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zkaudit.zk.backend import HOST, Array, Small, check, check_small, curve_core, home, place_of
from zkaudit.zk.field import from_ints

Points = npt.NDArray[np.uint64]

CombTables = npt.NDArray[np.uint64]
"""What `comb_tables` makes: this machine's own format, at addresses that its vector registers load from."""

POINT_BYTES = 48
FOLD_WORK = 8  # folding a point beside folding an element, for where it is done (backend.home)

COFACTOR = 0xD201000000010001
"""1 - z, which takes every point of the curve into the subgroup (RFC 9380, section 8.8.1); coprime to r."""

_FAULTS = (
    *("", "it is not marked as compressed", "it is marked as infinity but holds other bits", "its x is not below the modulus"),
    *("it is not on the curve", "it is not in the subgroup of order r"),
)


_ALIGNED = 8  # words


def _empty(n: int) -> Points:
    return np.empty((n, 12), np.uint64)


def _check_points(name: str, points: Points, count: int | None = None) -> None:
    if points.dtype != np.uint64 or points.ndim != 2 or points.shape[1] != 12 or not points.flags.c_contiguous:
        raise ValueError(f"{name}: need contiguous uint64[n, 12], got {points.dtype}{list(points.shape)}")
    if count is not None and len(points) != count:
        raise ValueError(f"{name}: need {count} points, got {len(points)}")


def _generator() -> Points:
    out = _empty(1)
    curve_core.generator(out)
    return out


GENERATOR: Points = _generator()
"""The standard generator of G1, ``(1, 12)``."""


def compress(points: Points) -> bytes:
    """48 bytes a point: big-endian x with the flags compressed, infinity and larger y in the top bits."""
    _check_points("points", points)
    out = np.empty(POINT_BYTES * len(points), np.uint8)
    curve_core.compress(points, out)
    return out.tobytes()


def decompress(data: bytes, subgroup: bool = True) -> Points:
    """The points of `compress`ed bytes; ValueError names the first that is not canonical, on the curve or in the subgroup."""
    if len(data) % POINT_BYTES:
        raise ValueError(f"data: {len(data)} bytes are no whole number of points of {POINT_BYTES} bytes")
    count = len(data) // POINT_BYTES
    out, found = _empty(count), np.empty(count, np.uint8)
    curve_core.decompress(np.frombuffer(data, np.uint8), subgroup, out, found)
    if found.any():
        first = int(np.flatnonzero(found)[0])
        raise ValueError(f"point {first}: {_FAULTS[found[first]]}")
    return out


def add(a: Points, b: Points) -> Points:
    """a + b, row by row."""
    _check_points("a", a)
    _check_points("b", b, len(a))
    out = _empty(len(a))
    curve_core.add(a, b, out)
    return out


def neg(a: Points) -> Points:
    """-a, row by row."""
    _check_points("a", a)
    out = _empty(len(a))
    curve_core.neg(a, out)
    return out


def equal(a: Points, b: Points) -> bool:
    """Whether all points are the same: coordinates are unique."""
    _check_points("a", a)
    _check_points("b", b, len(a))
    return bool(np.array_equal(a, b))


def on_curve(points: Points) -> npt.NDArray[np.bool_]:
    """For each point whether it is reduced and satisfies the curve's equation, the identity included."""
    _check_points("points", points)
    out = np.empty(len(points), np.uint8)
    curve_core.on_curve(points, out)
    return out.astype(np.bool_)


def in_subgroup(points: Points) -> npt.NDArray[np.bool_]:
    """For each point whether it is on the curve and of order r (or the identity)."""
    _check_points("points", points)
    out = np.empty(len(points), np.uint8)
    curve_core.in_subgroup(points, out)
    return out.astype(np.bool_)


def mul(points: Points, scalars: Array) -> Points:
    """scalars[i] * points[i]."""
    _check_points("points", points)
    check("scalars", scalars, (len(points), 4))
    out = _empty(len(points))
    curve_core.mul(points, scalars, out)
    return out


def is_torsion(point: Points) -> bool:
    """Whether the point's part in the subgroup of order r is the identity."""
    return not mul(point, from_ints([COFACTOR])).any()


def fixed_base(point: Points, scalars: Array) -> Points:
    """scalars[i] * point, by a table of multiples: for thousands of scalars."""
    _check_points("point", point, 1)
    check("scalars", scalars, (None, 4))
    out = _empty(len(scalars))
    curve_core.fixed_base(point, scalars, out)
    return out


def fold(low: Points, high: Points, x: int) -> Points:
    """low[i] + x high[i]."""
    _check_points("low", low)
    _check_points("high", high, len(low))
    at = place_of(low, high)
    out = _empty(len(low)) if at is HOST else at.empty(len(low), 12)
    at.curve.fold(low, high, from_ints([x]), out)
    return home(out, work=FOLD_WORK)  # type: ignore[no-any-return]


def msm(scalars: Array, points: Points) -> Points:
    """The sum of scalars[i] * points[i], ``(1, 12)``."""
    _check_points("points", points)
    check("scalars", scalars, (len(points), 4))
    out = _empty(1)
    place_of(points, scalars).curve.msm(scalars, points, out)
    return out


def comb_tables(points: Points) -> CombTables:
    """Tables for `comb_msm`, one row for each point; points of the subgroup of order r. They cost what a few sums save."""
    _check_points("points", points)
    words = curve_core.comb_words()
    memory = np.empty(len(points) * words + _ALIGNED, np.uint64)
    first = -memory.ctypes.data // memory.itemsize % _ALIGNED
    out = memory[first : first + len(points) * words].reshape(-1, words)
    curve_core.comb_tables(points, out)
    return out


def comb_msm(scalars: Array, tables: Sequence[CombTables]) -> Points:
    """The sum of scalars[i] * points[i], ``(1, 12)``, the tables' rows standing for the points in order: `msm` of fixed points.

    Faster than `msm` for up to some thirty points.
    """
    words = curve_core.comb_words()
    for i, rows in enumerate(tables):
        if rows.dtype != np.uint64 or rows.ndim != 2 or rows.shape[1] != words or not rows.flags.c_contiguous:
            raise ValueError(f"tables[{i}]: need rows of comb_tables, uint64[n, {words}], got {rows.dtype}{list(rows.shape)}")
    check("scalars", scalars, (sum(map(len, tables)), 4))
    out = _empty(1)
    curve_core.comb_msm(scalars, tables, out)
    return out


def msm_rows(matrices: Sequence[Small], points: Points) -> Points:
    """For each row r of each matrix, in order, the sum of matrix[r, c] * points[c]: ``(rows, columns)`` small integers.

    Rows of all matrices share tables of sums of points, so many at once cost less than one at a time.
    """
    _check_points("points", points)
    for i, matrix in enumerate(matrices):
        check_small(f"matrices[{i}]", matrix, (None, None))
        if matrix.shape[1] > len(points):
            raise ValueError(f"points: need {matrix.shape[1]} points for the matrix's columns, got {len(points)}")
    out = _empty(sum(len(matrix) for matrix in matrices))
    place_of(*matrices).curve.msm_rows(matrices, points, out)
    return out


def hash_to_curve(messages: Sequence[bytes], dst: bytes) -> Points:
    """RFC 9380's BLS12381G1_XMD:SHA-256_SSWU_RO_ of each message under the tag `dst`."""
    return _hashed(messages, dst, 2)


def encode_to_curve(messages: Sequence[bytes], dst: bytes) -> Points:
    """RFC 9380's BLS12381G1_XMD:SHA-256_SSWU_NU_: not uniform, but with unknown relations between points."""
    return _hashed(messages, dst, 1)


def generators(domain: bytes, count: int, start: int = 0) -> Points:
    """encode_to_curve of the indices start .. start + count as 8 little-endian bytes, with `domain` as tag."""
    out = _empty(count)
    curve_core.generators(_bytes(_checked_tag(domain)), start, out)
    return out


def set_threads(n: int) -> None:
    """How many threads the kernels use from now on."""
    if n < 1:
        raise ValueError(f"n: need at least one thread, got {n}")
    curve_core.set_threads(n)


def threads() -> int:
    """How many threads the kernels use."""
    return curve_core.threads()


def _hashed(messages: Sequence[bytes], dst: bytes, maps: int) -> Points:
    ends = np.cumsum([len(message) for message in messages], dtype=np.int64)
    out = _empty(len(messages))
    curve_core.hash_messages(_bytes(b"".join(messages)), ends, _bytes(_checked_tag(dst)), maps, out)
    return out


def _checked_tag(tag: bytes) -> bytes:
    if not 1 <= len(tag) <= 255:
        raise ValueError(f"tag: need 1 to 255 bytes, got {len(tag)}")
    return tag


def _bytes(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)
