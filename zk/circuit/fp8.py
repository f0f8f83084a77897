"""FP8: activations after ReLU in E4M3, hidden gradients in E4M3 or E5M2, each with public scales (COAT, Xi 2024).

    Q_j  = cast(P_j),     A_{j+1} = (1 - B_j) Q_j          P_j in [0, 2^16) stands for P_j / 2^f
    GQ_j = cast(GA'_j),   G_j     = (1 - B_j) GQ_j         GA'_j in [-2^15, 2^15) stands for GA'_j / 2^g

A layer has one scale, or one for each 16 of its units. cast(x) is the number nearest to x that the format has times 2^exponent,
ties to the even mantissa, and at most the format's largest times that: torch's cast after a clamp. It is looked up (casts.py).
Every number of the format times the scale is a multiple of the fixed-point unit wherever a fixed-point number can be rounded to
it, so casts are integers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk.block import SIGN_OFFSET, Block, padded
from zkaudit.zk.errors import BadInput

if TYPE_CHECKING:  # which imports `check` from here
    from zkaudit.zk.statement import Statement

FORMATS = {"e4m3": (3, -6, 448), "e5m2": (2, -14, 57344)}  # bits of the mantissa, least exponent, largest number
FIELDS = {"p": "activation_exponents", "ga": "gradient_exponents"}
LEVELS = 12  # least and greatest scale are so many powers of two apart: below, the largest cast is no integer
HIGHEST = 7  # 448 times 2^7 is the largest cast that fits 16 bits, 448 times 2^6 with a sign


def blocks(s: Statement, samples: int) -> list[Block]:
    """Q_j and GQ_j of each hidden layer."""
    if s.fp8 is None:
        return []
    return [Block(cast_name(name, j), padded(s.widths[j + 1]), samples) for j in range(s.layers - 1) for name in ("p", "ga")]


def cast_name(name: str, j: int) -> str:
    """The block that holds the casts of block `name`, "p" or "ga", of layer j."""
    return f"{name}{j}.cast"


def table(s: Statement, name: str, exponent: int) -> NDArray[np.int32]:
    """The casts of the stored numbers 0 to 2^16 - 1, as they are stored: both with their offset for gradients."""
    assert s.fp8 is not None
    if name == "p":
        return _casts("e4m3", exponent + s.activation_bits, 0)
    return _casts(s.fp8.gradient_format, exponent + s.gradient_bits, SIGN_OFFSET)


def check(s: Statement) -> None:
    """BadInput for a scale with which a cast could leave 16 bits."""
    if s.fp8 is None:
        return
    for name, bits, kind, most in (
        ("activation_exponents", s.activation_bits, "e4m3", HIGHEST),
        ("gradient_exponents", s.gradient_bits, s.fp8.gradient_format, HIGHEST - 1),
    ):
        exponents = [exponent for j in range(s.layers - 1) for exponent in s.fp8.of_group(name, j)]
        highest = most - (FORMATS[kind][2] // 448).bit_length() + 1
        lowest = highest - LEVELS
        if any(not lowest <= exponent + bits <= highest for exponent in exponents):
            allowed = f"from {lowest - bits} to {highest - bits}"
            raise BadInput(f"statement field 'fp8.{name}' must have exponents {allowed}: casts are to be integers of 16 bits")


def cast(x: NDArray[np.int64], kind: str, shift: int) -> NDArray[np.int64]:
    """x to the nearest number of the format times 2^shift, ties to even, saturated; integers in units of one."""
    mantissa, least, largest = FORMATS[kind]
    size = np.abs(x.astype(np.float64))
    _, exponent = np.frexp(np.where(size == 0, 1.0, size))  # size in [2^(exponent - 1), 2^exponent)
    spacing = np.exp2(np.maximum(exponent - 1, least + shift) - mantissa)
    rounded = np.rint(size / spacing) * spacing  # rint takes ties to even, and the mantissa's last bit is the quotient's
    casts: NDArray[np.int64] = (np.sign(x) * np.minimum(rounded, largest * 2.0**shift)).astype(np.int64)
    return casts


@cache
def _casts(kind: str, shift: int, offset: int) -> NDArray[np.int32]:
    return (cast(np.arange(1 << 16) - offset, kind, shift) + offset).astype(np.int32)
