"""Exact products of integer matrices on float64: a factor in halves, each product of a half exact below 2^53."""

from __future__ import annotations

import numpy as np

from zkaudit.zk.block import LIMB
from zkaudit.zk.errors import BadInput
from zkaudit.zk.trace import Integers


def product(a: Integers, b: Integers, factor: int = 1) -> Integers:
    """a @ b; BadInput if `factor` times it could leave 63 bits."""
    largest = int(np.abs(a).max(initial=0)) * a.shape[1]
    if largest << LIMB >= 1 << 53 or largest * int(np.abs(b).max(initial=0)) * factor >= 1 << 62:
        raise BadInput("the trace's updates are too large for exact 64-bit arithmetic: lower the batch, rate or gradient_bits")
    high, low = b >> LIMB, b & ((1 << LIMB) - 1)
    left = a.astype(np.float64)
    found: Integers = ((left @ high).astype(np.int64) << LIMB) + (left @ low).astype(np.int64)
    return found
