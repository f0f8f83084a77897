"""Sumcheck. Claim: the sum over {0,1}^n of p(x) equals a value. Reduces to p(r) at a random r. Error n d / |F|.

p is a sum of products of multilinear tables. Several such sums over cubes of different sizes are proved together: a smaller
one is extended by zero, that is, multiplied by (1 - x) for every variable it lacks, so that all end at prefixes of one point
and a sum of m variables enters the final claim with the factor prod over i >= m of (1 - r_i). Variable 0 is bound first.
Source: Lund et al. 1992; many products in one pass as in Thaler, Proofs, Arguments and Zero-Knowledge, section 4."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from zkaudit.zk import field, kernels, mle
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.field import MODULUS, Array
from zkaudit.zk.linear import Linear, combination, polynomial_at


class Sum(Protocol):
    """What a sumcheck runs over: sends a round's values, binds a variable. A sum that has run out of variables goes on as if
    multiplied by (1 - x) for each one more."""

    @property
    def variables(self) -> int:
        """Variables not yet bound."""
        ...

    def round_values(self, degree: int) -> list[int]:
        """The round polynomial at X = 0, 2, 3, .., degree."""
        ...

    def fold(self, r: int) -> None:
        """Bind the next variable."""
        ...


@dataclass
class Products:
    """Sum over x of the sum over `terms` of the product of the tables a term names; all tables (2^n, 4)."""

    tables: list[Array]
    terms: list[tuple[int, ...]]
    _scale: int = 1  # product of (1 - r) over the variables this sum lacks

    @property
    def variables(self) -> int:
        return (len(self.tables[0]) - 1).bit_length()

    def round_values(self, degree: int) -> list[int]:
        """The round polynomial at X = 0, 2, 3, .., degree."""
        if self.variables:
            return kernels.products_round(self.tables, self.terms, degree)
        value = self._scale * self._product()
        return [value * (1 - x) % MODULUS for x in (0, *range(2, degree + 1))]

    def fold(self, r: int) -> None:
        """Bind the next variable."""
        if self.variables:
            self.tables = kernels.fold_all(self.tables, r)
        else:
            self._scale = self._scale * (1 - r) % MODULUS

    def _product(self) -> int:
        values = [field.to_ints(table)[0] for table in self.tables]
        total = 0
        for term in self.terms:
            product = 1
            for k in term:
                product = product * values[k] % MODULUS
            total += product
        return total % MODULUS


def fold_claim(message: list[Linear], claim: Linear, channel: Channel, name: str) -> tuple[int, Linear]:
    """What both sides do with a round's message, the coefficients of its polynomial."""
    at_zero_and_one = combination([(2, message[0]), *((1, c) for c in message[1:])])
    channel.require_zero(at_zero_and_one - claim, name)
    r = channel.challenge("sumcheck round")
    return r, polynomial_at(message, r)


def prove(sums: Sequence[Sum], degree: int, claim: Linear, channel: ProverChannel, name: str) -> tuple[list[int], Linear]:
    """Prove that the sums add up to `claim`; returns the point and the claim there."""
    point, total = [], channel.value(claim)
    for _ in range(max(s.variables for s in sums)):
        at_zero, *rest = [sum(values) for values in zip(*(s.round_values(degree) for s in sums), strict=True)]
        coefficients = interpolate([at_zero, total - at_zero, *rest])
        r, claim = fold_claim(channel.send(coefficients, name), claim, channel, name)
        total = _horner(coefficients, r)
        for s in sums:
            s.fold(r)
        point.append(r)
    return point, claim


def verify(variables: int, degree: int, claim: Linear, channel: VerifierChannel, name: str) -> tuple[list[int], Linear]:
    """The verifier's side: the same point, and the claim left to check there."""
    point = []
    for _ in range(variables):
        r, claim = fold_claim(channel.receive(degree + 1, name), claim, channel, name)
        point.append(r)
    return point, claim


def prove_product(
    left: Array, right: Array, claim: Linear, channel: ProverChannel, name: str
) -> tuple[list[int], Linear, Linear]:
    """Prove that the tables' entries, multiplied and summed, are `claim`; the point, and both tables' hidden values there."""
    point, rest = prove([Products([left, right], [(0, 1)])], 2, claim, channel, name)
    values = [mle.evaluate(left, point), mle.evaluate(right, point)]
    message = channel.send([*values, values[0] * values[1]], name)
    return point, *_factors(message, rest, channel, name)


def verify_product(variables: int, claim: Linear, channel: VerifierChannel, name: str) -> tuple[list[int], Linear, Linear]:
    """The verifier's side: the same point, and the two values that are left to be claimed of something."""
    point, rest = verify(variables, 2, claim, channel, name)
    return point, *_factors(channel.receive(3, name), rest, channel, name)


def _factors(message: list[Linear], rest: Linear, channel: Channel, name: str) -> tuple[Linear, Linear]:
    """The last claim is the product of the two factors' values."""
    left, right, product = message
    channel.require_product(left, right, product, name)
    channel.require_zero(product - rest, name)
    return left, right


def missing_factor(point: Sequence[int], variables: int) -> int:
    """The factor with which a sum of fewer variables enters the final claim."""
    factor = 1
    for x in point[variables:]:
        factor = factor * (1 - x) % MODULUS
    return factor


def interpolate(values: Sequence[int]) -> list[int]:
    """Coefficients, lowest first, of the polynomial with these values at 0, 1, 2, .."""
    differences, coefficients, basis = list(values), [0] * len(values), [1]
    for k in range(len(values)):
        for i, b in enumerate(basis):
            coefficients[i] = (coefficients[i] + differences[0] * b) % MODULUS
        step = pow(k + 1, -1, MODULUS)
        differences = [(y - x) * step % MODULUS for x, y in itertools.pairwise(differences)]
        basis = [(low - k * high) % MODULUS for low, high in zip([0, *basis], [*basis, 0], strict=True)]
    return coefficients


def _horner(coefficients: Sequence[int], x: int) -> int:
    total = 0
    for c in reversed(coefficients):
        total = (total * x + c) % MODULUS
    return total
