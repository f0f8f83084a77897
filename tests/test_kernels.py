"""Sumcheck rounds and the fraction tree agree with their formulas over Python's integers."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkaudit.zk import field, kernels, mle
from zkaudit.zk.field import MODULUS

elements = st.sampled_from([0, 1, MODULUS - 1]) | st.integers(0, MODULUS - 1)


def random_vector(rng, n):
    return field.from_wide_bytes(rng.bytes(64 * n))


def line(low, high, x):
    return (low + x * (high - low)) % MODULUS


def round_by_definition(tables, terms, degree):
    def value(x):
        return sum(
            prod(line(tables[k][2 * i], tables[k][2 * i + 1], x) for k in term)
            for i in range(len(tables[0]) // 2)
            for term in terms
        )

    return [value(x) % MODULUS for x in range(degree + 1) if x != 1]


def gates(p, q, count):
    """The children (p0, p1, q0, q1) of `count` gates, neutral past the end."""
    present = [(p[2 * y], p[2 * y + 1], q[2 * y], q[2 * y + 1]) for y in range(len(p) // 2)]
    return present + [(0, 0, 1, 1)] * (count - len(present))


def fraction_round_by_definition(p, q, lam, weights):
    """h(0) and the second difference h(0) - 2 h(1) + h(2), halved."""
    all_gates = gates(p, q, 2 * len(weights))

    def h(x):
        total = 0
        for i, weight in enumerate(weights):
            p0, p1, q0, q1 = (line(a, b, x) for a, b in zip(all_gates[2 * i], all_gates[2 * i + 1], strict=True))
            total += weight * (p0 * q1 + p1 * q0 + lam * q0 * q1)
        return total

    return h(0) % MODULUS, (h(0) - 2 * h(1) + h(2)) * pow(2, -1, MODULUS) % MODULUS


@st.composite
def products(draw):
    count, degree = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    terms = draw(st.lists(st.lists(st.integers(0, count - 1), min_size=1, max_size=degree).map(tuple), max_size=6))
    length = 2 << draw(st.integers(0, 4))
    tables = draw(st.lists(st.lists(elements, min_size=length, max_size=length), min_size=count, max_size=count))
    return tables, terms, degree


@settings(max_examples=60)
@given(products())
def test_products_round_is_the_sum_of_products(case):
    tables, terms, degree = case
    assert round_by_definition(*case) == kernels.products_round([field.from_ints(t) for t in tables], terms, degree)


@settings(max_examples=60)
@given(products())
def test_order_of_terms_does_not_matter(case):
    tables, terms, degree = case
    arrays = [field.from_ints(t) for t in tables]
    assert kernels.products_round(arrays, terms[::-1], degree) == kernels.products_round(arrays, sorted(terms), degree)


def test_long_products_round_agrees_with_the_definition(threads):
    rng = np.random.default_rng(5)
    tables = [random_vector(rng, 4096) for _ in range(5)]
    terms = [(0, 1, 2), (0, 1, 3), (0, 4), (4,), (1, 1, 1), *[(0, 1, 2)] * 40]
    expected = round_by_definition([field.to_ints(t) for t in tables], terms, 4)
    assert expected == kernels.products_round(tables, terms, 4)


def test_a_round_is_what_folding_then_summing_gives(threads):
    rng = np.random.default_rng(6)
    tables = [random_vector(rng, 8192) for _ in range(3)]
    at_two = kernels.fold_all(tables, 2)
    assert field.dot(field.mul(at_two[0], at_two[1]), at_two[2]) == kernels.products_round(tables, [(0, 1, 2)], 3)[1]


@given(st.lists(st.tuples(elements, elements), max_size=40))
def test_fraction_layer_adds_neighbouring_fractions(fractions):
    padded = fractions + [(0, 1)] * (len(fractions) % 2)
    pairs = list(zip(padded[::2], padded[1::2], strict=True))
    p, q = kernels.fraction_layer(field.from_ints([x for x, _ in fractions]), field.from_ints([y for _, y in fractions]))
    assert [(a * d + c * b) % MODULUS for (a, b), (c, d) in pairs] == field.to_ints(p)
    assert [b * d % MODULUS for (_, b), (_, d) in pairs] == field.to_ints(q)


@st.composite
def layers(draw):
    low, high = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    count = draw(st.integers(0, 2 << (low + high)))
    p, q = (draw(st.lists(elements, min_size=2 * count, max_size=2 * count)) for _ in range(2))
    return p, q, draw(elements), draw(st.lists(elements, min_size=low + high, max_size=low + high)), low


@given(layers())
def test_fraction_round_is_the_quadratic_of_its_formula(case):
    p, q, lam, point, low = case
    expected = fraction_round_by_definition(p, q, lam, field.to_ints(mle.eq_table(point)))
    actual = kernels.fraction_round(
        field.from_ints(p), field.from_ints(q), lam, mle.eq_table(point[:low]), mle.eq_table(point[low:])
    )
    assert expected == actual


@given(layers(), elements)
def test_fraction_fold_binds_the_lowest_gate_bit(case, r):
    p, q, *_ = case
    both = gates(p, q, (len(p) // 2 + 1) // 2 * 2)
    expected = [tuple(line(a, b, r) for a, b in zip(*pair, strict=True)) for pair in zip(both[::2], both[1::2], strict=True)]
    folded_p, folded_q = kernels.fraction_fold(field.from_ints(p), field.from_ints(q), r)
    assert expected == gates(field.to_ints(folded_p), field.to_ints(folded_q), len(expected))


@pytest.mark.parametrize(("count", "low", "high"), [(8192, 6, 6), (8191, 11, 1), (5001, 3, 10), (4097, 0, 12), (8190, 12, 0)])
def test_long_fraction_rounds_agree_with_the_formula(count, low, high, threads):
    rng = np.random.default_rng(count)
    p, q = random_vector(rng, 2 * count), random_vector(rng, 2 * count)
    lam, *point = field.to_ints(random_vector(rng, 1 + low + high))
    weights = field.to_ints(mle.eq_table(point))
    expected = fraction_round_by_definition(field.to_ints(p), field.to_ints(q), lam, weights)
    assert expected == kernels.fraction_round(p, q, lam, mle.eq_table(point[:low]), mle.eq_table(point[low:]))


def test_a_fraction_layers_rounds_end_at_its_children(threads):
    rng = np.random.default_rng(9)
    p, q = random_vector(rng, 6000), random_vector(rng, 6000)
    lam, *point = field.to_ints(random_vector(rng, 13))
    up_p, up_q = kernels.fraction_layer(p, q)
    padded_p, padded_q = field.zeros(4096), field.full(4096, 1)
    padded_p[:3000], padded_q[:3000] = up_p, up_q
    claim = (mle.evaluate(padded_p, point) + lam * mle.evaluate(padded_q, point)) % MODULUS
    scale = 1
    for k, r in enumerate(point):
        rest = point[k + 1 :]
        zero, leading = kernels.fraction_round(p, q, lam, mle.eq_table(rest[:5]), mle.eq_table(rest[5:]))
        one = (claim * pow(scale, -1, MODULUS) - (1 - r) * zero) * pow(r, -1, MODULUS) % MODULUS
        challenge = field.to_ints(random_vector(rng, 1))[0]
        value = zero + challenge * (one - zero - leading) + challenge * challenge * leading
        scale = scale * ((1 - r) * (1 - challenge) + r * challenge) % MODULUS
        claim = scale * value % MODULUS
        p, q = kernels.fraction_fold(p, q, challenge)
    ((p0, p1), (q0, q1)) = field.to_ints(p), field.to_ints(q)
    assert scale * (p0 * q1 + p1 * q0 + lam * q0 * q1) % MODULUS == claim


def test_wrong_arguments_are_refused_by_name():
    a = field.zeros(8)
    for call, name in [
        (lambda: kernels.products_round([a, field.zeros(4)], [(0, 1)], 2), r"tables\[1\]"),
        (lambda: kernels.products_round([field.zeros(6)], [(0,)], 2), "tables"),
        (lambda: kernels.products_round([a], [(0, 0, 0)], 2), "terms"),
        (lambda: kernels.products_round([a], [(1,)], 2), "terms"),
        (lambda: kernels.products_round([a], [()], 2), "terms"),
        (lambda: kernels.products_round([a], [(0,)], 5), "degree"),
        (lambda: kernels.fraction_layer(a, field.zeros(7)), "q"),
        (lambda: kernels.fraction_fold(field.zeros(3), field.zeros(3), 1), "p"),
        (lambda: kernels.fraction_round(a, a, 1, field.zeros(1), field.zeros(1)), "p"),
        (lambda: kernels.fraction_round(a, a, 1, field.zeros(3), field.zeros(1)), "eq_low"),
        (lambda: kernels.fraction_round(a, a, 1, field.zeros(4), field.zeros(0)), "eq_high"),
    ]:
        with pytest.raises(ValueError, match=f"^{name}:"):
            call()


@pytest.mark.parametrize("gates", [4, 12, 64, 2044, 8192])
def test_folding_with_the_next_round_is_both_one_after_the_other(gates, threads):
    rng = np.random.default_rng(gates)
    p, q = random_vector(rng, 2 * gates), random_vector(rng, 2 * gates)
    r, lam = field.to_ints(random_vector(rng, 2))
    variables = (gates // 2 - 1).bit_length() - 1
    point = field.to_ints(random_vector(rng, max(variables, 0)))
    low, high = mle.eq_table(point[: variables // 2]), mle.eq_table(point[variables // 2 :])
    folded = kernels.fraction_fold(p, q, r)
    *fused, values = kernels.fraction_fold_round(p, q, r, lam, low, high)
    assert [x.tobytes() for x in folded] == [x.tobytes() for x in fused]
    assert kernels.fraction_round(*folded, lam, low, high) == values
