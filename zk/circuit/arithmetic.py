"""Square root and division of integers, proved: relations on committed blocks that any method can use.

    root        2^b S^2 <= X < 2^b (S + 1)^2:     X - 2^b S^2 = a >= 0,     2^b (2 S + 1) - 1 - a = a' >= 0
    quotient    U = floor(N / D), D > 0:          N - U D = e >= 0,         D - 1 - e = e' >= 0

Slacks are non-negative because their limbs are looked up; S and U are unique, since each pair of slacks leaves one integer.
X, N and D need not be committed: who uses a relation says how a weighted sum of their entries is a claim's. D is S plus a
public number, or any block. Nothing wraps if X, N and U D are below r / 4 in size: the statement's check sees to that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk import field
from zkaudit.zk.block import LIMB, SIGN_OFFSET, Block, limb_bits, limbs
from zkaudit.zk.channel import Channel
from zkaudit.zk.claims import Claim, Form
from zkaudit.zk.errors import BadInput
from zkaudit.zk.field import Array
from zkaudit.zk.linear import Linear

Add = Callable[[Claim, int, Array, Array], None]  # adds coefficient * <tensor, units x samples> to a claim
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """Of the blocks that a relation is about, and how many of their entries are real."""

    highs: int
    lows: int
    units: int
    samples: int

    def weights(self, channel: Channel, label: str) -> tuple[Array, Array]:
        """Fresh random weights over the real entries."""
        return channel.random_weights(f"{label} units", self.units), channel.random_weights(f"{label} samples", self.samples)


@dataclass(frozen=True)
class Root:
    """S = floor(sqrt(X / 2^bits)) of 16 bits, in the block `name`."""

    name: str
    shape: Shape
    bits: int

    def ranges(self) -> list[tuple[Block, int]]:
        """Its blocks with the bits of their ranges."""
        return [(Block(self.name, self.shape.highs, self.shape.lows), LIMB), *self.slack_ranges()]

    def slack_ranges(self) -> list[tuple[Block, int]]:
        """Without the root itself, where something else is its range check."""
        highs, lows, slack = self.shape.highs, self.shape.lows, LIMB + 1 + self.bits
        return [x for side in ("above", "below") for x in limbs(f"{self.name}.{side}", highs, lows, slack)]

    def tables(self, square: Integers) -> dict[str, Integers]:
        """The blocks' contents for X, (units, samples); BadInput if a root leaves 16 bits."""
        root = floor_root(square >> self.bits)
        if root.size and int(root.max()) >> LIMB:
            raise BadInput(f"the square root '{self.name}' leaves 16 bits")
        above = square - (root * root << self.bits)
        below = (((2 * root + 1) << self.bits) - 1) - above
        slack = LIMB + 1 + self.bits
        return {self.name: root, **split(f"{self.name}.above", above, slack), **split(f"{self.name}.below", below, slack)}

    def claims(self, named: dict[str, Block], channel: Channel, add_square: Add) -> list[Claim]:
        """Both equations; add_square adds X."""
        root = Form(0, ((1, self.name),))
        units, samples = self.shape.weights(channel, "root")
        exact = Claim(Linear())
        add_square(exact, 1, units, samples)
        exact.add_product(named[self.name], root, root, -(1 << self.bits), units, samples)
        add_limbs(exact, named, f"{self.name}.above", -1, LIMB + 1 + self.bits, units, samples)
        units, samples = self.shape.weights(channel, "root below")
        below = Claim(Linear())
        below.add_block(named[self.name], 2 << self.bits, units, samples)
        below.add_constant(((1 << self.bits) - 1) * field.total(units) * field.total(samples))
        for side in ("above", "below"):
            add_limbs(below, named, f"{self.name}.{side}", -1, LIMB + 1 + self.bits, units, samples)
        return [exact, below]


@dataclass(frozen=True)
class Quotient:
    """U = floor(N / D), signed, of 16 bits, with an offset in block `name`; D = the block `divisor` + `more`, of 16 bits."""

    name: str
    divisor: str
    more: int
    shape: Shape

    def ranges(self) -> list[tuple[Block, int]]:
        """Its blocks with the bits of their ranges."""
        names = (self.name, f"{self.name}.rest", f"{self.name}.slack")
        return [(Block(name, self.shape.highs, self.shape.lows), LIMB) for name in names]

    def tables(self, numerator: Integers, divisor: Integers) -> dict[str, Integers]:
        """The blocks' contents for N and D, (units, samples); BadInput if one leaves 16 bits."""
        quotient = numerator // divisor
        rest = numerator - quotient * divisor
        if quotient.size and (int(np.abs(quotient).max()) >= SIGN_OFFSET or int(divisor.max()) > 1 << LIMB):
            raise BadInput(f"the quotient '{self.name}' or its divisor leaves 16 bits")
        slack = divisor - 1 - rest
        return {self.name: quotient + SIGN_OFFSET, f"{self.name}.rest": rest, f"{self.name}.slack": slack}

    def claims(self, named: dict[str, Block], channel: Channel, add_numerator: Add) -> list[Claim]:
        """Both equations; add_numerator adds N."""
        block, rest, slack = (named[f"{self.name}{part}"] for part in ("", ".rest", ".slack"))
        units, samples = self.shape.weights(channel, "quotient")
        exact = Claim(Linear())
        add_numerator(exact, 1, units, samples)
        signed, divisor = Form(-SIGN_OFFSET, ((1, self.name),)), Form(self.more, ((1, self.divisor),))
        exact.add_product(block, signed, divisor, -1, units, samples)
        exact.add_block(rest, -1, units, samples)
        units, samples = self.shape.weights(channel, "quotient slack")
        below = Claim(Linear(), (self.more - 1) * field.total(units) * field.total(samples))
        below.add_block(named[self.divisor], 1, units, samples)
        below.add_block(rest, -1, units, samples)
        below.add_block(slack, -1, units, samples)
        return [exact, below]


def floor_root(values: Integers) -> Integers:
    """floor of the square root of non-negative numbers below 2^62."""
    root: Integers = np.sqrt(values).astype(np.int64)
    root -= root * root > values
    root += (root + 1) * (root + 1) <= values
    return root


def split(name: str, values: Integers, width: int) -> dict[str, Integers]:
    """`name`.k -> limb k; what exceeds the last limb's bits stays in it, for the range check to find."""
    last = len(limb_bits(width)) - 1
    shifted = [values >> (LIMB * k) for k in range(last + 1)]
    return {f"{name}.{k}": x if k == last else x & ((1 << LIMB) - 1) for k, x in enumerate(shifted)}


def add_limbs(
    claim: Claim, named: dict[str, Block], name: str, coefficient: int, width: int, units: Array, samples: Array
) -> None:
    """coefficient * <the number of which `name`.k are the limbs, units x samples>."""
    for k, _ in enumerate(limb_bits(width)):
        claim.add_block(named[f"{name}.{k}"], coefficient << (LIMB * k), units, samples)


def add_signed(claim: Claim, block: Block, coefficient: int, units: Array, samples: Array) -> None:
    """coefficient * <the signed number that `block` holds with an offset, units x samples>."""
    claim.add_block(block, coefficient, units, samples)
    claim.add_constant(-SIGN_OFFSET * coefficient * field.total(units) * field.total(samples))
