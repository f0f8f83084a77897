"""Linear expressions in the slots of a dialogue: what a verifier can compute on values that it does not see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zkaudit.zk.field import MODULUS


class Linear:
    """constant + sum of coefficient * slot, over the scalar field. Immutable."""

    __slots__ = ("constant", "terms")

    def __init__(self, terms: Mapping[int, int] | None = None, constant: int = 0) -> None:
        self.terms: Mapping[int, int] = terms if terms is not None else {}
        self.constant = constant % MODULUS

    def __add__(self, other: Linear | int) -> Linear:
        if isinstance(other, int):
            return Linear(self.terms, self.constant + other)
        terms = dict(self.terms)
        for slot, coefficient in other.terms.items():
            terms[slot] = (terms.get(slot, 0) + coefficient) % MODULUS
        return Linear(terms, self.constant + other.constant)

    def __mul__(self, scalar: int) -> Linear:
        return Linear({slot: c * scalar % MODULUS for slot, c in self.terms.items()}, self.constant * scalar)

    def __sub__(self, other: Linear | int) -> Linear:
        return self + (-other if isinstance(other, int) else other * -1)

    def __neg__(self) -> Linear:
        return self * -1

    __radd__ = __add__
    __rmul__ = __mul__


def combination(pairs: Iterable[tuple[int, Linear]]) -> Linear:
    """The sum of coefficient * expression over `pairs`, without intermediate expressions."""
    terms: dict[int, int] = {}
    constant = 0
    for scalar, expression in pairs:
        constant += scalar * expression.constant
        for slot, coefficient in expression.terms.items():
            terms[slot] = (terms.get(slot, 0) + scalar * coefficient) % MODULUS
    return Linear(terms, constant)


def polynomial_at(coefficients: list[Linear], x: int) -> Linear:
    """The polynomial with these coefficients, lowest first, at x."""
    power, pairs = 1, []
    for coefficient in coefficients:
        pairs.append((power, coefficient))
        power = power * x % MODULUS
    return combination(pairs)
