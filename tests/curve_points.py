"""Points for the curve tests: py_ecc's integers as our arrays, and points on the curve but outside the subgroup."""

from typing import Any

import numpy as np
from py_ecc.optimized_bls12_381 import FQ, G1, Z1, multiply, normalize
from py_ecc.optimized_bls12_381 import field_modulus as P

from zkaudit.zk import curve, field
from zkaudit.zk.curve import Points
from zkaudit.zk.field import MODULUS

COFACTOR = 0x396C8C005555E1568C00AAAB0000AAAB
"""The curve's number of points divided by r: 3 times the squares of the other small orders."""


def montgomery(x: int) -> list[int]:
    """Six limbs of x 2^384 mod p."""
    value = x * pow(2, 384, P) % P
    return [(value >> (64 * i)) & (2**64 - 1) for i in range(6)]


def ours(points: list[Any]) -> Points:
    """py_ecc's points as an array."""
    rows = []
    for point in points:
        x, y = (0, 0) if point[2] == FQ(0) else tuple(int(c) for c in normalize(point))
        rows.append(montgomery(x) + montgomery(y))
    return np.array(rows, np.uint64).reshape(len(points), 12)


def theirs(scalar: int) -> Any:
    """scalar * G1 in py_ecc."""
    return multiply(G1, scalar) if scalar % MODULUS else Z1


def multiples(numbers: list[int]) -> Points:
    """numbers[i] * G1, ours."""
    return curve.fixed_base(curve.GENERATOR, field.from_ints(numbers))


def on_curve_outside(count: int) -> list[Any]:
    """Points of y^2 = x^3 + 4 that are not of order r, py_ecc's form."""
    found, x = [], 0
    while len(found) < count:
        x += 1
        square = (x**3 + 4) % P
        y = pow(square, (P + 1) // 4, P)
        if y * y % P == square:
            point = (FQ(x), FQ(y), FQ(1))
            if multiply(point, MODULUS)[2] != FQ(0):
                found.append(point)
    return found


def of_small_order(order: int) -> list[Any]:
    """Points of that prime order, py_ecc's form: others times all of the curve's order but this prime's part."""
    part = order if order == 3 else order**2
    found = (multiply(point, MODULUS * COFACTOR // part) for point in on_curve_outside(3 if order > 3 else 8))
    return [point for point in found if point[2] != FQ(0)]
