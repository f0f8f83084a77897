"""Sumcheck: complete on sums of products of any sizes, and a false sum is rejected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.zk import field, mle, sumcheck
from zkaudit.zk.channel import ClearProver, ClearVerifier
from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.field import MODULUS
from zkaudit.zk.linear import Linear
from zkaudit.zk.sumcheck import Products

scalars = st.integers(0, MODULUS - 1)


@st.composite
def sums(draw: st.DrawFn) -> list[tuple[list[list[int]], list[tuple[int, ...]]]]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        size, count = 1 << draw(st.integers(0, 3)), draw(st.integers(1, 3))
        tables = [draw(st.lists(scalars, min_size=size, max_size=size)) for _ in range(count)]
        terms = draw(st.lists(st.lists(st.integers(0, count - 1), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3))
        found.append((tables, terms))
    return found


def total(parts: list[tuple[list[list[int]], list[tuple[int, ...]]]]) -> int:
    value = 0
    for tables, terms in parts:
        for x in range(len(tables[0])):
            for term in terms:
                product = 1
                for k in term:
                    product = product * tables[k][x] % MODULUS
                value += product
    return value % MODULUS


def prove(parts: list[tuple[list[list[int]], list[tuple[int, ...]]]], claimed: int) -> tuple[list[int], int, list[object]]:
    prover = ClearProver(b"t")
    products = [Products([field.from_ints(t) for t in tables], list(terms)) for tables, terms in parts]
    point, claim = sumcheck.prove(products, 3, Linear({}, claimed), prover, "sum")
    return point, prover.value(claim), prover.proof


def at_point(parts: list[tuple[list[list[int]], list[tuple[int, ...]]]], point: list[int]) -> int:
    value = 0
    for tables, terms in parts:
        variables = len(tables[0]).bit_length() - 1
        values = [mle.evaluate(field.from_ints(t), point[:variables]) for t in tables]
        for term in terms:
            product = sumcheck.missing_factor(point, variables)
            for k in term:
                product = product * values[k] % MODULUS
            value += product
    return value % MODULUS


@given(sums())
def test_a_true_sum_reduces_to_the_value_at_the_point(parts: list[tuple[list[list[int]], list[tuple[int, ...]]]]) -> None:
    point, value, proof = prove(parts, total(parts))
    assert at_point(parts, point) == value
    verifier = ClearVerifier(b"t", proof)
    variables = max(len(tables[0]).bit_length() - 1 for tables, _ in parts)
    verified, claim = sumcheck.verify(variables, 3, Linear({}, total(parts)), verifier, "sum")
    assert verified == point
    assert verifier._value(claim) == value


@given(sums(), st.integers(1, MODULUS - 1))
def test_a_false_sum_does_not_reduce_to_the_value(
    parts: list[tuple[list[list[int]], list[tuple[int, ...]]]], error: int
) -> None:
    point, value, _ = prove(parts, total(parts) + error)
    assert (at_point(parts, point) == value) is False


@given(sums(), st.data())
def test_a_changed_message_is_rejected(parts: list[tuple[list[list[int]], list[tuple[int, ...]]]], data: st.DataObject) -> None:
    point, _, proof = prove(parts, total(parts))
    if not point:
        return
    i = data.draw(st.integers(0, len(proof) - 1))
    message = list(proof[i])
    message[data.draw(st.integers(0, 3))] += 1
    changed = [*proof[:i], message, *proof[i + 1 :]]
    verifier = ClearVerifier(b"t", changed)
    with pytest.raises(InvalidProof):
        sumcheck.verify(len(point), 3, Linear({}, total(parts)), verifier, "sum")


def test_a_message_of_higher_degree_is_rejected() -> None:
    verifier = ClearVerifier(b"t", [[1, 2, 3, 4, 5]])
    with pytest.raises(InvalidProof, match="5 values instead of 4"):
        sumcheck.verify(1, 3, Linear({}, 16), verifier, "sum")


def test_a_sum_over_fewer_variables_is_rejected() -> None:
    parts = [([[1, 2, 3, 4]], [(0,)])]
    _, _, proof = prove(parts, total(parts))
    with pytest.raises(InvalidProof, match="ends before"):
        sumcheck.verify(3, 3, Linear({}, total(parts)), ClearVerifier(b"t", proof), "sum")


@given(st.lists(scalars, min_size=1, max_size=5))
def test_interpolation_returns_the_coefficients(coefficients: list[int]) -> None:
    values = [sum(c * x**i for i, c in enumerate(coefficients)) % MODULUS for x in range(len(coefficients))]
    assert sumcheck.interpolate(values) == coefficients
