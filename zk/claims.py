"""Claims: what every argument leaves behind, to be settled together by the gather sumcheck (gather.py).

A claim says that a weighted sum over table entries equals a hidden value. A weight is a coefficient times an outer product of a
high and a low vector, so that both sides can handle it without ever writing it out. Weights fall on committed blocks
directly, or on products of two forms, a form being an affine function of blocks: the activation (1 - b) p is one."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field

from zkaudit.zk import field
from zkaudit.zk.block import Block
from zkaudit.zk.field import MODULUS, Array
from zkaudit.zk.linear import Linear


@dataclass(frozen=True)
class Form:
    """constant + sum of coefficient * block, blocks by name."""

    constant: int
    terms: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Weight:
    """coefficient * high[h] * low[l] on entry (h, l) of a shape."""

    coefficient: int
    high: Array
    low: Array


@dataclass(frozen=True)
class BlockPart:
    """A weight on one block."""

    block: Block
    weight: Weight


@dataclass(frozen=True)
class ProductPart:
    """A weight on the product of two forms over blocks of one shape."""

    highs: int
    lows: int
    left: Form
    right: Form
    weight: Weight


@dataclass
class Claim:
    """`value` = constant + the sum of the parts. Each tensor method adds coefficient * <tensor, high x low> to the right
    side."""

    value: Linear
    constant: int = 0
    blocks: list[BlockPart] = dataclass_field(default_factory=list)
    products: list[ProductPart] = dataclass_field(default_factory=list)

    def add_block(self, block: Block, coefficient: int, high: Array, low: Array) -> None:
        """coefficient * <block, high x low>; vectors may be shorter than the block and are padded with zeros."""
        weight = Weight(coefficient % MODULUS, extended(high, block.highs), extended(low, block.lows))
        self.blocks.append(BlockPart(block, weight))

    def add_product(self, shape: Block, left: Form, right: Form, coefficient: int, high: Array, low: Array) -> None:
        """coefficient * <left * right, high x low> over entries of `shape`."""
        weight = Weight(coefficient % MODULUS, extended(high, shape.highs), extended(low, shape.lows))
        self.products.append(ProductPart(shape.highs, shape.lows, left, right, weight))

    def add_constant(self, value: int) -> None:
        self.constant = (self.constant + value) % MODULUS


def extended(vector: Array, length: int) -> Array:
    """`vector`, padded with zeros to `length`."""
    if len(vector) == length:
        return vector
    out = field.zeros(length)
    out[: len(vector)] = vector
    return out
