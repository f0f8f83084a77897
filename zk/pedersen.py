"""Pedersen generators: one family for table columns, one for message slots, two single points.

All come from hashing to the curve under their own domain tag, so nobody knows a relation between them and nobody had to be
trusted. `columns(n)` and `slots(n)` are prefixes of endless lists (generators.py).
"""

from __future__ import annotations

from zkaudit.zk import generators
from zkaudit.zk.curve import Points


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
