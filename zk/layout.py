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

from zkaudit.zk.block import Block, Lookup, limb_bits, padded
from zkaudit.zk.circuit import casts, fp8, galore, lora
from zkaudit.zk.statement import ACTIVATION_RANGE, EXPONENTIAL_BITS, WEIGHT_MARGIN, Statement

EXPONENTIAL = 64  # number of the exponential table; range tables have their bits as number


@dataclass(frozen=True)
class Matrix:
    """One matrix of weights: a layer's, or one of its two adapters. Its blocks are called `prefix` + `name`."""

    name: str
    rows: int  # inputs, the bias among them
    columns: int
    has_bias: bool  # the last row is a block of its own
    frozen: bool  # stands in the data commitment and has no end

    def blocks(self, prefix: str) -> list[Block]:
        """Its blocks in one commitment."""
        inputs = self.rows - 1 if self.has_bias else self.rows
        blocks = [Block(f"{prefix}{self.name}", padded(self.columns), padded(inputs))]
        return [*blocks, Block(f"{prefix}{self.name}.bias", 1, padded(self.columns))] if self.has_bias else blocks


@dataclass(frozen=True)
class Layout:
    """The blocks of one statement."""

    statement: Statement

    @cached_property
    def samples(self) -> int:
        """Padded number of samples in the segment."""
        return padded(self.statement.steps * self.statement.batch)

    @cached_property
    def matrices(self) -> list[Matrix]:
        """The layers' weights, in order; then, with LoRA, the first and the second adapter of each layer that has them."""
        s, pairs = self.statement, list(itertools.pairwise(self.statement.widths))
        found = [Matrix(str(j), d + 1, units, True, s.lora is not None) for j, (d, units) in enumerate(pairs)]
        for j, rank in s.lora.adapters if s.lora else ():
            d, units = pairs[j]
            found += [Matrix(f"{j}.first", d, rank, False, False), Matrix(f"{j}.second", rank, units, False, False)]
        return found

    @cached_property
    def trained(self) -> list[int]:
        """Numbers of the matrices that are not frozen."""
        return [m for m, matrix in enumerate(self.matrices) if not matrix.frozen]

    def prefix(self, m: int, name: str) -> str:
        """What the blocks of matrix m are called where `name` is "start" or "end"."""
        return "frozen" if self.matrices[m].frozen else name

    @cached_property
    def data(self) -> list[Block]:
        rows, widths = padded(self.statement.rows), self.statement.widths
        blocks = [Block("x", padded(widths[0]), rows), Block("y", padded(widths[-1]), rows)]
        return blocks + [block for matrix in self.matrices if matrix.frozen for block in matrix.blocks("frozen")]

    @cached_property
    def start(self) -> list[Block]:
        return [*self.weights("start"), *galore.state_blocks(self.statement, "start")]

    @cached_property
    def end(self) -> list[Block]:
        return [*self.weights("end"), *galore.state_blocks(self.statement, "end")]

    def weights(self, name: str) -> list[Block]:
        """The trained matrices' blocks in the start or end commitment, which begins with them."""
        return [block for m in self.trained for block in self.matrices[m].blocks(name)]

    @cached_property
    def first_weights(self) -> list[Block]:
        """All weights that a chain begins with: trained and frozen ones."""
        return [block for m, matrix in enumerate(self.matrices) for block in matrix.blocks(self.prefix(m, "start"))]

    @cached_property
    def witness(self) -> list[Block]:
        """Everything committed for this segment alone."""
        blocks = [block for layer in range(self.statement.layers) for block in self._layer(layer)]
        blocks += fp8.blocks(self.statement, self.samples)
        blocks += [block for block, _ in self._of_methods]
        blocks += galore.cast_blocks(self.statement)
        if self.statement.segment == 0:
            blocks += [
                Block(f"{block.name}.{k}", block.highs, block.lows)
                for block in self.first_weights
                for k in range(self.start_limbs)
            ]
        return blocks

    @cached_property
    def _of_methods(self) -> list[tuple[Block, int]]:
        """What LoRA and GaLore commit to, with the bits of the ranges."""
        return [*lora.ranges(self.statement, self.samples), *galore.ranges(self.statement)]

    @cached_property
    def _cast_tables(self) -> dict[tuple[str, int], int]:
        return casts.numbers(self.statement)

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
            found += [lookup for name in ("p", "ga") for lookup in self._lookups_of(named, name, j)]
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
        found += [Lookup(bits, (block,)) for block, bits in self._of_methods]
        found += [lookup for cast in casts.of_moments(s) for lookup in casts.lookups(cast, self._cast_tables, named)]
        if s.segment == 0:
            found.append(Lookup(ACTIVATION_RANGE, (named["x"],)))
            found.append(Lookup(1 if s.loss == "cross_entropy" else ACTIVATION_RANGE, (named["y"],)))
            bits_of_start = limb_bits(s.weight_bits + WEIGHT_MARGIN + 1)
            found += [
                Lookup(bits, (named[f"{block.name}.{k}"],))
                for block in self.first_weights
                for k, bits in enumerate(bits_of_start)
            ]
        return found

    def _lookups_of(self, named: dict[str, Block], name: str, j: int) -> list[Lookup]:
        """The range of P or GA', with FP8 that of the pair with its cast, for each group of units that has a scale."""
        if self.statement.fp8 is None:
            return [Lookup(ACTIVATION_RANGE, (named[f"{name}{j}"],))]
        return casts.lookups(casts.of_layer(self.statement, name, j), self._cast_tables, named)

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


def table_bits(table: int) -> int:
    """Logarithm of a table's length; tables of pairs have numbers from 64 on."""
    return EXPONENTIAL_BITS if table >= EXPONENTIAL else table


def table_columns(s: Statement, table: int) -> list[NDArray[np.int32]]:
    """A table's rows: all numbers of its bits, and beside them what they are paired with."""
    index = np.arange(1 << table_bits(table), dtype=np.int32)
    if table < EXPONENTIAL:
        return [index]
    return [index, exponential_table(s.activation_bits) if table == EXPONENTIAL else casts.table(s, table)]


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
