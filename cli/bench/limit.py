"""The cost model: field multiplications and point additions that proving a statement takes, by phase, from its shapes alone.

It counts what the algorithms of docs/proof-system.md need when every pass is made once and nothing waits for memory; seconds
come from the two rates that rates.py measures. Units:

    a multiplication    a product and its reduction modulo r, each half of the work: sums of products are reduced once
    a small product     an element times a small integer: one limb times five, against fifty limb products
    an addition         one sum of affine points, its inversion shared: six products in the base field

Not counted: witness and hashing (no field arithmetic to speak of), eq tables (square roots of the tables they serve)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zkaudit.zk.block import Block
from zkaudit.zk.layout import EXPONENTIAL, Layout, padded, table_bits

PRODUCT, REDUCTION, SMALL = 0.5, 0.5, 0.1
LARGEST_GROUP = 13  # points that share a table of subset sums: its 2^13 entries still fit the cache
SCALAR_BITS = 255
PROJECTIVE_SUM = 2  # additions: 12 products against 6
# A full-width multiple by the curve's endomorphism, which halves the doublings: 128 of them (8 products each), two times 32
# digits and a table of 9 multiples (12 each), in additions of 6.
POINT_MULTIPLE = (128 * 8 + (2 * 32 + 9) * 12) / 6


@dataclass(frozen=True)
class Work:
    """Operations of one phase."""

    multiplications: float = 0.0
    additions: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.multiplications + other.multiplications, self.additions + other.additions)

    def seconds(self, multiplication: float, addition: float) -> float:
        """On one thread, at these seconds an operation."""
        return self.multiplications * multiplication + self.additions * addition


def count(layout: Layout) -> dict[str, Work]:
    """The work of each phase of one segment; the first one's commitments before training are phase "start"."""
    phases = {
        "witness": _commitment(layout, layout.end),
        "commit": _commitment(layout, [*layout.witness, *layout.multiplicities]),
        "lookup": _lookup(layout),
        "matmul": _matrix_products(layout) + _history(layout),
        "relu": _gather(layout),
        "opening": _opening(layout),
    }
    if layout.statement.segment == 0:
        phases["start"] = _commitment(layout, layout.data) + _commitment(layout, layout.start)
    return phases


def lookups(layout: Layout) -> int:
    """Looked-up entries, padding included: padding is looked up too."""
    return sum(lookup.blocks[0].size for lookup in layout.lookups)


def row_additions(entries: Iterable[tuple[int, int]], columns: int) -> float:
    """Additions for rows over `columns` points that hold this many entries of this many bits each.

    With tables of the 2^g subset sums of g points a row adds one table entry for each g entries and bit; every table costs one
    addition an entry, once for all rows. g is the best up to LARGEST_GROUP.
    """
    bits = sum(number * width for number, width in entries)
    return min(columns / g * (1 << g) + bits / g for g in range(1, LARGEST_GROUP + 1))


def exponentiation_additions(points: int) -> float:
    """Additions for one sum of full-width multiples of `points` points.

    In each window of w bits every point enters a bucket, and weighing a bucket takes about three additions; w is the best.
    """
    return min((SCALAR_BITS // w + 1) * (points + 3 * (1 << (w - 1))) for w in range(2, 15))


def committed_entries(layout: Layout, blocks: Sequence[Block]) -> list[tuple[int, int]]:
    """For each block how many entries are not padding, and the bits each has: zeros cost no addition."""
    looked_up = {block.name: lookup.table for lookup in layout.lookups for block in lookup.blocks}
    return [(_used(layout, block), _bits(layout, block, looked_up)) for block in blocks]


def _bits(layout: Layout, block: Block, looked_up: Mapping[str, int]) -> int:
    kind, _ = _parts(block)
    if kind == "e":
        return 17  # floor(2^16 exp(-d)), 2^16 included
    if block.name in looked_up:
        return table_bits(looked_up[block.name])
    if kind in ("start", "end"):
        return layout.statement.weight_bits + 1  # weights below one, and a sign
    if kind == "count":
        return lookups(layout).bit_length()
    if kind == "s":
        return 17 + layout.statement.widths[-1].bit_length()  # a sum of exponentials
    return 1  # signs and the one-hot maximum


def _used(layout: Layout, block: Block) -> int:
    s, (kind, layer) = layout.statement, _parts(block)
    if kind == "count":
        return block.size
    if kind in ("x", "y"):
        return s.widths[0 if kind == "x" else -1] * s.rows
    if kind in ("start", "end"):
        return s.widths[layer + 1] * (1 if ".bias" in block.name else s.widths[layer])
    units = 1 if block.highs == 1 else s.widths[layer + 1]
    return units * s.steps * s.batch


def _parts(block: Block) -> tuple[str, int]:
    """What a block is of, and of which layer; -2, the last one, for the loss's blocks, which are named without it."""
    match = re.match(r"([a-z]+)(\d*)", block.name)
    assert match is not None
    return match[1], int(match[2] or -2)


def _commitment(layout: Layout, blocks: Sequence[Block]) -> Work:
    """Rows by subset sums; each plane of a row is joined by a doubling and a sum; each row has one blinding of full width."""
    columns, entries = layout.statement.columns, committed_entries(layout, blocks)
    rows = [block.rows(columns) for block in blocks]
    planes = sum(count * bits for count, (_, bits) in zip(rows, entries, strict=True))
    tables = row_additions(entries, 1 << columns)
    return Work(additions=tables + planes * 2 * PROJECTIVE_SUM + sum(rows) * SCALAR_BITS / 12)


def _lookup(layout: Layout) -> Work:
    """The tree of fractions over n leaves, and one message for each round of its log2(n) sumchecks."""
    sizes = [1 << table_bits(table) for table in layout.tables]
    leaves = lookups(layout) + sum(sizes)
    levels = (leaves - 1).bit_length()
    arguments = sum(lookup.blocks[0].size for lookup in layout.lookups if lookup.table == EXPONENTIAL)
    fingerprints = 2 * SMALL * (leaves + arguments)  # made when the tree is built and again when it is descended
    lowest = leaves / 2 * (PRODUCT + REDUCTION)  # 1/q0 + 1/q1: only the denominators' product
    others = leaves / 2 * (3 * PRODUCT + 2 * REDUCTION)  # p0 q1 + p1 q0 and q0 q1, over all higher gates
    # A layer of m gates has m pairs over all its rounds. A pair takes two values of the gate and the fold of its children; the
    # numerators of the lowest layer are ones, which need neither product nor fold.
    lowest_rounds = leaves / 2 * (2 * (2 * PRODUCT + REDUCTION) + 2)
    other_rounds = leaves / 2 * (2 * (4 * PRODUCT + 2 * REDUCTION) + 4)
    messages = levels * (levels + 1) / 2 + 3 * levels  # rounds; then a layer's gate and the masks of its two products
    return Work(fingerprints + lowest + others + lowest_rounds + other_rounds, messages * exponentiation_additions(5))


def _quadratic_sumcheck(size: int) -> float:
    """A product of two tables: the claim, then for each pair two products and two folds; as many pairs as entries."""
    return size * (PRODUCT + 2 * PRODUCT + 2)


def _matrix_products(layout: Layout) -> Work:
    """Forward and backward: both tensors of a layer folded to (inner unit, step), weights once, then one sumcheck each."""
    s, samples, total = layout.statement, layout.statement.steps * layout.statement.batch, 0.0
    for forward in (True, False):
        layers = range(s.layers) if forward else range(1, s.layers)
        for j in layers:
            d, units = s.widths[j], s.widths[j + 1]
            inner, outer = (d + 1, units) if forward else (units, d)
            total += SMALL * samples * (2 * inner + outer)  # the left factor, the updates, and the updates' outer side
            total += SMALL * (d + 1) * units  # the start weights
            total += inner * s.steps  # rates times updates
        if layers:
            inners = [s.widths[j] + 1 if forward else s.widths[j + 1] for j in layers]
            total += _quadratic_sumcheck(sum(padded(inner) for inner in inners) * padded(s.steps))
    return Work(total)


def _history(layout: Layout) -> Work:
    """Three claims a layer, forward, backward and end: both tensors folded over units, then one sumcheck over samples."""
    s, samples, total = layout.statement, layout.statement.steps * layout.statement.batch, 0.0
    for j, (d, units) in enumerate(itertools.pairwise(s.widths)):
        claims = 3 if j else 2  # nothing goes backward through the first layer
        total += claims * (SMALL * samples * (d + 1 + units) + samples + _quadratic_sumcheck(layout.samples))
        total += SMALL * (d + 1) * units  # the end weights
    return Work(total)


# Distinct outer products of weights that fall on a shape: each is written once and takes one quadratic sum of degree 3.
OUTER = 1 + 3 * PRODUCT + 2  # written; three values of a product and two folds for each pair


def _gather(layout: Layout) -> Work:
    """One sumcheck over all blocks, sums that share an outer product joined, then every block's value at the point."""
    s = layout.statement
    hidden = sum(padded(width) for width in s.widths[1:-1]) * layout.samples
    last = padded(s.widths[-1]) * layout.samples
    # 1 - b times three right sides. Weights: four claims on activations, four on gradients, one on sign bits, reduced thrice.
    written = 9 * PRODUCT + 3 * REDUCTION + 4 * SMALL
    rounds = 3 * (3 * PRODUCT + REDUCTION + PRODUCT) + 7  # for each pair three values of the bracket, and seven folds
    total = hidden * (written + rounds)
    # Pre-activations, gradients and lookups weigh a width's layers alike, so each width is summed once.
    total += 3 * OUTER * sum({padded(width) for width in s.widths[1:-1]}) * layout.samples
    if s.loss == "cross_entropy":
        bits_and_maximum, division = 3 * 4 * PRODUCT + 5 + 2, 3 * 3 * PRODUCT + 3 + 1  # h (1 - h) + h d, and q S
        total += last * (10 * OUTER + bits_and_maximum + division)  # four relations, lookup, forward, four gradients
    else:
        total += last * 6 * OUTER  # lookup, forward, four gradients
    first = s.segment == 0
    x, y = layout.data
    total += OUTER * (x.size * (4 if first else 3) + y.size * (6 if first else 4))  # claims of the batches; range, one-hot
    for shape in {(block.highs, block.lows) for block in layout.start}:
        total += OUTER * shape[0] * shape[1] * (5 if first else 3)  # forward, backward, end; limbs and their range
    committed = sum(block.size for block in layout.blocks)
    return Work(total + 3 * SMALL * committed)  # in two sums on average, and once at the end


def _opening(layout: Layout) -> Work:
    """The combined row, one masking sum, and the inner-product argument over columns and slots."""
    columns = 1 << layout.statement.columns
    additions, length = exponentiation_additions(columns), 2 * columns  # slots fill less than the columns again
    while length > 1:
        length //= 2
        additions += 2 * exponentiation_additions(length) + length * POINT_MULTIPLE  # two cross sums, and the fold
    return Work(SMALL * sum(block.size for block in layout.blocks), additions)


def total(phases: Mapping[str, Work]) -> Work:
    """All phases together."""
    return sum(phases.values(), Work())
