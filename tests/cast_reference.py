"""Casts to 8 bits once more, slow and plain, in fractions: FP8's, and those of stored moments. An oracle without floats."""

from __future__ import annotations

from bisect import bisect
from fractions import Fraction
from functools import cache


@cache
def numbers(kind: str) -> list[Fraction]:
    """The format's numbers from zero up, by their codes (OCP 8-bit floating point, 2023): of E4M3 127, of E5M2 124."""
    mantissa, bias, count = (3, 7, 127) if kind == "e4m3" else (2, 15, 124)
    found = []
    for code in range(count):
        exponent, fraction = code >> mantissa, code & ((1 << mantissa) - 1)
        whole = fraction + (1 << mantissa) * (exponent > 0)
        found.append(whole * Fraction(2) ** (max(exponent, 1) - bias - mantissa))
    return found


@cache
def nearest_code(size: int, kind: str, shift: int) -> int:
    """Of the number times 2^shift that is nearest to `size`; of two the one whose code is even."""
    known, scaled = numbers(kind), Fraction(size) / Fraction(2) ** shift
    above = bisect(known, scaled)
    if above == len(known):
        return above - 1
    down, up = scaled - known[above - 1], known[above] - scaled
    return above - 1 if down < up or (down == up and above % 2) else above


def cast(x: int, kind: str, shift: int) -> int:
    """x to the nearest number of the format times 2^shift, ties to even, saturated."""
    number = numbers(kind)[nearest_code(abs(x), kind, shift)] * Fraction(2) ** shift
    assert number.denominator == 1
    return int(number) if x >= 0 else -int(number)


def range_of(kind: str, exponent: int) -> tuple[int, int]:
    """Of a "first" or "second" moment: the largest number that is stored, and eight times the power."""
    return min(2**exponent, 2 ** (15 if kind == "first" else 16) - 1), 142 // exponent


@cache
def cast_moment(x: int, kind: str, exponent: int) -> int:
    """x to the E4M3 code nearest to 448 (x / largest)^k, ties to even, and back to the nearest integer; k is a / 8."""
    (largest, a), known = range_of(kind, exponent), numbers("e4m3")
    reached, code = Fraction(min(abs(x), largest), largest) ** a, 0
    while code + 1 < len(known):
        middle = ((known[code] + known[code + 1]) / 2 / known[-1]) ** 8
        if reached < middle or (reached == middle and code % 2 == 0):
            break
        code += 1
    value = code_value(code, kind, exponent)
    return value if x >= 0 else -value


@cache
def code_value(code: int, kind: str, exponent: int) -> int:
    """The integer nearest to largest (q / 448)^(1 / k)."""
    (largest, a), known = range_of(kind, exponent), numbers("e4m3")
    wanted = (known[code] / known[-1]) ** 8 * largest**a
    return bisect(range(largest), wanted, key=lambda v: Fraction(2 * v + 1, 2) ** a)
