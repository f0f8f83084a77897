"""Strategies of the property-test kit give what they say, and our parsers are strict under `assert_canonical`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from curve_points import P as base
from hypothesis import given, settings
from hypothesis import strategies as st

from zkaudit.zk import curve, mle, proof_file
from zkaudit.zk import statement as statements_module
from zkaudit.zk.errors import BadInput
from zkaudit.zk.field import MODULUS
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.statement import Statement
from zkaudit.zk.testing import assert_canonical
from zkaudit.zk.testing.segments import prove_in_the_clear, segments, trained, verify_in_the_clear, witness_of
from zkaudit.zk.testing.strategies import (
    BASE,
    EDGES,
    SMALL_ORDERS,
    Encoding,
    Multilinear,
    Said,
    _outside,
    encoded_points,
    invalid,
    multilinears,
    play,
    points,
    points_outside,
    scalars,
    small_tables,
    statements,
    tables,
    transcripts,
    vectors,
)


def test_the_base_field_is_py_ecc_s() -> None:
    assert base == BASE


@given(scalars(), vectors(), tables())
def test_numbers_are_field_elements_and_tables_powers_of_two(x: int, vector: list[int], table: list[int]) -> None:
    assert all(0 <= y < MODULUS for y in [x, *vector, *table, *EDGES])
    assert len(table) & (len(table) - 1) == 0 < len(table)


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_small_tables_have_their_shape_and_range(rows: int, columns: int, data: st.DataObject) -> None:
    table = data.draw(small_tables(rows, columns, -3, 9))
    assert table.shape == (rows, columns)
    assert table.min() >= -3
    assert table.max() < 9


@given(multilinears(0, 4), st.lists(scalars(), min_size=4, max_size=4))
def test_a_multilinear_s_oracle_agrees_with_the_core(polynomial: Multilinear, point: list[int]) -> None:
    at = point[: polynomial.variables]
    assert polynomial.at(at) == mle.evaluate(polynomial.table, at)


@given(points(), points_outside())
@settings(max_examples=30)
def test_points_are_inside_and_outside(inside: curve.Points, outside: curve.Points) -> None:
    assert curve.in_subgroup(inside)[0]
    assert curve.on_curve(outside)[0]
    assert not curve.in_subgroup(outside)[0]


def test_a_point_of_each_small_order_is_among_those_outside() -> None:
    """Small multiples vanish: those of order n vanish n times, and no sooner."""
    found = set()
    for data in _outside():
        point = curve.decompress(data, subgroup=False)
        for order in SMALL_ORDERS:
            if not _times(point, order).any():
                found.add(order)
    assert found == set(SMALL_ORDERS)


def _times(point: curve.Points, n: int) -> curve.Points:
    total = np.zeros_like(point)
    for bit in bin(n)[2:]:
        total = curve.add(total, total)
        total = curve.add(total, point) if bit == "1" else total
    return total


@given(encoded_points())
def test_encodings_are_what_they_are_called(encoding: Encoding) -> None:
    if encoding.place == "nowhere":
        with pytest.raises(ValueError, match="point 0"):
            curve.decompress(encoding.data, subgroup=False)
    else:
        point = curve.decompress(encoding.data, subgroup=False)
        assert bool(curve.in_subgroup(point)[0]) == (encoding.place == "subgroup")


@given(transcripts(), transcripts())
def test_transcripts_agree_exactly_if_the_same_was_said(one: list[Said], other: list[Said]) -> None:
    assert (one == other) == (play(one).challenge(b"c") == play(other).challenge(b"c"))


@given(statements())
def test_statements_are_well_formed(statement: Statement) -> None:
    assert not invalid(statement)
    assert invalid(replace(statement, batch=statement.rows + 1))


@given(segments())
@settings(max_examples=4)
def test_segments_are_true_and_can_be_proved(segment: tuple[Statement, Any]) -> None:
    statement, data = segment
    witness = witness_of(statement, trained(statement, data))
    verify_in_the_clear(statement, witness.tables, prove_in_the_clear(statement, witness, check_trace=True))


def with_commitments(statement: Statement, data: bytes, start: bytes, end: bytes) -> Statement:
    return replace(statement, data=data, start=start, end=end)


COMMITTED = st.builds(with_commitments, statements(), *[st.binary(max_size=100)] * 3)


def test_the_header_s_parser_is_canonical() -> None:
    assert_canonical(
        lambda header: statements_module.parse(header, b"", b"", b""),
        lambda s: s.header(),
        statements(),
        BadInput,
        examples=400,
    )


def test_the_file_s_parser_is_canonical() -> None:
    files = st.builds(ProofFile, COMMITTED, st.binary(max_size=200))
    assert_canonical(lambda data: proof_file.decode(data, "test"), proof_file.encode, files, BadInput, examples=400)


def test_the_points_parser_is_canonical() -> None:
    class Point:
        """A point, equal to another if they are the same."""

        def __init__(self, data: bytes) -> None:
            self.points = curve.decompress(data)

    def encode(point: Any) -> bytes:
        return curve.compress(point.points)

    values = points().map(lambda point: Point(curve.compress(point)))
    others = encoded_points().map(lambda encoding: encoding.data)
    assert_canonical(Point, encode, values, ValueError, others, examples=200)
