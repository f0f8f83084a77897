"""G1 against py_ecc: the group, its encoding, and the subgroup check."""

import math

import numpy as np
import pytest
from curve_points import COFACTOR, P, multiples, of_small_order, on_curve_outside, ours, theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from py_ecc.bls.point_compression import compress_G1
from py_ecc.optimized_bls12_381 import FQ, G1, Z1, add, multiply, neg

from zkaudit.zk import curve, field
from zkaudit.zk.field import MODULUS
from zkaudit.zk.testing.strategies import EDGES, SMALL_ORDERS, scalars


def test_generator_is_the_standard_one() -> None:
    assert curve.equal(ours([G1]), curve.GENERATOR)


@given(st.lists(st.tuples(scalars(), scalars()), min_size=1, max_size=9))
@settings(max_examples=15)
def test_sums_are_those_of_the_oracle(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs, strict=True)
    expected = ours([add(theirs(x), theirs(y)) for x, y in pairs])
    assert curve.equal(expected, curve.add(multiples(list(a)), multiples(list(b))))


def test_sums_with_equal_opposite_and_no_points() -> None:
    point, none = multiples([5]), multiples([0])
    assert curve.equal(ours([multiply(G1, 10)]), curve.add(point, point))
    assert not curve.add(point, curve.neg(point)).any()
    assert curve.equal(point, curve.add(point, none))
    assert curve.equal(point, curve.add(none, point))
    assert not curve.add(none, none).any()


@given(st.lists(scalars(), max_size=20))
@settings(max_examples=15)
def test_multiples_of_a_fixed_base_are_those_of_the_oracle(numbers: list[int]) -> None:
    assert curve.equal(ours([theirs(n) for n in numbers]), multiples(numbers))


def test_multiples_at_the_edges() -> None:
    assert curve.equal(ours([theirs(n) for n in EDGES]), multiples(EDGES))


@given(st.lists(st.tuples(scalars(), scalars()), min_size=1, max_size=9))
@settings(max_examples=15)
def test_elementwise_multiples_are_those_of_the_oracle(pairs: list[tuple[int, int]]) -> None:
    bases, numbers = zip(*pairs, strict=True)
    expected = ours([theirs(x * y % MODULUS) for x, y in pairs])
    assert curve.equal(expected, curve.mul(multiples(list(bases)), field.from_ints(numbers)))


@given(st.lists(st.tuples(scalars(), scalars()), min_size=1, max_size=9), scalars())
@settings(max_examples=15)
def test_fold_is_low_plus_x_times_high(pairs: list[tuple[int, int]], x: int) -> None:
    low, high = (multiples(list(column)) for column in zip(*pairs, strict=True))
    expected = ours([theirs((a + x * b) % MODULUS) for a, b in pairs])
    assert curve.equal(expected, curve.fold(low, high, x))


@given(st.lists(scalars(), max_size=9))
@settings(max_examples=15)
def test_negatives_are_those_of_the_oracle(numbers: list[int]) -> None:
    assert curve.equal(ours([neg(theirs(n)) for n in numbers]), curve.neg(multiples(numbers)))


@given(st.lists(scalars(), max_size=17))
@settings(max_examples=15)
def test_compression_is_that_of_the_oracle_and_is_undone(numbers: list[int]) -> None:
    points = multiples(numbers)
    assert b"".join(compress_G1(theirs(n)).to_bytes(48, "big") for n in numbers) == curve.compress(points)
    assert curve.equal(points, curve.decompress(curve.compress(points)))


def encoded(x: int, flags: int) -> bytes:
    data = bytearray(x.to_bytes(48, "big"))
    data[0] |= flags
    return bytes(data)


X_OFF_CURVE = next(x for x in range(1, 100) if pow((x**3 + 4) % P, (P - 1) // 2, P) != 1)
BAD = {
    "not marked as compressed": encoded(int(G1[0]), 0),
    "marked as infinity": encoded(5, 0xC0),
    "marked as infinity, other root": encoded(0, 0xE0),
    "not below the modulus": encoded(P, 0x80),
    "not below the modulus, largest": encoded((1 << 381) - 1, 0x80),
    "not on the curve": encoded(X_OFF_CURVE, 0x80),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_encoding_is_refused_by_place_and_fault(fault: str) -> None:
    good = curve.compress(multiples([3, 4]))
    with pytest.raises(ValueError, match=f"point 2: .*{fault.split(',')[0]}"):
        curve.decompress(good + BAD[fault] + good)


def test_points_outside_the_subgroup_are_refused() -> None:
    for point in on_curve_outside(5):
        data = compress_G1(point).to_bytes(48, "big")
        assert curve.equal(ours([point]), curve.decompress(data, subgroup=False))
        with pytest.raises(ValueError, match="subgroup"):
            curve.decompress(curve.compress(curve.GENERATOR) + data)


@pytest.mark.parametrize("order", SMALL_ORDERS)
def test_points_of_small_order_are_refused_and_known_as_torsion(order: int) -> None:
    assert 3 * math.prod(SMALL_ORDERS[1:]) ** 2 == COFACTOR
    points = of_small_order(order)
    assert points
    for small in points:
        assert multiply(small, order)[2] == FQ(0)
        assert curve.on_curve(ours([small])).all()
        assert not curve.in_subgroup(ours([small])).any()
        assert curve.is_torsion(ours([small]))
        with pytest.raises(ValueError, match="subgroup"):
            curve.decompress(compress_G1(small).to_bytes(48, "big"))
        mixed = ours([add(small, G1)])
        assert not curve.in_subgroup(mixed).any()
        assert not curve.is_torsion(mixed)


def test_of_the_subgroup_only_the_identity_is_torsion() -> None:
    assert [curve.is_torsion(point[None]) for point in multiples([0, 1, MODULUS - 1])] == [True, False, False]


@given(st.lists(scalars(), min_size=1, max_size=9))
@settings(max_examples=10)
def test_subgroup_check_agrees_with_multiplication_by_the_order(numbers: list[int]) -> None:
    points = [theirs(n) for n in numbers] + [add(theirs(n), on_curve_outside(1)[0]) for n in numbers]
    assert [multiply(p, MODULUS)[2] == FQ(0) for p in points] == curve.in_subgroup(ours(points)).tolist()


def test_points_off_the_curve_are_seen() -> None:
    points = multiples([1, 2, 3])
    points[1, 0] ^= 1
    assert curve.on_curve(points).tolist() == [True, False, True]


def test_identity_is_on_the_curve_and_in_the_subgroup() -> None:
    none = ours([Z1])
    assert curve.on_curve(none).all()
    assert curve.in_subgroup(none).all()
    assert curve.compress(none) == b"\xc0" + bytes(47)


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match="points"):
        curve.compress(np.zeros((2, 11), np.uint64))
    with pytest.raises(ValueError, match="b: need 2 points"):
        curve.add(multiples([1, 2]), multiples([1]))
    with pytest.raises(ValueError, match="no whole number of points"):
        curve.decompress(b"\x00" * 47)
