"""COAT's range expansion (Xi et al. 2024) with static ranges, in integers: numbers of 16 bits to E4M3 codes and back.

    f(x) = 448 (x / largest)^k,   k = a / 8,   a = floor(142 / exponent),   largest about 2^exponent

142 / 8 is log2 of E4M3's range, 448 to 2^-9: the power k makes the range from 1 to `largest` fill it. A number goes to the code
whose value q is nearest to f(x), ties to the even code, and to the last code if it is above `largest`; a code stands for the
integer nearest to f^-1(q) = largest (q / 448)^(1/k), ties up. Negative numbers by symmetry. Nothing is computed in floating
point: x^a, q^8 and the like are compared as integers. Casting twice is casting once (tests/test_expanded_casts.py), though
several codes may stand for one integer where integers are coarser than codes."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from functools import cache

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk.block import SIGN_OFFSET

CODES = 127  # of E4M3, from zero up
FRACTION = 9  # its numbers are multiples of 2^-9
LARGEST = 448
EXPONENTS = {"first": 15, "second": 16}  # the largest for a signed number and for one without sign
RANGE = 142  # eight times log2 of 448 / 2^-9, rounded down
POWERS = 8  # the power is a multiple of 1 / 8


def power(exponent: int) -> int:
    """a: eight times the power."""
    return RANGE // exponent


def largest(kind: str, exponent: int) -> int:
    """What the last code stands for: 2^exponent, or the largest number of the kind, "first" (signed) or "second"."""
    return min(1 << exponent, (1 << EXPONENTS[kind]) - 1)


@cache
def table(kind: str, exponent: int) -> NDArray[np.int32]:
    """What 0 to 2^16 - 1, as they are stored, are cast to; first moments have an offset of 2^15 before and after."""
    offset = SIGN_OFFSET if kind == "first" else 0
    numbers = np.arange(1 << 16) - offset
    values = np.array(code_values(kind, exponent), np.int32)
    codes = np.searchsorted(np.array(boundaries(kind, exponent)), np.abs(numbers), side="right")
    return (np.sign(numbers) * values[codes] + offset).astype(np.int32)


def code_values(kind: str, exponent: int) -> list[int]:
    """The integer that each code stands for, (CODES,), rising: the least v with v + 1/2 > f^-1(q)."""
    a, most, one = power(exponent), largest(kind, exponent), (LARGEST << FRACTION) ** POWERS
    values = range(most)  # and `most` itself, if none of these
    return [bisect_right(values, (2 * most) ** a * q**POWERS, key=lambda v: (2 * v + 1) ** a * one) for q in _multiples()]


def boundaries(kind: str, exponent: int) -> list[int]:
    """The least number that is cast to code c + 1 or a later one, for each c, (CODES - 1,)."""
    a, most, one = power(exponent), largest(kind, exponent), (2 * LARGEST << FRACTION) ** POWERS
    found = []
    for c, (below, above) in enumerate(itertools.pairwise(_multiples())):
        first = bisect_left if c % 2 else bisect_right  # a tie goes to the even one of c and c + 1
        found.append(first(range(most), (below + above) ** POWERS * most**a, key=lambda x: x**a * one))
    return found


def _multiples() -> list[int]:
    """E4M3's numbers from zero up, in units of 2^-9."""
    return [*range(8), *((8 + code % 8) << (code // 8 - 1) for code in range(8, CODES))]
