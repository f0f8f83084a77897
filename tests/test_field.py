"""Vectors of field elements agree with Python's integers modulo r."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from py_ecc.optimized_bls12_381 import curve_order

from zkaudit.zk import field
from zkaudit.zk.field import MODULUS

EDGES = [
    0,
    1,
    2,
    MODULUS - 1,
    MODULUS - 2,
    1 << 254,
    (1 << 254) - 1,
    1 << 64,
    (1 << 64) - 1,
    pow(2, 256, MODULUS),
    pow(2, -256, MODULUS),
]
SMALL_TYPES = ["uint8", "uint16", "int32", "uint32", "int64"]

elements = st.sampled_from(EDGES) | st.integers(0, MODULUS - 1)
vectors = st.lists(elements, max_size=40)


def random_ints(rng, n):
    """n elements, about one in four an edge."""
    plain = [int.from_bytes(rng.bytes(32), "little") % MODULUS for _ in range(n)]
    return [EDGES[int(rng.integers(len(EDGES)))] if rng.random() < 0.25 else x for x in plain]


def random_small(rng, dtype, shape):
    """Integers of the dtype, its extremes among them."""
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    values[rng.random(shape) < 0.2] = info.min
    values[rng.random(shape) < 0.2] = info.max
    return values


def test_modulus_is_the_group_order():
    assert curve_order == MODULUS


@given(st.lists(st.integers(-(1 << 300), 1 << 300), max_size=40))
def test_integers_come_back_reduced(values):
    assert [x % MODULUS for x in values] == field.to_ints(field.from_ints(values))


def test_one_is_stored_as_two_to_the_256():
    limbs = pow(2, 256, MODULUS).to_bytes(32, "little")
    assert np.frombuffer(limbs, "<u8").tolist() == field.from_ints([1])[0].tolist()


@given(st.lists(st.tuples(elements, elements), max_size=40))
def test_arithmetic_is_that_of_integers_mod_r(pairs):
    left, right = [x for x, _ in pairs], [y for _, y in pairs]
    a, b = field.from_ints(left), field.from_ints(right)
    assert [(x + y) % MODULUS for x, y in pairs] == field.to_ints(field.add(a, b))
    assert [(x - y) % MODULUS for x, y in pairs] == field.to_ints(field.sub(a, b))
    assert [x * y % MODULUS for x, y in pairs] == field.to_ints(field.mul(a, b))
    assert [-x % MODULUS for x in left] == field.to_ints(field.neg(a))


@given(vectors, st.integers(-(1 << 256), 1 << 256))
def test_an_integer_operand_meets_every_element(values, scalar):
    a = field.from_ints(values)
    assert [(x + scalar) % MODULUS for x in values] == field.to_ints(field.add(a, scalar))
    assert [(x - scalar) % MODULUS for x in values] == field.to_ints(field.sub(a, scalar))
    assert [x * scalar % MODULUS for x in values] == field.to_ints(field.mul(a, scalar))


@given(vectors)
def test_inverse_is_the_integer_inverse_and_zero_for_zero(values):
    expected = [pow(x, -1, MODULUS) if x else 0 for x in values]
    assert expected == field.to_ints(field.inverse(field.from_ints(values)))


@given(st.lists(st.tuples(elements, elements), max_size=40))
def test_dot_and_total_are_sums_mod_r(pairs):
    a, b = field.from_ints([x for x, _ in pairs]), field.from_ints([y for _, y in pairs])
    assert sum(x * y for x, y in pairs) % MODULUS == field.dot(a, b)
    assert sum(x for x, _ in pairs) % MODULUS == field.total(a)


@pytest.mark.parametrize("n", [1023, 1024, 5003])
def test_long_vectors_agree_with_integers(n, threads):
    rng = np.random.default_rng(n)
    left, right = random_ints(rng, n), random_ints(rng, n)
    a, b = field.from_ints(left), field.from_ints(right)
    assert [x * y % MODULUS for x, y in zip(left, right, strict=True)] == field.to_ints(field.mul(a, b))
    assert [pow(x, -1, MODULUS) if x else 0 for x in left] == field.to_ints(field.inverse(a))
    assert sum(x * y for x, y in zip(left, right, strict=True)) % MODULUS == field.dot(a, b)
    assert sum(left) % MODULUS == field.total(a)


def test_dot_of_the_largest_elements_does_not_overflow():
    n = 20_000
    assert n * (MODULUS - 1) ** 2 % MODULUS == field.dot(field.full(n, -1), field.full(n, -1))


@given(st.lists(st.binary(min_size=64, max_size=64) | st.just(b"\xff" * 64), max_size=20))
def test_wide_bytes_are_reduced_mod_r(chunks):
    assert [int.from_bytes(c, "little") % MODULUS for c in chunks] == field.to_ints(field.from_wide_bytes(b"".join(chunks)))


@given(elements, st.integers(0, 1100))
def test_powers_are_powers(x, n):
    assert [pow(x, i, MODULUS) for i in range(n)] == field.to_ints(field.powers(x, n))


@pytest.mark.parametrize("dtype", SMALL_TYPES)
def test_small_integers_become_elements(dtype):
    small = random_small(np.random.default_rng(1), dtype, (7, 11))
    assert field.from_small(small).shape == (7, 11, 4)
    assert [int(x) % MODULUS for x in small.ravel()] == field.to_ints(field.from_small(small))


@pytest.mark.parametrize("dtype", SMALL_TYPES)
@pytest.mark.parametrize("n", [0, 1, 7, 8, 13, 3001])
def test_dot_small_is_a_sum_mod_r(dtype, n, threads):
    rng = np.random.default_rng(n)
    values, small = random_ints(rng, n), random_small(rng, dtype, n)
    assert sum(x * int(s) for x, s in zip(values, small, strict=True)) % MODULUS == field.dot_small(
        field.from_ints(values), small
    )


@pytest.mark.parametrize("dtype", SMALL_TYPES)
@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (1, 1), (3, 40), (70, 37), (300, 9), (5, 3000), (8200, 3)])
def test_combine_is_a_weighted_sum_of_rows(dtype, rows, columns, threads):
    rng = np.random.default_rng(rows)
    weights, matrix = random_ints(rng, rows), random_small(rng, dtype, (rows, columns))
    expected = (np.array(weights, object) @ matrix.astype(object) if rows else np.zeros(columns, object)) % MODULUS
    assert expected.tolist() == field.to_ints(field.combine(field.from_ints(weights), matrix))


def test_combine_of_the_largest_elements_does_not_overflow():
    matrix = np.full((20_000, 3), np.iinfo(np.int64).max)
    expected = -20_000 * ((1 << 63) - 1) % MODULUS
    assert [expected] * 3 == field.to_ints(field.combine(field.full(20_000, -1), matrix))


@pytest.mark.parametrize("dtype", SMALL_TYPES)
@pytest.mark.parametrize(
    ("rows", "segments", "length", "spare"), [(1, 1, 1, 0), (5, 3, 7, 2), (40, 4, 64, 0), (3, 2, 600, 5), (2, 0, 4, 1)]
)
def test_segment_dot_is_a_dot_a_segment(dtype, rows, segments, length, spare, threads):
    rng = np.random.default_rng(length)
    weights, matrix = random_ints(rng, segments * length), random_small(rng, dtype, (rows, segments * length + spare))
    expected = [
        sum(weights[t * length + b] * int(matrix[h, t * length + b]) for b in range(length)) % MODULUS
        for h, t in itertools.product(range(rows), range(segments))
    ]
    out = field.segment_dot(field.from_ints(weights), matrix, segments, length)
    assert out.shape == (rows, segments, 4)
    assert expected == field.to_ints(out)


@pytest.mark.parametrize("dtype", SMALL_TYPES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (9, 13), (300, 10), (2, 20_000)])
def test_evaluate_small_is_a_bilinear_form(dtype, rows, columns, threads):
    rng = np.random.default_rng(rows)
    high, low, matrix = random_ints(rng, rows), random_ints(rng, columns), random_small(rng, dtype, (rows, columns))
    expected = np.array(high, object) @ matrix.astype(object) @ np.array(low, object) % MODULUS
    assert expected == field.evaluate_small(matrix, field.from_ints(high), field.from_ints(low))


@pytest.mark.parametrize("n", [1, 8, 45, 3001])
def test_affine_adds_multiples_of_small_vectors(n, threads):
    rng = np.random.default_rng(n)
    terms = [(c, random_small(rng, dtype, n)) for c, dtype in zip(random_ints(rng, 7), SMALL_TYPES * 2, strict=False)]
    constant = random_ints(rng, 1)[0]
    expected = [(constant + sum(c * int(small[x]) for c, small in terms)) % MODULUS for x in range(n)]
    assert expected == field.to_ints(field.affine(constant, terms, n))
    assert [constant] * n == field.to_ints(field.affine(constant, [], n))


@pytest.mark.parametrize(("terms", "rows", "columns"), [(1, 5, 13), (3, 4, 8), (4, 3, 1500), (300, 2, 9)])
def test_outer_sum_is_a_sum_of_outer_products(terms, rows, columns, threads):
    rng = np.random.default_rng(columns)
    highs = np.array(random_ints(rng, terms * rows), object).reshape(terms, rows) * rng.integers(0, 2, (terms, rows))
    lows = np.array(random_ints(rng, terms * columns), object).reshape(terms, columns)
    out = field.outer_sum(
        field.from_ints(highs.ravel()).reshape(terms, rows, 4), field.from_ints(lows.ravel()).reshape(terms, columns, 4)
    )
    assert (highs.T @ lows % MODULUS).ravel().tolist() == field.to_ints(out)


@pytest.mark.parametrize(("n", "size"), [(0, 3), (5, 1), (4000, 7), (3000, 5000)])
def test_scatter_add_adds_at_the_indexes(n, size, threads):
    rng = np.random.default_rng(n)
    values, index = random_ints(rng, n), rng.integers(0, size, n)
    expected = [0] * size
    for x, i in zip(values, index, strict=True):
        expected[i] = (expected[i] + x) % MODULUS
    assert expected == field.to_ints(field.scatter_add(field.from_ints(values), index, size))


@pytest.mark.parametrize(("rows", "n"), [(1, 1), (3, 5), (2, 1024), (3, 2500), (2, 0)])
def test_exclusive_cumsum_sums_what_came_before(rows, n, threads):
    values = random_ints(np.random.default_rng(n), rows * n)
    expected = [sum(values[k * n : k * n + i]) % MODULUS for k in range(rows) for i in range(n)]
    assert expected == field.to_ints(field.exclusive_cumsum(field.from_ints(values).reshape(rows, n, 4)))


def test_wrong_arrays_are_refused_by_name():
    a = field.zeros(6)
    for call, name in [
        (lambda: field.add(a[::2], a[::2]), "a"),
        (lambda: field.add(a, field.zeros(5)), "b"),
        (lambda: field.mul(a.astype(np.int64), a), "a"),
        (lambda: field.dot_small(a, np.zeros(6, np.int16)), "small"),
        (lambda: field.dot_small(a, np.zeros(5, np.int32)), "small"),
        (lambda: field.combine(a, np.zeros((5, 3), np.int32)), "matrix"),
        (lambda: field.combine(a, np.zeros((3, 6), np.int32).T), "matrix"),
        (lambda: field.segment_dot(a, np.zeros((2, 5), np.int32), 2, 3), "matrix"),
        (lambda: field.segment_dot(a, np.zeros((2, 6), np.int32), 2, 2), "weights"),
        (lambda: field.scatter_add(a, np.full(6, 9), 9), "index"),
        (lambda: field.scatter_add(a, np.zeros(6, np.int32), 9), "index"),
        (lambda: field.outer_sum(a.reshape(2, 3, 4), a.reshape(3, 2, 4)), "lows"),
        (lambda: field.affine(0, [(1, np.zeros(3, np.uint8))], 4), r"terms\[0\]"),
        (lambda: field.from_wide_bytes(b"x" * 63), "data"),
        (lambda: field.set_threads(0), "n"),
    ]:
        with pytest.raises(ValueError, match=f"^{name}:"):
            call()
