"""Pedersen generators: one family for table columns, one for message slots, two single points.

All come from hashing to the curve under their own domain tag, so nobody knows a relation between them and nobody had to be
trusted. `columns(n)` and `slots(n)` are prefixes of endless lists (generators.py).

A prover sends messages one after another, each before it knows the next challenge. So what can be made before is: tables of the
slots' multiples, kept for all of a process's proofs.
"""

from __future__ import annotations

from functools import cache

from zkaudit.zk import curve, generators
from zkaudit.zk.curve import CombTables, Points
from zkaudit.zk.field import Array

_PIECE = 128  # slots whose tables are made together


def columns(count: int) -> Points:
    """The first `count` generators for the columns of committed tables, shape (count, 12)."""
    return generators.prefix(generators.COLUMNS_DOMAIN, count)


def slots(count: int) -> Points:
    """The first `count` generators for message slots, shape (count, 12)."""
    return generators.prefix(generators.SLOTS_DOMAIN, count)


def blinding() -> Points:
    """The generator that carries blindings, shape (1, 12)."""
    return generators.prefix(generators.SINGLE_DOMAIN, 2)[:1]


def inner_product() -> Points:
    """The generator that carries the value of the inner-product argument, shape (1, 12)."""
    return generators.prefix(generators.SINGLE_DOMAIN, 2)[1:2]


def message(first: int, scalars: Array) -> Points:
    """The commitment, shape (1, 12), to all scalars but the last, in slots from `first` on; the last is the blinding."""
    tables, end = [], first + len(scalars) - 1
    while first < end:
        piece, begin = divmod(first, _PIECE)
        stop = min(_PIECE, begin + end - first)
        tables.append(_slot_tables(piece)[begin:stop])
        first += stop - begin
    return curve.comb_msm(scalars, [*tables, _blinding_tables()])


@cache
def _slot_tables(piece: int) -> CombTables:
    return curve.comb_tables(slots((piece + 1) * _PIECE)[piece * _PIECE :])


@cache
def _blinding_tables() -> CombTables:
    return curve.comb_tables(blinding())
