"""Committed tables from integers: the data set, weights, and whatever is placed in a block's padded table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zkaudit.zk.backend import HOST, Place, contiguous, place_of
from zkaudit.zk.block import LIMB, SIGN_OFFSET, limb_bits
from zkaudit.zk.circuit import galore
from zkaudit.zk.layout import Layout
from zkaudit.zk.statement import EXPONENTIAL_BITS, WEIGHT_MARGIN
from zkaudit.zk.trace import Integers, require_range


def data_tables(layout: Layout, x: Integers, y: Integers, frozen: Sequence[Integers] = ()) -> dict[str, Any]:
    """The committed data set, inputs with offset and targets as they are, and the frozen weights."""
    require_range("inputs", x, -SIGN_OFFSET, SIGN_OFFSET)
    require_range("targets", y, 0, 1 << LIMB)
    tables = {"x": placed(layout, "x", (x + SIGN_OFFSET).T), "y": placed(layout, "y", y.T)}
    numbers = [m for m, matrix in enumerate(layout.matrices) if matrix.frozen]
    return {**tables, **_matrix_tables(layout, "frozen", numbers, frozen, HOST)}


def weight_tables(layout: Layout, name: str, weights: Sequence[Integers], place: Place = HOST) -> dict[str, Any]:
    """What a start or end commitment called `name` holds, made at `place`: the trained matrices, (rows, columns) with the bias
    row last, then GaLore's moments, (kept units, rank) each."""
    trained = len(layout.trained)
    tables = trained_tables(layout, name, weights[:trained], place)
    for block, values in zip(galore.state_blocks(layout.statement, name), weights[trained:], strict=True):
        tables[block.name] = placed(layout, block.name, place.put(values))
    return tables


def trained_tables(layout: Layout, name: str, matrices: Sequence[Integers], place: Place = HOST) -> dict[str, Any]:
    """The trained matrices alone, as the blocks called `name`."""
    return _matrix_tables(layout, name, layout.trained, matrices, place)


def start_limb_tables(layout: Layout, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Limbs of the start weights, padding included, after adding the offset that makes them non-negative."""
    width = layout.statement.weight_bits + WEIGHT_MARGIN
    limbs: dict[str, Any] = {}
    for block in layout.first_weights:
        weights = tables[block.name]
        require_range("start weights", weights, -(1 << width), 1 << width)
        words = np.add(weights, 1 << width, dtype=np.int64).astype("<i8", copy=False).view("<u2").reshape(*weights.shape, 4)
        for k, _ in enumerate(limb_bits(width + 1)):
            limbs[f"{block.name}.{k}"] = contiguous(words[..., k])
    return limbs


def placed(layout: Layout, name: str, values: Integers) -> Any:
    """`values` in the corner of the block's padded table; exponentials are padded with the table's row for distance 0."""
    block = layout.named[name]
    table = place_of(values).full((block.highs, block.lows), 1 << EXPONENTIAL_BITS if name == "e" else 0, np.int64)
    table[: values.shape[0], : values.shape[1]] = values
    return narrow(table)


def narrow(table: Integers) -> Any:
    """The same integers in the smallest type the core reads."""
    low, high = (int(table.min()), int(table.max())) if table.size else (0, 0)
    for kind in (np.uint8, np.uint16, np.int32, np.uint32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return contiguous(table, kind)
    return contiguous(table, np.int64)


def _matrix_tables(
    layout: Layout, name: str, numbers: Sequence[int], weights: Sequence[Integers], place: Place
) -> dict[str, Any]:
    tables = {}
    for m, values in zip(numbers, weights, strict=True):
        matrix, values = layout.matrices[m], place.put(values)
        inputs = values[:-1] if matrix.has_bias else values
        tables[f"{name}{matrix.name}"] = placed(layout, f"{name}{matrix.name}", inputs.T)
        if matrix.has_bias:
            tables[f"{name}{matrix.name}.bias"] = placed(layout, f"{name}{matrix.name}.bias", values[-1:])
    return tables
