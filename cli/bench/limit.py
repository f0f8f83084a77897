"""The cost model: field multiplications and point additions that proving a statement takes, by phase, from its shapes alone.

It counts what the prover's algorithms need when every pass is made once and nothing waits for memory: with the two rates that
rates.py measures, a lower bound on time. Integers are taken to fill their ranges (additions.py). Units:

    a multiplication    a product and its reduction modulo r, each half of the work: sums of products are reduced once
    a small product     an element times a word: one limb times five, against fifty limb products. Taking a digit off a sum of
                        them, as is done once a sum, costs as much
    an addition         one sum of affine points: additions.py

Not counted: passes over integers, hashing, vectors over one side of a table (eq tables, folded weights), which are square roots
of what they serve, and the tables of message slots' multiples, which a process makes once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zkaudit.cli.bench import additions, sizes
from zkaudit.zk.block import Block, padded
from zkaudit.zk.gathered import LEAST_HIGHS, LEAST_LOWS, ROUNDS
from zkaudit.zk.layout import Layout
from zkaudit.zk.leaves import RUN, WRITTEN

PRODUCT, REDUCTION, SMALL = 0.5, 0.5, 0.1
FOLD = PRODUCT + REDUCTION  # low + r (high - low)
GATE_MADE = 3 * PRODUCT + 2 * REDUCTION  # p0 q1 + p1 q0 and q0 q1
GATE_VALUE = 4 * PRODUCT + 2 * REDUCTION  # p0 q1 + (p1 + lambda q1) q0, weighted
GATE_PAIR = 2 * GATE_VALUE + 4 * FOLD  # two values of a round, then four children, of two gates each, folded
# Words that a fraction of the tree's level 0, 1 or 2 is made of, for p and for q: symmetric sums of 1, 2 or 4 integers. At
# level 0 p is 1; the largest sum at level 2 has two digits.
FRACTION_WORDS = ((0, 1), (1, 2), (3, 5))


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


def count(layout: Layout, lanes: str = "ifma") -> dict[str, Work]:
    """The work of each phase of one segment on these lanes; the commitments before training are the first one's "start"."""
    lane, sent, commitment = additions.LANE_POINTS[lanes], additions.messages(layout), additions.commitment
    phases = {
        "witness": Work(_end_check(layout), commitment(layout, layout.end)),
        "commit": Work(0.0, commitment(layout, layout.witness) + commitment(layout, layout.multiplicities)),
        "lookup": Work(_lookup(layout), additions.hiding(sent["lookup"], lane)),
        "matmul": Work(_matrix_products(layout) + _history(layout), additions.hiding(sent["matmul"], lane)),
        "relu": Work(_gather(layout), additions.hiding(sent["relu"], lane)),
        # The combined row is one small product an entry.
        "opening": Work(SMALL * sum(block.size for block in layout.blocks), additions.opening(layout, lane)),
    }
    if layout.statement.segment == 0:
        phases["start"] = Work(0.0, commitment(layout, layout.data) + commitment(layout, layout.start))
    return phases


def total(phases: Mapping[str, Work]) -> Work:
    """All phases together."""
    return sum(phases.values(), Work())


def _end_check(layout: Layout) -> float:
    """That stored end weights follow from the updates: a layer's tensors folded over units, its change over both sides."""
    samples, work = sizes.samples(layout), 0.0
    for d, units in itertools.pairwise(layout.statement.widths):
        work += SMALL * (samples * (d + 1 + units) + (d + 1) * units) + samples * (FOLD + PRODUCT)  # rates; the sum
    return work


def _lookup(layout: Layout) -> float:
    """The tree of fractions and the sumchecks of its layers. A layer of m gates has m pairs of gates over all its rounds."""
    made = sum(one.size for one in layout.lookups if len(one.blocks) == 1 and one.size >= RUN)
    others = [one.blocks for one in layout.lookups if len(one.blocks) > 1 or one.blocks[0].size < RUN]
    stored = sum(blocks[0].size for blocks in others) + sizes.table_rows(layout)
    # Fractions in memory: an integer a column and two digits off for each; a gate made, and one pair of a sumcheck, a leaf.
    columns = sum(block.size for blocks in others for block in blocks) + sizes.table_rows(layout)
    return made * made_leaf() + SMALL * (columns + 2 * stored) + stored * (GATE_MADE + GATE_PAIR)


def made_leaf() -> float:
    """For each leaf that is made from an integer of 16 bits; levels below WRITTEN are made anew in every pass."""
    # Level 3, of two fractions of level 2: on the way to level 4, and again when it is written. Then all levels above, which
    # have as many gates as level 3 has fractions.
    work = 2 * (2 * _fraction(2, 0) + GATE_MADE) / 8 + GATE_MADE / 8
    work += 3 * SMALL / 4  # level 0, first round: sums of a + b, a b and (c - a) (d - b) over pairs of gates, integers all
    for bound in range(1, WRITTEN):  # level 0, later rounds: where numerators are 1 a gate is a product u0 u1, weighted
        work += (4 * _fraction(0, bound) + 2 * (2 * PRODUCT + REDUCTION)) / (4 << bound)
    for level in range(1, WRITTEN):  # levels 1 and 2, until they have shrunk to level 3's size: four fractions a pair
        for bound in range(WRITTEN - level):
            work += (4 * _fraction(level, bound) + 2 * GATE_VALUE) / (4 << (level + bound))
    work += (
        sum(2 * _fraction(level, WRITTEN - level) for level in range(WRITTEN)) / 16
    )  # then their gates, one for 16 leaves, stored
    return work + (WRITTEN / 16 + 1 / 8) * GATE_PAIR  # the rest of their rounds, and those of level 3 and up


def _fraction(level: int, bound: int) -> float:
    """With `bound` variables bound: a small product for each word of all 2^bound parts, a digit off p and off q."""
    p, q = FRACTION_WORDS[level]
    return SMALL * (((p + q) << bound) + (2 if p else 1))


def _quadratic_sumcheck(size: int) -> float:
    """A product of two tables: the claim, then for each pair two products and two folds; as many pairs as entries."""
    return size * (PRODUCT + 2 * PRODUCT + 2 * FOLD)


def _matrix_products(layout: Layout) -> float:
    """Forward and backward: both tensors of a layer folded to (inner unit, step), weights once, then one sumcheck each."""
    steps, work = layout.statement.steps, sum(map(_quadratic_sumcheck, sizes.product_stacks(layout)))
    for inner, outer in itertools.chain(*sizes.product_layers(layout)):
        work += SMALL * sizes.samples(layout) * (2 * inner + outer)  # left factor, updates, and the updates' outer side
        work += SMALL * inner * outer + FOLD * inner * steps  # the start weights; rates times updates
    return work


def _history(layout: Layout) -> float:
    """For each claim both tensors folded over units and the kernel; one sumcheck over all; the end weights' value."""
    samples, work = sizes.samples(layout), _quadratic_sumcheck(sizes.history_stack(layout))
    for j, (d, units) in enumerate(itertools.pairwise(layout.statement.widths)):
        claims = 3 if j else 2  # forward, end, and backward, which the first layer has not
        work += claims * (SMALL * samples * (d + 1 + units) + samples * FOLD) + SMALL * (d + 1) * units
    return work


def weights_on(layout: Layout, block: Block, looked_up: Mapping[str, int]) -> int:
    """Different weights that claims put on a block's entries, products aside; one is the lookup's if it is looked up."""
    s, (kind, layer) = layout.statement, sizes.kind_and_layer(block)
    first, looked = s.segment == 0, block.name in looked_up
    if kind == "start" and not looked:
        return (3 if layer else 2) + first  # the claims on the layer's weights, then their limbs
    gradient = 4 if s.layers > 1 else 2  # on the last layer's gradients: one of the backward products, others of the history
    one_hot = first and s.loss == "cross_entropy"
    weights = {"x": 3, "y": gradient + one_hot, "q": gradient, "z": 1 + gradient, "e": 2, "s": 2, "rho": 2}
    return weights.get(kind, 1) + looked


def _gather(layout: Layout) -> float:
    """One sumcheck over all blocks, then every block's value at its point."""
    s, looked_up = layout.statement, sizes.looked_up(layout)
    # A block is folded by each weight's high side, all small products, and once by the point's low side.
    work = sum(SMALL * block.size * (weights_on(layout, block, looked_up) + 1) for block in layout.blocks)
    # 1 - b times p, b and ga: four claims on activations, one on signs, and on gradients those of the layer's weights.
    for j, width in enumerate(s.widths[1:-1]):
        work += product_sum(padded(width), layout.samples, [4, 1, 4 if j else 2], True)
    if s.loss == "cross_entropy":
        classes = padded(s.widths[-1])
        work += product_sum(classes, layout.samples, [1, 1], True)  # h times 1 - h and d
        work += product_sum(classes, layout.samples, [1], False)  # q S, and S has more than 16 bits
    return work


def product_sum(highs: int, lows: int, weights: Sequence[int], narrow: bool) -> float:
    """A left factor times several right ones, `weights` on each product; `narrow`: of 8 and of 16 bits at most."""
    rights, small, left_over, digits = len(weights), 0.0, 1.0, 2.0
    if narrow and highs >= LEAST_HIGHS and lows >= LEAST_LOWS:
        # Three rounds come out of 27 sums for each eight entries; then tables of an eighth of the size are written.
        left_over = 0.5**ROUNDS
        small, digits = SMALL * 27 / 8 * sum(weights), left_over
    tables = (rights + 1) * SMALL * (1 + digits)  # a small product an entry, and digits off each sum
    outer = sum(weights) * PRODUCT + rights * REDUCTION  # the weights written out
    # For each pair three values of the left factor times the sum in brackets, and all tables folded.
    rounds = 3 * (rights * PRODUCT + REDUCTION + PRODUCT) + (1 + 2 * rights) * FOLD
    return highs * lows * (small + tables + left_over * (outer + rounds))
