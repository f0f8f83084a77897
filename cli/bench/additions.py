"""The cost model's point additions: commitments, messages and the inner-product argument.

An addition is one sum of affine points, its inversion shared: six products in the base field.

Integers are taken to fill the ranges that the statement gives them. Where all of a row are smaller, or have their upper bits
alike, its commitment takes fewer planes of bits, and may cost less than is counted here."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from zkaudit.cli.bench import sizes
from zkaudit.zk.block import Block, padded
from zkaudit.zk.layout import Layout, table_bits

LARGEST_GROUP = 13  # points that share a table of subset sums: its 2^13 entries still fit the cache
SCALAR_BITS = 255
LANE_POINTS = {"ifma": 8, "scalar": 1}  # that the curve's lanes hold
# In additions, by products in the base field: 8, 12, and 11 with an affine point.
DOUBLING, PROJECTIVE_SUM, MIXED_SUM = 8 / 6, 12 / 6, 11 / 6
# A full-width multiple of one point in a lane: 64 windows of four bits, and the table of the first multiples.
POINT_MULTIPLE = 63 * 4 * DOUBLING + (64 + 9) * PROJECTIVE_SUM
COLUMNS, PARTS = 16, 4  # of the comb that messages are committed to with


class Rows(NamedTuple):
    """Rows of a commitment that hold something, the entries of all together that are not padding, and the bits of each."""

    number: int
    entries: int
    bits: int


def commitment(layout: Layout, blocks: Sequence[Block]) -> float:
    """One commitment: its rows, and a blinding of full width for each, from a table of the blinding generator's multiples."""
    columns = layout.statement.columns
    rows = sum(block.rows(columns) for block in blocks)
    blindings = min((SCALAR_BITS // w + 1) * (rows + (1 << (w - 1))) for w in range(2, 13)) + 2 * rows * MIXED_SUM
    return row_additions(committed_rows(layout, blocks), 1 << columns) + blindings


def row_additions(blocks: Sequence[Rows], columns: int) -> float:
    """Additions for rows over `columns` points, all of one commitment: they share their tables.

    With tables of the 2^g subset sums of g points a row adds one table entry for each g entries and plane of bits, and a
    doubling and a sum join each plane; every table costs one addition an entry, once for all rows. g is the best up to
    LARGEST_GROUP. Rows that cost less by buckets go that way.
    """
    buckets = [rows.number * bucket_additions(rows.entries / max(rows.number, 1), rows.bits) for rows in blocks]

    def tables(g: int) -> float:
        planes = [rows.bits * (rows.entries / g + rows.number * (DOUBLING + MIXED_SUM)) for rows in blocks]
        return columns / g * (1 << g) + sum(map(min, planes, buckets))

    return min(sum(buckets), *map(tables, range(1, LARGEST_GROUP + 1)))


def bucket_additions(points: float, bits: int) -> float:
    """Additions for one sum of multiples of `points` points, factors below 2^bits.

    In each window of w bits every point enters a bucket, and weighing a bucket takes about three additions; w is the best.
    """
    return min((bits // w + 1) * (points + 3 * (1 << (w - 1))) for w in range(2, 15))


def sum_additions(points: int, lane: int) -> float:
    """Additions for one sum of full-width multiples: up to two lanes of points are multiplied side by side, more by buckets."""
    if points <= 2 * lane:
        return -(-points // lane) * lane * POINT_MULTIPLE
    return bucket_additions(points, SCALAR_BITS)


def messages(layout: Layout) -> dict[str, list[tuple[int, int]]]:
    """By phase how many messages are sent, and the scalars in each."""
    s, levels = layout.statement, sizes.variables(sizes.lookups(layout) + sizes.table_rows(layout))

    def product_sumcheck(size: int) -> list[tuple[int, int]]:
        # The sum, the rounds, both factors with their product, and the masks that prove the product.
        return [(1, 1), (sizes.variables(size), 3), (1, 3), (1, 4)]

    stacks = [*sizes.product_stacks(layout), sizes.history_stack(layout)]
    lefts = s.layers - 1 + (2 if s.loss == "cross_entropy" else 0)
    return {
        # The root; rounds of every layer; a layer's last gate and the masks of its two products.
        "lookup": [(1, 1), (levels * (levels - 1) // 2, 3), (levels, 6), (2 * levels, 4)],
        # The end weights' value, and three sumchecks.
        "matmul": [(1, 1), *itertools.chain(*map(product_sumcheck, stacks))],
        # Rounds; the blocks' values; for each left factor the product of two of them, and its masks.
        "relu": [(max(b.variables for b in layout.blocks), 4), (1, len(layout.blocks)), (lefts, 1), (lefts, 4)],
    }


def message_additions(points: int, lane: int) -> float:
    """One message's commitment from tables of multiples, which are made once a process and so not counted.

    A column takes a table entry for each point and part, in as many lanes as those fill; columns are a doubling apart. In the
    end half of the lane is added to the other half until one point is left.
    """
    sums = COLUMNS * -(-PARTS * points // lane) * MIXED_SUM + (COLUMNS - 1) * DOUBLING
    return lane * (sums + (lane.bit_length() - 1) * PROJECTIVE_SUM)


def hiding(sent: Iterable[tuple[int, int]], lane: int) -> float:
    """Commitments to messages: over as many points as there are scalars, and a blinding's."""
    return sum(number * message_additions(scalars + 1, lane) for number, scalars in sent)


def opening(layout: Layout, lane: int) -> float:
    """One masking sum, and the inner-product argument over columns and the slots of all messages."""
    slots = sum(number * scalars for phase in messages(layout).values() for number, scalars in phase)
    used = (1 << layout.statement.columns) + slots
    length, additions = padded(used), sum_additions(used + 1, lane)
    while length > 1:
        length //= 2
        # Two cross sums, in the first round one of them over slots, past which there are no generators; then the fold.
        additions += sum_additions(length + 1, lane) + sum_additions(used - length + 1, lane)
        additions += length * (POINT_MULTIPLE + MIXED_SUM)
        used = length
    return additions


def committed_rows(layout: Layout, blocks: Iterable[Block]) -> list[Rows]:
    """What each block's commitment holds; zeros cost no addition."""
    looked_up, length = sizes.looked_up(layout), 1 << layout.statement.columns
    used = [(block, _used(layout, block)) for block in blocks]
    return [Rows(-(-n // min(block.size, length)), n, _bits(layout, block, looked_up)) for block, n in used]


def _bits(layout: Layout, block: Block, looked_up: Mapping[str, int]) -> int:
    kind, _ = sizes.kind_and_layer(block)
    if kind == "e":
        return 17  # floor(2^16 exp(-d)), 2^16 included
    if block.name in looked_up:
        return table_bits(looked_up[block.name])
    if kind in ("start", "end"):
        return layout.statement.weight_bits + 1  # weights below one, and a sign
    if kind == "count":
        return sizes.lookups(layout).bit_length()
    if kind == "s":
        return 17 + layout.statement.widths[-1].bit_length()  # a sum of exponentials
    return 1  # signs and the one-hot maximum


def _used(layout: Layout, block: Block) -> int:
    s, (kind, layer) = layout.statement, sizes.kind_and_layer(block)
    if kind == "count":
        return block.size
    if kind in ("x", "y"):
        return s.widths[0 if kind == "x" else -1] * s.rows
    if kind in ("start", "end"):
        return s.widths[layer + 1] * (1 if ".bias" in block.name else s.widths[layer])
    return (1 if block.highs == 1 else s.widths[layer + 1]) * sizes.samples(layout)
