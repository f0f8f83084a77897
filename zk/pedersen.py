"""Pedersen generators: one family for table columns, one for message slots, two single points.

All come from hashing to the curve under their own domain tag, so nobody knows a relation between them and nobody had to be
trusted. `columns(n)` and `slots(n)` are prefixes of endless lists; they are derived once a process.
"""

from __future__ import annotations

import numpy as np

from zkaudit.zk import curve
from zkaudit.zk.curve import Points

COLUMNS_DOMAIN = b"zkaudit-v1-columns-BLS12381G1_XMD:SHA-256_SSWU_NU_"
SLOTS_DOMAIN = b"zkaudit-v1-slots-BLS12381G1_XMD:SHA-256_SSWU_NU_"
SINGLE_DOMAIN = b"zkaudit-v1-single-BLS12381G1_XMD:SHA-256_SSWU_NU_"

_derived: dict[bytes, Points] = {}


def columns(count: int) -> Points:
    """The first `count` generators for the columns of committed tables, shape (count, 12)."""
    return _prefix(COLUMNS_DOMAIN, count)


def slots(count: int) -> Points:
    """The first `count` generators for message slots, shape (count, 12)."""
    return _prefix(SLOTS_DOMAIN, count)


def blinding() -> Points:
    """The generator that carries blindings, shape (1, 12)."""
    return _prefix(SINGLE_DOMAIN, 2)[:1]


def inner_product() -> Points:
    """The generator that carries the value of the inner-product argument, shape (1, 12)."""
    return _prefix(SINGLE_DOMAIN, 2)[1:2]


def _prefix(domain: bytes, count: int) -> Points:
    known = _derived.get(domain)
    have = 0 if known is None else len(known)
    if have < count:
        fresh = curve.generators(domain, count - have, have)
        known = fresh if known is None else np.concatenate([known, fresh])
        _derived[domain] = known
    assert known is not None
    return known[:count]
