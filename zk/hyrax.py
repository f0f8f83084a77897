"""Hyrax commitments: a table is cut into rows of 2^columns numbers, and each row is one blinded Pedersen commitment.

A table here is a list of blocks, each with its own shape (highs, lows): entry (h, l) has index h * lows + l, and both sides are
powers of two. Every block starts a new row; one shorter than a row fills its start. All blocks share the column generators,
so a weighted sum of their evaluations at points that agree in the first `columns` variables is ONE row combination: what the
channel's `open` settles. Source: Hyrax (Wahby et al. 2018), section 6, without its square-root split being per table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from zkaudit.zk import curve, field, mle, pedersen
from zkaudit.zk.backend import contiguous, place_of
from zkaudit.zk.block import Block
from zkaudit.zk.curve import Points
from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.field import MODULUS, Array


class ScalarSource(Protocol):
    """Where blindings come from."""

    def scalars(self, count: int) -> Array:
        """`count` uniform scalars."""
        ...


def rows(blocks: Sequence[Block], columns: int) -> int:
    """Row commitments of all blocks."""
    return sum(block.rows(columns) for block in blocks)


def commit(blocks: Sequence[Block], tables: Mapping[str, Any], columns: int, blinder: ScalarSource) -> tuple[Points, Array]:
    """Row commitments (rows, 12) and their blindings (rows, 4), blocks in order."""
    blindings = blinder.scalars(rows(blocks, columns))
    return commit_with(blocks, tables, columns, blindings), blindings


def commit_with(blocks: Sequence[Block], tables: Mapping[str, Any], columns: int, blindings: Array) -> Points:
    """Row commitments under given blindings: how a recipient checks an opened table."""
    generators = pedersen.columns(1 << columns)
    plain = curve.msm_rows([_matrix(block, tables, columns) for block in blocks], generators)
    return curve.add(plain, curve.fixed_base(pedersen.blinding(), blindings))


def row_weights(blocks: Sequence[Block], weights: Sequence[int], point: Sequence[int], columns: int) -> Array:
    """Each row's weight in the combination that opens sum of weights * blocks at `point`, shape (rows, 4).

    A block shorter than a row, read as a row, is its extension times the factor below; its weight makes up for that. A point
    where that factor vanishes is InvalidProof: chance, below columns / r.
    """
    parts = []
    for block, weight in zip(blocks, weights, strict=True):
        factor = 1
        for x in point[block.variables : columns]:
            factor = factor * (1 - x) % MODULUS
        if factor == 0:
            raise InvalidProof(f"the block '{block.name}' cannot be opened at this point: a coordinate is one")
        high = mle.eq_table(point[columns : max(columns, block.variables)])
        parts.append(field.mul(high, weight * pow(factor, -1, MODULUS) % MODULUS))
    return np.concatenate(parts)


def combine_rows(blocks: Sequence[Block], tables: Mapping[str, Any], weights: Array, columns: int) -> Array:
    """The combined row itself, shape (2^columns, 4)."""
    total, first = field.zeros(1 << columns), 0
    by_length: dict[int, list[tuple[Array, Any]]] = {}
    for block in blocks:
        matrix = _matrix(block, tables, columns)
        by_length.setdefault(matrix.shape[1], []).append((weights[first : first + len(matrix)], matrix))
        first += len(matrix)
    for length, parts in by_length.items():
        part = field.combine_all(parts, length)
        total[:length] = field.add(total[:length], place_of(part).get(part))
    return total


def _matrix(block: Block, tables: Mapping[str, Any], columns: int) -> Any:
    return contiguous(tables[block.name]).reshape(block.rows(columns), -1)
