"""Multilinear tables agree with the definition over Python's integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.zk import field, mle
from zkaudit.zk.field import MODULUS

elements = st.sampled_from([0, 1, MODULUS - 1]) | st.integers(0, MODULUS - 1)


def eq_by_definition(point, index):
    product = 1
    for k, x in enumerate(point):
        product = product * (x if index >> k & 1 else 1 - x) % MODULUS
    return product


@given(st.lists(elements, max_size=6))
def test_eq_table_is_the_product_over_the_bits(point):
    assert [eq_by_definition(point, i) for i in range(1 << len(point))] == field.to_ints(mle.eq_table(point))


@given(st.lists(elements, max_size=6), st.data())
def test_random_weights_are_the_first_entries_of_the_smallest_eq_table(point, data):
    length = data.draw(st.integers(1, 1 << len(point)))
    reached = point[: (length - 1).bit_length()]
    assert [eq_by_definition(reached, i) for i in range(length)] == field.to_ints(mle.random_weights(point, length))


@given(st.data(), st.integers(0, 6))
def test_evaluate_is_the_sum_over_the_eq_table(data, variables):
    table = data.draw(st.lists(elements, min_size=1 << variables, max_size=1 << variables))
    point = data.draw(st.lists(elements, min_size=variables, max_size=variables))
    expected = sum(x * eq_by_definition(point, i) for i, x in enumerate(table)) % MODULUS
    assert expected == mle.evaluate(field.from_ints(table), point)


@given(st.data(), st.integers(1, 6))
def test_fold_binds_variable_zero(data, variables):
    table = data.draw(st.lists(elements, min_size=1 << variables, max_size=1 << variables))
    r = data.draw(elements)
    expected = [(table[2 * i] + r * (table[2 * i + 1] - table[2 * i])) % MODULUS for i in range(len(table) // 2)]
    assert expected == field.to_ints(mle.fold(field.from_ints(table), r))


@pytest.mark.parametrize("threads", [1, 2])
def test_folding_everywhere_is_evaluating(threads):
    before = field.threads()
    field.set_threads(threads)
    rng = np.random.default_rng(0)
    table = field.from_wide_bytes(rng.bytes(64 << 13))
    point = field.to_ints(field.from_wide_bytes(rng.bytes(64 * 13)))
    folded = table
    for r in point:
        folded = mle.fold(folded, r)
    assert field.to_ints(folded) == [mle.evaluate(table, point)]
    assert mle.evaluate(table, point) == field.dot(table, mle.eq_table(point))
    field.set_threads(before)


def test_wrong_tables_are_refused_by_name():
    with pytest.raises(ValueError, match=r"^table:"):
        mle.evaluate(field.zeros(8), [1, 2])
    with pytest.raises(ValueError, match=r"^table:"):
        mle.fold(field.zeros(3), 1)
    with pytest.raises(ValueError, match=r"^length:"):
        mle.random_weights([1, 2], 5)
