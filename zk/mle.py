"""Multilinear extensions of tables of 2^n elements.

Bit k of an index is variable k, so a point's first coordinate belongs to the lowest bit, and variable 0 is bound first.
"""

from collections.abc import Sequence

from zkaudit.zk.backend import check, core, empty, home, place_of
from zkaudit.zk.field import Array, from_ints, to_ints, total


def eq_table(point: Sequence[int]) -> Array:
    """eq(point, i) for every i, ``(2^n, 4)``: the product over k of point[k] if bit k of i is set and 1 - point[k] if not."""
    out = empty(1 << len(point), 4)
    core.eq_table(from_ints(point), out)
    return out


def eq_halves(point: Sequence[int]) -> tuple[Array, Array]:
    """Two short tables, low x high, in place of eq_table(point): entry i is low[i mod 2^a] high[i >> a], a = n // 2."""
    low = len(point) // 2
    return eq_table(point[:low]), eq_table(point[low:])


def eq_below(low: Array, high: Array, end: int) -> int:
    """The sum of the first `end` entries of low x high, as eq_halves makes them."""
    whole, rest = divmod(end, len(low))
    value = total(low) * total(high[:whole])
    return value + (total(low[:rest]) * to_ints(high[whole : whole + 1])[0] if rest else 0)


def random_weights(point: Sequence[int], length: int) -> Array:
    """The first `length` entries of the eq table of the point's first coordinates: weights that batch `length` relations."""
    reached = (length - 1).bit_length()
    if length < 1 or reached > len(point):
        raise ValueError(f"length: {length} is not in [1, 2^{len(point)}]")
    return eq_table(point[:reached])[:length]


def evaluate(table: Array, point: Sequence[int]) -> int:
    """The multilinear extension of a ``(2^n, 4)`` table at a point of n coordinates; one multiplication an entry."""
    check("table", table, (1 << len(point), 4))
    out = empty(1, 4)
    place_of(table).core.blocked_dot(table, *eq_halves(point), out)
    return to_ints(out)[0]


def fold(table: Array, r: int) -> Array:
    """Variable 0 bound to r: table[2i] + r (table[2i+1] - table[2i]), ``(n, 4)`` to ``(n / 2, 4)``."""
    check("table", table, (None, 4))
    if len(table) % 2:
        raise ValueError(f"table: need an even length, got {len(table)}")
    at = place_of(table)
    out = at.empty(len(table) // 2, 4)
    at.core.fold(table, from_ints([r]), out)
    return home(out)  # type: ignore[no-any-return]
