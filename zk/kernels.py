"""The prover's passes over tables: a sumcheck round over products, and the fraction tree of the lookup.

Each function is one parallel pass; the protocols that call them are in other files.
"""

from collections.abc import Sequence

import numpy as np

from zkaudit.zk.backend import HOST, check, core, empty, home, place_of
from zkaudit.zk.field import Array, from_ints, to_ints, zeros
from zkaudit.zk.mle import fold

JOINED = 1 << 12  # tables of up to so many entries are folded together: a call costs as much


def products_round(tables: Sequence[Array], terms: Sequence[tuple[int, ...]], degree: int) -> list[int]:
    """g(0), g(2), .., g(degree) for g(X) = sum over i and terms of the product over k in the term of T_k(i; X).

    T_k(i; X) = T_k[2i] + X (T_k[2i+1] - T_k[2i]); all tables have one power-of-two length. A term names its tables in
    any order and may repeat them. Terms of three and more that begin with the same table share its product: (0, 1, 2) and
    (0, 3, 4) cost T_0 (T_1 T_2 + T_3 T_4), so put the table first that most of them have.
    """
    if not 1 <= len(tables) <= core.MAX_TABLES or not len(terms) <= core.MAX_TERMS:
        raise ValueError(
            f"tables, terms: at most {core.MAX_TABLES} tables and {core.MAX_TERMS} terms, got {len(tables)} and {len(terms)}"
        )
    if not 1 <= degree <= core.MAX_DEGREE:
        raise ValueError(f"degree: must be in [1, {core.MAX_DEGREE}], got {degree}")
    length = len(tables[0])
    if length < 2 or length & (length - 1):
        raise ValueError(f"tables: need a power of two of at least 2 entries, got {length}")
    for k, table in enumerate(tables):
        check(f"tables[{k}]", table, (length, 4))
    for term in terms:
        if not 1 <= len(term) <= degree or not all(0 <= k < len(tables) for k in term):
            raise ValueError(f"terms: {term} does not name 1 to {degree} of the {len(tables)} tables")
    out = empty(degree, 4)
    place_of(*tables).core.products_round(tables, terms, degree, out)
    return to_ints(out)


def fold_all(tables: Sequence[Array], r: int) -> list[Array]:
    """Variable 0 of every table bound to r (mle.fold); many short tables are one long one."""
    length = len(tables[0])
    if length > JOINED or len(tables) == 1 or place_of(*tables) is not HOST:
        return [fold(table, r) for table in tables]
    folded = fold(np.concatenate(tables), r)
    return [folded[k * length // 2 : (k + 1) * length // 2] for k in range(len(tables))]


def fraction_layer(p: Array, q: Array) -> tuple[Array, Array]:
    """Sums of neighbouring fractions p / q: (p0 q1 + p1 q0) / (q0 q1). An odd last one is added to 0 / 1."""
    _check_fractions(p, q)
    p, q = _whole(p, q, 2)
    at, shape = place_of(p), ((len(p) + 1) // 2, 4)
    p_out, q_out = at.empty(*shape), at.empty(*shape)
    at.core.fraction_layer(p, q, p_out, q_out)
    return home(p_out), home(q_out)


def fraction_round(p: Array, q: Array, lam: int, eq_low: Array, eq_high: Array) -> tuple[int, int]:
    """One round of a layer's sumcheck: (h(0), leading coefficient) of the quadratic

        h(X) = sum over i of E[i] (p0 q1 + p1 q0 + lam q0 q1)(i; X),   E[i] = eq_low[i mod 2^a] eq_high[i >> a].

    p, q: ``(2m, 4)``, the children of gates 0 .. m-1; gate y's are 2y and 2y+1. Pair i joins gates 2i (X = 0) and 2i+1
    (X = 1). Gates from m to 2^(a+b+1) have the neutral children 0 / 1 and are not in memory. E must sum to 1.
    """
    _check_fractions(p, q)
    if len(p) % 2:
        raise ValueError(f"p: need two children a gate, got {len(p)}")
    _check_equality(len(p) // 2, eq_low, eq_high)
    p, q = _whole(p, q, 4)
    out = empty(2, 4)
    place_of(p).core.fraction_round(p, q, from_ints([lam]), eq_low, eq_high, out)
    constant, leading = to_ints(out)
    return constant, leading


def fraction_fold(p: Array, q: Array, r: int) -> tuple[Array, Array]:
    """The gates' lowest bit bound to r: new[2i+c] = old[4i+c] + r (old[4i+2+c] - old[4i+c]).

    An odd last gate meets a neutral one.
    """
    _check_fractions(p, q)
    if len(p) % 2:
        raise ValueError(f"p: need two children a gate, got {len(p)}")
    p, q = _whole(p, q, 4)
    at, shape = place_of(p), ((len(p) + 2) // 4 * 2, 4)
    p_out, q_out = at.empty(*shape), at.empty(*shape)
    point = from_ints([r])
    at.core.fraction_fold(p, point, zeros(1), p_out)
    at.core.fraction_fold(q, point, from_ints([1]), q_out)
    return home(p_out), home(q_out)


def fraction_fold_round(
    p: Array, q: Array, r: int, lam: int, eq_low: Array, eq_high: Array
) -> tuple[Array, Array, tuple[int, int]]:
    """fraction_fold, and fraction_round of its result, in one pass over p and q: a multiple of four gates."""
    _check_fractions(p, q)
    if len(p) % 8:
        raise ValueError(f"p: need a multiple of 8 children, got {len(p)}")
    _check_equality(len(p) // 4, eq_low, eq_high)
    at, out = place_of(p), empty(2, 4)
    p_out, q_out = at.empty(len(p) // 2, 4), at.empty(len(p) // 2, 4)
    at.core.fraction_fold_round(p, q, from_ints([r]), from_ints([lam]), eq_low, eq_high, p_out, q_out, out)
    constant, leading = to_ints(out)
    return home(p_out), home(q_out), (constant, leading)


def _whole(p: Array, q: Array, multiple: int) -> tuple[Array, Array]:
    """The fractions; on the host if a GPU would have to look after a ragged end. Only small layers have one."""
    if len(p) % multiple == 0:
        return p, q
    return place_of(p).get(p), place_of(q).get(q)


def _check_equality(gates: int, eq_low: Array, eq_high: Array) -> None:
    """The tables must have room for the gates' pairs."""
    for name, table in (("eq_low", eq_low), ("eq_high", eq_high)):
        check(name, table, (None, 4))
        if len(table) == 0 or len(table) & (len(table) - 1):
            raise ValueError(f"{name}: need a power of two of entries, got {len(table)}")
    if gates > 2 * len(eq_low) * len(eq_high):
        raise ValueError(f"p: {gates} gates do not fit {len(eq_low) * len(eq_high)} pairs")


def _check_fractions(p: Array, q: Array) -> None:
    check("p", p, (None, 4))
    check("q", q, p.shape)
