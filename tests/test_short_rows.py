"""A block shorter than a committed row, and a prover that fills the rest of the row: what docs/proof-system.md, 11 promises.

These need the hiding channel: the clear one holds tables of the exact shape. The prover's gather treats one block, the sum of
exponentials, as the whole row it commits to, and fits every round polynomial to that."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from zkaudit.zk import field, gather, hyrax, sumcheck
from zkaudit.zk.block import Block
from zkaudit.zk.channel import ClearVerifier, ProverChannel
from zkaudit.zk.claims import Claim, Form, Weight
from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.field import MODULUS
from zkaudit.zk.gathered import LowFolded
from zkaudit.zk.layout import Layout
from zkaudit.zk.linear import Linear
from zkaudit.zk.tables import narrow
from zkaudit.zk.testing.segments import example, hidden_proof, statement_of
from zkaudit.zk.verifier import verify_segment
from zkaudit.zk.witness import Witness

STATEMENT = statement_of(widths=(4, 2))  # s has 2 x 16 entries, a row has 64
FILLED = "s"


def gather_with_a_filled_row(
    claims: Sequence[Claim], tables: Mapping[str, Any], layout: Layout, channel: ProverChannel
) -> None:
    """gather.prove for a table `FILLED` that is a whole row: its claims and products range over the row."""
    block = layout.named[FILLED]
    row = tables[FILLED].reshape(-1, block.lows)
    repeat = len(row) // block.highs
    shapes, claim = gather._batched(claims, layout, channel)
    sums = []
    for shape in shapes:
        apart = gather._Shape(shape.highs, shape.lows)
        over_row = gather._Shape(len(row), block.lows)
        for key, (weight, coefficients) in shape.linear.items():
            apart.linear[key] = weight, {name: c for name, c in coefficients.items() if name != FILLED}
            if FILLED in coefficients:
                over_row.linear[key] = _repeated(weight, repeat), {FILLED: coefficients[FILLED]}
        for forms, weights in shape.products.items():
            if any(name == FILLED for form in forms for _, name in form.terms):
                over_row.products[forms] = [_repeated(weight, repeat) for weight in weights]
            else:
                apart.products[forms] = weights
        filled = {**tables, "q": np.tile(tables["q"], (repeat, 1)), FILLED: row}
        sums += [*gather._sums(apart, tables, LowFolded(tables)), *gather._sums(over_row, filled, LowFolded(filled))]
    point, claim = sumcheck.prove(sums, gather.DEGREE, claim, channel, "gather")
    equalities = gather._Equalities(point)
    values = []
    for b in layout.blocks:
        table = row if b is block else tables[b.name]
        value = field.evaluate_small(table, equalities(b.lows, len(table)), equalities(1, b.lows))
        beyond = point[b.variables : (table.size - 1).bit_length()]
        values.append(value * pow(sumcheck.missing_factor(beyond, 0), -1, MODULUS) % MODULUS)
    named = dict(zip((b.name for b in layout.blocks), channel.send(values, "block values"), strict=True))
    total = []
    for shape, (left, right) in gather._final_products(shapes, named, equalities):
        product = channel.send([channel.value(left) * channel.value(right)], "gathered product")[0]
        channel.require_product(left, right, product, "gathered product")
        total.append((sumcheck.missing_factor(point, shape.variables), product))
    gather._close(shapes, total, claim, named, equalities, layout, channel)


def _repeated(weight: Weight, times: int) -> Weight:
    return Weight(weight.coefficient, np.tile(weight.high, (times, 1)), weight.low)


def filled(inside: int, behind: int) -> Callable[[Witness], dict[str, Any]]:
    """The first sum changed by `inside`, and `behind` at its place in the row's second half."""

    def change(witness: Witness) -> dict[str, Any]:
        sums = witness.tables[FILLED].astype(np.int64)
        row = np.concatenate([sums, 0 * sums])
        row[0, 0] += inside
        row[len(sums), 0] += behind
        return {FILLED: narrow(row.reshape(1, -1))}

    return change


def test_values_behind_a_short_block_count_as_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "prove", gather_with_a_filled_row)
    verify_segment(hidden_proof(example(STATEMENT), STATEMENT, change=filled(-5, 5)))


@pytest.mark.parametrize(("inside", "behind"), [(0, 5), (5, 0), (5, 5)])
def test_values_behind_a_short_block_cannot_be_left_out(monkeypatch: pytest.MonkeyPatch, inside: int, behind: int) -> None:
    monkeypatch.setattr(gather, "prove", gather_with_a_filled_row)
    file = hidden_proof(example(STATEMENT), STATEMENT, check_trace=False, change=filled(inside, behind))
    with pytest.raises(InvalidProof):
        verify_segment(file)


def test_products_of_blocks_of_different_shapes_are_refused() -> None:
    """With m, of one row, beside each q, a prover could answer q0 times what it wrote behind m where q1 m is asked for."""
    layout = Layout(STATEMENT)
    claim = Claim(Linear())
    claim.add_product(layout.named["q"], Form(0, ((1, "q"),)), Form(0, ((1, "m"),)), 1, field.full(2, 1), field.full(9, 1))
    with pytest.raises(ValueError, match="cannot take block 'm'"):
        gather.verify([claim], layout, ClearVerifier(b"shapes", []))


def test_a_point_at_which_a_short_block_cannot_be_opened_is_refused() -> None:
    """Its row's extension has the factor 1 - x there, which vanishes."""
    short, whole = Block("short", 1, 4), Block("whole", 1, 16)
    with pytest.raises(InvalidProof, match="'short' cannot be opened"):
        hyrax.row_weights([whole, short], [1, 1], [5, 6, 7, 1, 9], 4)
    assert len(hyrax.row_weights([whole], [1], [5, 6, 7, 1, 9], 4)) == 1
