"""Sizes of what a proof passes over, from the layout alone: what the cost model counts with (limit.py, additions.py)."""

from __future__ import annotations

import itertools
import re

from zkaudit.zk.block import Block, padded
from zkaudit.zk.layout import Layout, table_bits


def kind_and_layer(block: Block) -> tuple[str, int]:
    """What a block is of, and of which layer; -2, the last one, for the loss's blocks, which are named without it."""
    match = re.match(r"([a-z]+)(\d*)", block.name)
    assert match is not None
    return match[1], int(match[2] or -2)


def looked_up(layout: Layout) -> dict[str, int]:
    """The table in which each looked-up block's entries lie."""
    return {block.name: lookup.table for lookup in layout.lookups for block in lookup.blocks}


def lookups(layout: Layout) -> int:
    """Looked-up entries, padding included: padding is looked up too."""
    return sum(lookup.size for lookup in layout.lookups)


def table_rows(layout: Layout) -> int:
    """Rows of all tables that entries are looked up in."""
    return sum(1 << table_bits(table) for table in layout.tables)


def samples(layout: Layout) -> int:
    """Samples of all steps, without padding."""
    return layout.statement.steps * layout.statement.batch


def product_layers(layout: Layout) -> list[list[tuple[int, int]]]:
    """Forward, then backward: each layer's units summed over, the bias included, and its outer units."""
    pairs = list(itertools.pairwise(layout.statement.widths))
    forward, backward = [(d + 1, units) for d, units in pairs], [(units, d) for d, units in pairs[1:]]
    return [forward, backward] if backward else [forward]


def product_stacks(layout: Layout) -> list[int]:
    """Entries of each direction's stack of tables over (inner unit, step)."""
    steps = padded(layout.statement.steps)
    return [padded(sum(padded(inner) * steps for inner, _ in layers)) for layers in product_layers(layout)]


def history_stack(layout: Layout) -> int:
    """Entries of the history's stack over (claim, layer, sample): forward and end claims, and backward but for layer 0."""
    return padded((3 * layout.statement.layers - 1) * layout.samples)


def variables(size: int) -> int:
    """Variables of a table of this many entries."""
    return (size - 1).bit_length()
