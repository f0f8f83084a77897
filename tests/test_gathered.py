"""The gather's sums from small integers send what the written-out sums send, round by round."""

from typing import Any

import numpy as np
import pytest

from zkaudit.zk import field, gathered, mle, sumcheck
from zkaudit.zk.claims import Form, Weight
from zkaudit.zk.field import MODULUS, Array
from zkaudit.zk.gathered import LowFolded, ProductSum, WeightedBlocks, WeightedProduct, linear_sums, product_sum

rng = np.random.default_rng(13)


def vector(n: int) -> Array:
    return field.from_wide_bytes(rng.bytes(64 * n))


def number() -> int:
    return field.to_ints(vector(1))[0]


def weight(highs: int, lows: int) -> Weight:
    return Weight(number(), vector(highs), vector(lows))


def tables(highs: int, lows: int) -> dict[str, Any]:
    """Bits, words with both extremes, and wide integers."""
    words = rng.integers(0, 1 << 16, (2, highs, lows)).astype(np.uint16)
    words[:, 0, : min(lows, 16)] = 65535
    words[:, -1, : min(lows, 16)] = 0
    words[0, -1, 0 : min(lows, 16) : 2] = 65535
    bits = rng.integers(0, 2, (highs, lows)).astype(np.uint8)
    wide = rng.integers(-(1 << 40), 1 << 40, (highs, lows))
    return {"bit": bits, "p": words[0], "g": words[1], "wide": wide}


def spread(weights: list[Weight]) -> Array:
    """The weights' outer products, summed and written out."""
    high = np.stack([field.mul(w.high, w.coefficient) for w in weights])
    return field.outer_sum(high, np.stack([w.low for w in weights]))


def messages(sums: list[Any], challenges: list[int]) -> list[list[int]]:
    """What a sumcheck over `sums` sends, a few rounds beyond their last variable included."""
    sent = []
    for r in challenges:
        sent.append([sum(values) % MODULUS for values in zip(*(s.round_values(3) for s in sums), strict=True)])
        for s in sums:
            s.fold(r)
    return sent


LEFT = Form(1, ((-1, "bit"),))
RIGHTS = (Form(0, ((1, "p"),)), Form(-(1 << 15), ((1, "g"),)), Form(0, ((1, "bit"),)))


def written(form: Form, held: dict[str, Any]) -> Array:
    terms = [(c, held[name].reshape(-1)) for c, name in form.terms]
    return field.affine(form.constant, terms, held["bit"].size)


@pytest.mark.parametrize(("highs", "lows"), [(32, 512), (64, 1024), (128, 512)])
@pytest.mark.parametrize("counts", [(4, 4, 1), (1, 2, 3)])
def test_products_from_small_integers_send_what_written_tables_send(highs: int, lows: int, counts: tuple[int, ...]) -> None:
    held = tables(highs, lows)
    parts = [WeightedProduct(form, [weight(highs, lows) for _ in range(n)]) for form, n in zip(RIGHTS, counts, strict=True)]
    fast = product_sum(LEFT, parts, (highs, lows), held)
    assert isinstance(fast, ProductSum)
    assert fast.variables == (highs * lows).bit_length() - 1
    factors, terms = [written(LEFT, held)], []
    for part in parts:
        terms.append((0, len(factors), len(factors) + 1))
        factors += [spread(list(part.weights)), written(part.right, held)]
    challenges = [number() for _ in range(fast.variables + 2)]
    assert messages([sumcheck.Products(factors, terms)], challenges) == messages([fast], challenges)


@pytest.mark.parametrize("left", [Form(-(1 << 15), ((1, "p"),)), Form(3, ((1, "g"),)), Form(1 << 15, ((-1, "p"),))])
def test_products_of_two_16_bit_factors_send_what_written_tables_send(left: Form) -> None:
    held = tables(32, 512)
    parts = [WeightedProduct(left, [weight(32, 512) for _ in range(2)]), WeightedProduct(RIGHTS[1], [weight(32, 512)])]
    fast = product_sum(left, parts, (32, 512), held)
    assert isinstance(fast, ProductSum)
    factors, terms = [written(left, held)], []
    for part in parts:
        terms.append((0, len(factors), len(factors) + 1))
        factors += [spread(list(part.weights)), written(part.right, held)]
    challenges = [number() for _ in range(fast.variables)]
    assert messages([sumcheck.Products(factors, terms)], challenges) == messages([fast], challenges)


@pytest.mark.parametrize(("left", "right"), [(LEFT, Form(0, ((1, "wide"),))), (Form(2, ()), LEFT)])
def test_products_of_other_integers_are_written_out(left: Form, right: Form) -> None:
    held = tables(32, 512)
    part = WeightedProduct(right, [weight(32, 512)])
    fast = product_sum(left, [part], (32, 512), held)
    assert isinstance(fast, sumcheck.Products)
    factors = [written(left, held), spread(list(part.weights)), written(right, held)]
    challenges = [number() for _ in range(fast.variables + 1)]
    assert messages([sumcheck.Products(factors, [(0, 1, 2)])], challenges) == messages([fast], challenges)


@pytest.mark.parametrize(("highs", "lows"), [(1, 1), (1, 64), (64, 1), (8, 32), (2, 2), (64, 512)])
@pytest.mark.parametrize("count", [1, 3, gathered.GROUP + 1])
def test_linear_sums_in_two_phases_send_what_written_tables_send(highs: int, lows: int, count: int) -> None:
    held = tables(highs, lows)
    names = list(held)
    parts = [
        WeightedBlocks(weight(highs, lows), {name: number() for name in rng.permutation(names)[: i % 4 + 1]})
        for i in range(count)
    ]
    slow = []
    for part in parts:
        terms = [(c, held[name].reshape(-1)) for name, c in part.coefficients.items()]
        unscaled = Weight(1, part.weight.high, part.weight.low)
        slow.append(sumcheck.Products([spread([unscaled]), field.affine(0, terms, highs * lows)], [(0, 1)]))
    variables = (highs * lows).bit_length() - 1
    challenges = [number() for _ in range(variables + 2)]
    fast = linear_sums(parts, held, LowFolded(held))
    assert max(s.variables for s in fast) == variables
    assert messages(slow, challenges) == messages(list(fast), challenges)


def test_a_table_at_the_low_point_is_folded_once() -> None:
    held = tables(4, 8)
    folded, point = LowFolded(held), [number() for _ in range(5)]
    assert [field.dot_small(mle.eq_table(point[:3]), row) for row in held["p"]] == field.to_ints(folded("p", point))
    assert folded("p", point) is folded("p", point)
