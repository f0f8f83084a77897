"""The cost model of `zkaudit bench prove`: counted by hand on small layouts, and beside what a real proof weighs and sends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from zkaudit.cli.bench import additions, limit, sizes
from zkaudit.cli.bench.additions import Rows
from zkaudit.zk import gather, hiding
from zkaudit.zk.claims import Claim
from zkaudit.zk.layout import Layout
from zkaudit.zk.testing.segments import example, hidden_proof, statement_of

SHAPES = [((5, 6, 4, 3), "cross_entropy"), ((4, 2, 2), "square"), ((5, 3), "cross_entropy"), ((6, 8, 8, 8, 4), "square")]
MULTIPLE = (252 * 8 + 73 * 12) / 6


def small(steps: int = 2) -> Layout:
    """One hidden layer of 2 units and 2 outputs; a data set of 4 rows of 4 inputs and 2 targets; rows of 64."""
    return Layout(statement_of((4, 2, 2), "square", batch=2, steps=steps, rows=4))


def test_a_leaf_made_from_an_integer_is_counted_as_by_hand() -> None:
    level_3 = 2 * (2 * (8 + 2) * 0.1 + 2.5) / 8  # made twice, from two fractions of 8 small products and two digits each
    level_0 = 3 * 0.1 / 4 + (4 * 0.3 + 3) / 8 + (4 * 0.5 + 3) / 16 + 2 * 0.9 / 16
    level_1 = (4 * 0.5 + 6) / 8 + (4 * 0.8 + 6) / 16 + 2 * 1.4 / 16
    level_2 = (4 * 1.0 + 6) / 16 + 2 * 1.8 / 16
    above = 2.5 / 8 + 10 / 8
    assert limit.made_leaf() == pytest.approx(level_3 + level_0 + level_1 + level_2 + 3 * 10 / 16 + above)


def test_lookups_of_a_small_layout_are_counted_as_by_hand() -> None:
    # 64 samples: p, ga, two limbs of r and of rg, 128 entries each; then z and two limbs of r. Inputs, targets and the three
    # limbs of 8 + 2 and 4 + 2 start weights are shorter than a run of leaves.
    layout = small(steps=32)
    runs, short = 9 * 128, 16 + 8 + 3 * (8 + 2 + 4 + 2)
    assert sizes.lookups(layout) == runs + short
    stored = short + 2**16 + 2**4  # the tables of 16 bits and of the start weights' highest limb
    by_hand = runs * 8.1875 + stored * (0.1 + 0.2 + 2.5 + 10)
    assert limit.count(layout)["lookup"].multiplications == pytest.approx(by_hand)
    # 17 levels: the root of 1 scalar; 136 rounds of 3, 17 gates of 6 and 34 masks of 4. Each scalar and each blinding is half a
    # lane in every column.
    lanes, messages = 1 + 136 * 2 + 17 * 4 + 34 * 3, 1 + 136 + 17 + 34
    by_hand = 8 * (16 * lanes * 11 + messages * (15 * 8 + 3 * 12)) / 6
    assert limit.count(layout)["lookup"].additions == pytest.approx(by_hand)


def test_products_of_a_small_layout_are_counted_as_by_hand() -> None:
    # 4 samples in 2 steps. Stacks: 8 * 2 + 4 * 2 entries padded to 32, 2 * 2, and 5 claims of 4 samples padded to 32.
    sumchecks = 3.5 * (32 + 4 + 32)
    forward = 0.1 * 4 * (2 * 5 + 2) + 0.1 * 10 + 5 * 2 + 0.1 * 4 * (2 * 3 + 2) + 0.1 * 6 + 3 * 2
    backward = 0.1 * 4 * (2 * 2 + 2) + 0.1 * 4 + 2 * 2
    history = 2 * (0.1 * 4 * 7 + 4) + 0.1 * 10 + 3 * (0.1 * 4 * 5 + 4) + 0.1 * 6
    assert limit.count(small())["matmul"].multiplications == pytest.approx(sumchecks + forward + backward + history)
    end_check = 0.1 * (4 * 7 + 10) + 4 * 1.5 + 0.1 * (4 * 5 + 6) + 4 * 1.5
    assert limit.count(small())["witness"].multiplications == pytest.approx(end_check)


def test_gather_of_a_small_layout_is_counted_as_by_hand() -> None:
    # Entries times weights and one fold more: x, y, start weights, their limbs, end weights, p b ga, limbs of r and rg, z and
    # limbs of its r, counts.
    data_and_weights = 16 * 5 + 8 * 6 + (8 + 2) * 4 + (4 + 2) * 5 + 48 * 3 + 16 * 2
    layers = 8 * (3 + 2 + 3) + 4 * 8 * 3 + 8 * 7 + 2 * 8 * 3
    counts = (2**16 + 2**4) * 2
    # 1 - b times p, b, ga with 4, 1 and 2 weights: tables, weights, rounds and folds of 7 tables.
    products = 8 * (4 * 0.3 + 7 * 0.5 + 3 * 0.5 + 3 * (3 * 0.5 + 0.5 + 0.5) + 7)
    by_hand = 0.1 * (data_and_weights + layers + counts) + products
    assert limit.count(small())["relu"].multiplications == pytest.approx(by_hand)


def test_products_of_large_shapes_begin_with_small_integers() -> None:
    # Nine weights: 27 sums for eight entries each; four tables folded to an eighth; then as any product of that size.
    by_hand = 9 * 27 / 8 * 0.1 + 4 * (0.1 + 0.1 / 8) + (9 * 0.5 + 3 * 0.5 + 3 * 2.5 + 7) / 8
    assert limit.product_sum(64, 1024, [4, 1, 4], True) == pytest.approx(64 * 1024 * by_hand)
    written = 4 * 0.3 + 9 * 0.5 + 3 * 0.5 + 3 * 2.5 + 7
    for highs, lows, narrow in ((16, 1024, True), (64, 256, True), (64, 1024, False)):
        assert limit.product_sum(highs, lows, [4, 1, 4], narrow) == pytest.approx(highs * lows * written)


def test_start_commitment_of_a_small_layout_is_counted_as_by_hand() -> None:
    # Few short rows go through buckets. 16 inputs and 8 targets of 16 bits, windows of 3; two blindings, windows of 2.
    data = 6 * (16 + 12) + 6 * (8 + 12) + 128 * (2 + 2) + 2 * 2 * 11 / 6
    # Weights: 8, 2, 4 and 2 of 33 bits, windows of 2; four blindings, windows of 3.
    start = 17 * (8 + 6) + 17 * (2 + 6) + 17 * (4 + 6) + 17 * (2 + 6) + 86 * (4 + 4) + 4 * 2 * 11 / 6
    assert limit.count(small())["start"].additions == pytest.approx(data + start)


def test_rows_of_one_commitment_share_their_tables() -> None:
    # Groups of 8: 8 tables of 256, an entry of one for each 8 numbers and plane; 19 products join a plane.
    by_hand = 8 * 256 + (16 + 1) * (6400 / 8 + 100 * 19 / 6)
    assert additions.row_additions([Rows(100, 6400, 16), Rows(100, 6400, 1)], 64) == pytest.approx(by_hand)


def test_short_sums_are_products_in_lanes() -> None:
    assert additions.sum_additions(4, 8) == pytest.approx(8 * MULTIPLE)
    assert additions.sum_additions(16, 8) == pytest.approx(16 * MULTIPLE)
    assert additions.sum_additions(17, 8) == additions.bucket_additions(17, 255)
    assert additions.sum_additions(4, 1) == pytest.approx(128 * (4 + 6))


def test_messages_are_sums_of_table_entries_in_lanes() -> None:
    assert additions.message_additions(7, 8) == pytest.approx(8 * (16 * 4 * 11 + 15 * 8 + 3 * 12) / 6)
    assert additions.message_additions(7, 1) == pytest.approx((16 * 28 * 11 + 15 * 8) / 6)


def test_padding_is_looked_up_but_costs_no_addition() -> None:
    layout = Layout(statement_of((5, 6, 3), batch=3, steps=3))
    block_sizes = {block.name: block.size for block in layout.witness}
    rows = dict(zip((block.name for block in layout.witness), additions.committed_rows(layout, layout.witness), strict=True))
    assert block_sizes["p0"] == 8 * 16
    assert rows["p0"] == Rows(1, 6 * 9, 16)
    assert rows["b0"] == Rows(1, 6 * 9, 1)
    assert rows["m"] == Rows(1, 9, 16)
    assert rows["e"] == Rows(1, 3 * 9, 17)
    assert rows["start1.bias.2"] == Rows(1, 3, 4)


def test_later_segments_do_without_what_is_paid_once() -> None:
    first = statement_of((5, 6, 3), batch=3, steps=3)
    later = replace(first, segment=1, first_step=3, previous="00" * 32)
    before, after = limit.count(Layout(first)), limit.count(Layout(later))
    assert "start" not in after
    assert set(after) == set(before) - {"start"}
    assert all(after[phase].multiplications <= before[phase].multiplications for phase in after)


@pytest.mark.parametrize(("widths", "loss"), SHAPES)
def test_weights_and_messages_are_those_of_a_proof(widths: tuple[int, ...], loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    claims: list[Claim] = []
    sent: Counter[int] = Counter()
    prove, send = gather.prove, hiding.HidingProver.send

    def gathered(given: Sequence[Claim], *rest: Any) -> None:
        claims.extend(given)
        prove(given, *rest)

    def counted(self: hiding.HidingProver, values: Sequence[int], name: str) -> Any:
        sent[len(values)] += 1
        return send(self, values, name)

    monkeypatch.setattr(gather, "prove", gathered)
    monkeypatch.setattr(hiding.HidingProver, "send", counted)
    statement = statement_of(widths, loss)
    hidden_proof(example(statement), statement)

    layout, expected = Layout(statement), Counter[int]()
    for number, scalars in (message for phase in additions.messages(layout).values() for message in phase):
        expected[scalars] += number
    assert expected == sent

    weights: dict[str, set[tuple[bytes, bytes]]] = {block.name: set() for block in layout.blocks}
    for part in (part for claim in claims for part in claim.blocks):
        weights[part.block.name].add((part.weight.high.tobytes(), part.weight.low.tobytes()))
    looked_up = sizes.looked_up(layout)
    assert {block.name: limit.weights_on(layout, block, looked_up) for block in layout.blocks} == {
        name: len(distinct) for name, distinct in weights.items()
    }

    products: dict[Any, Counter[Any]] = {}
    for product in (product for claim in claims for product in claim.products):
        products.setdefault(product.left, Counter())[product.right] += 1
    hidden = [[1, 4, 4 if j else 2] for j in range(len(widths) - 2)]
    softmax = [[1, 1], [1]] if loss == "cross_entropy" else []
    assert sorted(sorted(rights.values()) for rights in products.values()) == sorted(map(sorted, [*hidden, *softmax]))
