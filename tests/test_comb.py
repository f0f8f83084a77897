"""Sums of fixed points from tables of their multiples, on both lanes, and messages committed to with them."""

from collections.abc import Iterator
from importlib import import_module

import numpy as np
import pytest
from curve_points import multiples

from zkaudit.zk import curve, field, pedersen
from zkaudit.zk.backend import core
from zkaudit.zk.curve import Points
from zkaudit.zk.field import MODULUS
from zkaudit.zk.testing.strategies import EDGES

LOGARITHMS = [(7**i * 12345) % MODULUS for i in range(40)]
POINTS = multiples(LOGARITHMS)


def forget_tables() -> None:
    """Those that are kept are of one lane."""
    pedersen._slot_tables.cache_clear()
    pedersen._blinding_tables.cache_clear()


@pytest.fixture(params=["_curve", "_curve_ifma"], autouse=True)
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "_curve_ifma" and not core.has_ifma():
        pytest.skip("this CPU has no AVX-512 IFMA")
    forget_tables()
    monkeypatch.setattr(curve, "curve_core", import_module(f"zkaudit.zk.{request.param}"))
    yield
    forget_tables()


def random_numbers(count: int, seed: int = 1) -> list[int]:
    rng = np.random.default_rng(seed)
    return [int.from_bytes(rng.bytes(40), "little") % MODULUS for _ in range(count)]


def combed(numbers: list[int], points: Points) -> Points:
    return curve.comb_msm(field.from_ints(numbers), [curve.comb_tables(points)])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 40])
def test_sums_are_those_of_msm(count: int) -> None:
    numbers = random_numbers(count)
    expected = multiples([sum(x * k for x, k in zip(numbers, LOGARITHMS, strict=False)) % MODULUS])
    assert curve.equal(expected, combed(numbers, POINTS[:count]))
    assert curve.equal(curve.msm(field.from_ints(numbers), POINTS[:count]), combed(numbers, POINTS[:count]))


@pytest.mark.parametrize("scalar", EDGES)
def test_edges_alone_and_beside_others(scalar: int) -> None:
    assert curve.equal(multiples([scalar * LOGARITHMS[1] % MODULUS]), combed([scalar], POINTS[1:2]))
    expected = multiples([(scalar * LOGARITHMS[1] + 5 * LOGARITHMS[2] - LOGARITHMS[3]) % MODULUS])
    assert curve.equal(expected, combed([scalar, 5, MODULUS - 1], POINTS[1:4]))


def test_no_points_make_the_identity() -> None:
    assert not curve.comb_msm(field.from_ints([]), []).any()


def test_identities_equal_and_opposite_points() -> None:
    identity, point = np.zeros((1, 12), np.uint64), POINTS[:1]
    opposite = curve.neg(point)
    assert not combed([5, MODULUS - 1], np.concatenate([identity, identity])).any()
    assert curve.equal(multiples([7 * LOGARITHMS[0] % MODULUS]), combed([5, 7, 9], np.concatenate([identity, point, identity])))
    for x in (*EDGES, *random_numbers(3)):
        assert curve.equal(multiples([2 * x * LOGARITHMS[0] % MODULUS]), combed([x, x], np.concatenate([point, point])))
        assert not combed([x, x], np.concatenate([point, opposite])).any()
        assert not combed([x, (MODULUS - x) % MODULUS], np.concatenate([point, point])).any()


def test_tables_may_lie_in_several_arrays() -> None:
    numbers, tables = random_numbers(20), curve.comb_tables(POINTS)
    picked = [tables[3:9], tables[9:9], tables[30:37], curve.comb_tables(POINTS[20:21]), tables[34:40]]
    points = np.concatenate([POINTS[3:9], POINTS[30:37], POINTS[20:21], POINTS[34:40]])
    assert curve.equal(curve.msm(field.from_ints(numbers), points), curve.comb_msm(field.from_ints(numbers), picked))


def test_tables_do_not_depend_on_threads_or_neighbours() -> None:
    points = np.concatenate([POINTS, POINTS])
    before = curve.threads()
    curve.set_threads(2)
    try:
        tables = curve.comb_tables(points)
    finally:
        curve.set_threads(before)
    numbers = random_numbers(80)
    for i in (0, 5, 39, 40, 79):
        expected = curve.msm(field.from_ints(numbers[i : i + 1]), points[i : i + 1])
        assert curve.equal(expected, curve.comb_msm(field.from_ints(numbers[i : i + 1]), [tables[i : i + 1]]))


def test_wrong_tables_are_named() -> None:
    tables = curve.comb_tables(POINTS[:2])
    numbers = field.from_ints([1, 2])
    with pytest.raises(ValueError, match=r"tables\[1\]: need rows of comb_tables"):
        curve.comb_msm(numbers, [tables[:1], tables[1:, :-1]])
    with pytest.raises(ValueError, match="scalars: need shape"):
        curve.comb_msm(numbers, [tables[:1]])
    with pytest.raises(ValueError, match="points: need contiguous"):
        curve.comb_tables(POINTS[0])


def test_tables_that_were_moved_are_refused_where_addresses_matter() -> None:
    tables = curve.comb_tables(POINTS[:1])
    raw = np.empty(tables.size + 8, np.uint64)
    odd = (1 - raw.ctypes.data // 8) % 8
    moved = raw[odd : odd + tables.size].reshape(tables.shape)
    moved[:] = tables
    if curve.curve_core.__name__.endswith("_ifma"):
        with pytest.raises(ValueError, match="tables: they are not at an address"):
            curve.comb_msm(field.from_ints([3]), [moved])
    else:
        assert curve.equal(multiples([3 * LOGARITHMS[0] % MODULUS]), curve.comb_msm(field.from_ints([3]), [moved]))


@pytest.mark.parametrize(("first", "count"), [(0, 1), (3, 6), (250, 6), (250, 7), (255, 300), (511, 0)])
def test_a_message_is_the_sum_over_its_slots_and_the_blinding(first: int, count: int) -> None:
    numbers = field.from_ints(random_numbers(count + 1, seed=first))
    generators = np.concatenate([pedersen.slots(first + count)[first:], pedersen.blinding()])
    assert curve.equal(curve.msm(numbers, generators), pedersen.message(first, numbers))
