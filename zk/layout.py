"""Which tables a proof commits to, their shapes, and which of them are looked up where: all derived from the statement.

A table over (unit, sample) has the unit as its high and the sample as its low index; samples are numbered step * batch + place.
Signed numbers are stored with an offset so that a range check is one lookup. Padding entries hold zero and enter no relation:
every relation weighs valid entries only."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk.block import Block
from zkaudit.zk.statement import ACTIVATION_RANGE, EXPONENTIAL_BITS, WEIGHT_MARGIN, Statement

LIMB = 16
SIGN_OFFSET = 1 << (ACTIVATION_RANGE - 1)
EXPONENTIAL = 64  # number of the exponential table; range tables have their bits as number


@dataclass(frozen=True)
class Lookup:
    """Every entry of `blocks` (one block, or an argument and its value) lies in table number `table`."""

    table: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Layout:
    """The blocks of one statement."""

    statement: Statement

    @cached_property
    def samples(self) -> int:
        """Padded number of samples in the segment."""
        return padded(self.statement.steps * self.statement.batch)

    @cached_property
    def data(self) -> list[Block]:
        rows, widths = padded(self.statement.rows), self.statement.widths
        return [Block("x", padded(widths[0]), rows), Block("y", padded(widths[-1]), rows)]

    @cached_property
    def start(self) -> list[Block]:
        return self._weights("start")

    @cached_property
    def end(self) -> list[Block]:
        return self._weights("end")

    @cached_property
    def witness(self) -> list[Block]:
        """Everything committed for this segment alone."""
        blocks = [block for layer in range(self.statement.layers) for block in self._layer(layer)]
        if self.statement.segment == 0:
            blocks += [
                Block(f"{block.name}.{k}", block.highs, block.lows) for block in self.start for k in range(self.start_limbs)
            ]
        return blocks

    @cached_property
    def multiplicities(self) -> list[Block]:
        return [Block(f"count.{table}", 1, 1 << table_bits(table)) for table in self.tables]

    @cached_property
    def blocks(self) -> list[Block]:
        return [*self.data, *self.start, *self.end, *self.witness, *self.multiplicities]

    @cached_property
    def named(self) -> dict[str, Block]:
        return {block.name: block for block in self.blocks}

    @cached_property
    def tables(self) -> list[int]:
        return sorted({lookup.table for lookup in self.lookups})

    @cached_property
    def start_limbs(self) -> int:
        return len(limb_bits(self.statement.weight_bits + WEIGHT_MARGIN + 1))

    @cached_property
    def lookups(self) -> list[Lookup]:
        s, named = self.statement, {block.name: block for block in [*self.data, *self.witness]}
        found: list[Lookup] = []
        remainder = limb_bits(s.weight_bits)
        for j in range(s.layers - 1):
            found += [Lookup(ACTIVATION_RANGE, (named[f"{name}{j}"],)) for name in ("p", "ga")]
            for name in ("r", "rg"):
                found += [Lookup(bits, (named[f"{name}{j}.{k}"],)) for k, bits in enumerate(remainder)]
        last = s.layers - 1
        found += [Lookup(bits, (named[f"r{last}.{k}"],)) for k, bits in enumerate(remainder)]
        if s.loss == "square":
            found.append(Lookup(ACTIVATION_RANGE, (named["z"],)))
        else:
            ranged = ("m", "q", "rho.0", "rho.1", "sigma.0", "sigma.1")
            found += [Lookup(ACTIVATION_RANGE, (named[name],)) for name in ranged]
            found.append(Lookup(EXPONENTIAL, (named["d"], named["e"])))
        if s.segment == 0:
            found.append(Lookup(ACTIVATION_RANGE, (named["x"],)))
            found.append(Lookup(1 if s.loss == "cross_entropy" else ACTIVATION_RANGE, (named["y"],)))
            bits_of_start = limb_bits(s.weight_bits + WEIGHT_MARGIN + 1)
            found += [
                Lookup(bits, (named[f"{block.name}.{k}"],)) for block in self.start for k, bits in enumerate(bits_of_start)
            ]
        return found

    def _weights(self, name: str) -> list[Block]:
        widths = self.statement.widths
        blocks = []
        for j, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            blocks.append(Block(f"{name}{j}", padded(outputs), padded(inputs)))
            blocks.append(Block(f"{name}{j}.bias", 1, padded(outputs)))
        return blocks

    def _layer(self, j: int) -> list[Block]:
        s = self.statement
        limbs = range(len(limb_bits(s.weight_bits)))
        if j < s.layers - 1:
            names = [f"p{j}", f"b{j}", f"ga{j}", *(f"{r}{j}.{k}" for r in ("r", "rg") for k in limbs)]
        elif s.loss == "square":
            names = ["z", *(f"r{j}.{k}" for k in limbs)]
        else:
            names = ["d", "e", "h", "q", "s", "rho.0", "rho.1", "sigma.0", "sigma.1", *(f"r{j}.{k}" for k in limbs)]
        blocks = [Block(name, padded(s.widths[j + 1]), self.samples) for name in names]
        if j == s.layers - 1 and s.loss == "cross_entropy":
            blocks.append(Block("m", 1, self.samples))
        return blocks


def padded(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def limb_bits(width: int) -> list[int]:
    """Limbs of a number of `width` bits, lowest first: 16 bits each, the last what is left."""
    return [min(LIMB, width - low) for low in range(0, width, LIMB)]


def table_bits(table: int) -> int:
    """Logarithm of a table's length."""
    return EXPONENTIAL_BITS if table == EXPONENTIAL else table


def exponential_table(activation_bits: int) -> NDArray[np.int32]:
    """floor(2^16 exp(-d / 2^activation_bits)) for d < 2^16.

    Double precision is enough: no entry but the first comes within 2^-30 of an integer for any allowed width (tested).
    """
    d = np.arange(1 << EXPONENTIAL_BITS, dtype=np.float64)
    table: NDArray[np.int32] = np.floor(2.0**EXPONENTIAL_BITS * np.exp(-d / 2.0**activation_bits)).astype(np.int32)
    return table


def choose_columns(blocks: Sequence[Block]) -> int:
    """Logarithm of the row length: rows cost proof bytes and decompression, columns generators and the final exponentiation."""
    return min(range(8, 15), key=lambda c: 3 * sum(block.rows(c) for block in blocks) + (2 << c))
