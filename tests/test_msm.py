"""Sums of many multiples: full width, and rows of small numbers over the same points."""

import numpy as np
import pytest
from curve_points import multiples, ours, theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from zkaudit.zk import curve, field
from zkaudit.zk.field import MODULUS
from zkaudit.zk.testing.strategies import scalars

LOGARITHMS = [(7**i * 12345) % MODULUS for i in range(70)]
POINTS = multiples(LOGARITHMS)
KINDS = {"uint8": (0, 2**8), "uint16": (0, 2**16), "int32": (-(2**31), 2**31), "uint32": (0, 2**32), "int64": (-(2**63), 2**63)}


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    kind = draw(st.sampled_from(list(KINDS)))
    low, high = KINDS[kind]
    edges = st.sampled_from([0, 0, 1, low, high - 1, max(low, -1), 2])
    width = draw(st.integers(0, high.bit_length() - 1))
    narrow = st.integers(max(low, -(1 << width)), min(high - 1, 1 << width))
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, len(POINTS))))
    entries = draw(st.lists(st.one_of(edges, narrow), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.array(entries, dtype=kind).reshape(shape)


def row_sums(matrix: np.ndarray) -> list[int]:
    return [sum(int(x) * k for x, k in zip(row, LOGARITHMS, strict=False)) % MODULUS for row in matrix]


@given(matrices())
@settings(max_examples=60)
def test_rows_are_sums_of_multiples(matrix: np.ndarray) -> None:
    assert curve.equal(multiples(row_sums(matrix)), curve.msm_rows([matrix], POINTS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 70), (40, 33), (130, 70)])
def test_rows_of_random_full_range_numbers(kind: str, shape: tuple[int, int]) -> None:
    low, high = KINDS[kind]
    rng = np.random.default_rng(1)
    matrix = rng.integers(low, high, shape, dtype=kind)
    assert curve.equal(multiples(row_sums(matrix)), curve.msm_rows([matrix], POINTS))


def test_rows_of_extreme_numbers() -> None:
    matrix = np.array([[-(2**63), 2**63 - 1, 0, 1, -1], [0] * 5, [1] * 5, [-1] * 5], np.int64)
    assert curve.equal(multiples(row_sums(matrix)), curve.msm_rows([matrix], POINTS))


def test_rows_of_several_matrices_come_in_order() -> None:
    rng = np.random.default_rng(4)
    shapes: list[tuple[str, int, int, int]] = [("uint16", 30, 70, 1 << 16), ("uint8", 1, 3, 2), ("int64", 9, 64, 1 << 40)]
    tables = [rng.integers(0, high, (rows, columns)).astype(kind) for kind, rows, columns, high in shapes]
    expected = [x for table in tables for x in row_sums(table)]
    assert curve.equal(multiples(expected), curve.msm_rows(tables, POINTS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [0, 1 << 7, 1 << 15, 255 - 20])
def test_rows_of_small_signed_numbers_around_an_offset(kind: str, offset: int) -> None:
    """Their upper bits are equal or opposite throughout a row."""
    rng = np.random.default_rng(5)
    around = rng.integers(-20, 20, (40, 70)) + offset
    around[0], around[1] = offset, offset + 7
    matrix = around.astype(kind)  # modulo 2^bits where they do not fit
    assert curve.equal(multiples(row_sums(matrix)), curve.msm_rows([matrix], POINTS))


def test_rows_over_equal_and_opposite_points() -> None:
    """Additions that double or cancel inside a bucket."""
    points = multiples([3] * 40 + [MODULUS - 3] * 30)
    matrix = np.ones((3, 70), np.uint8)
    matrix[1, 40:] = 7
    expected = [30, 120 - 30 * 21, 30]
    assert curve.equal(multiples([x % MODULUS for x in expected]), curve.msm_rows([matrix], points))


def test_rows_over_the_identity() -> None:
    points = multiples([0, 5, 0])
    assert curve.equal(multiples([35]), curve.msm_rows([np.array([[9, 7, 255]], np.uint8)], points))


@pytest.mark.slow
def test_wide_rows_of_sixteen_bits_agree_with_the_full_width_sum() -> None:
    rng = np.random.default_rng(2)
    points = curve.generators(b"test", 3000)
    matrix = rng.integers(0, 1 << 16, (20, 3000)).astype(np.uint16)
    full = [curve.msm(field.from_small(row), points) for row in matrix]
    assert curve.equal(np.concatenate(full), curve.msm_rows([matrix], points))


@given(st.lists(scalars(), max_size=70))
@settings(max_examples=40)
def test_full_width_sum_is_that_of_the_logarithms(numbers: list[int]) -> None:
    expected = sum(n * k for n, k in zip(numbers, LOGARITHMS, strict=False)) % MODULUS
    assert curve.equal(multiples([expected]), curve.msm(field.from_ints(numbers), POINTS[: len(numbers)]))


def test_full_width_sum_agrees_with_the_oracle() -> None:
    assert curve.equal(ours([theirs(sum(LOGARITHMS[:3]) % MODULUS)]), curve.msm(field.from_ints([1, 1, 1]), POINTS[:3]))


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 1000])
def test_full_width_sum_of_many(count: int) -> None:
    logarithms = field.powers(3, count)
    points = curve.fixed_base(curve.GENERATOR, logarithms)
    numbers = field.powers(5, count)
    expected = field.dot(logarithms, numbers) if count else 0
    assert curve.equal(multiples([expected]), curve.msm(numbers, points))


def test_results_do_not_depend_on_threads() -> None:
    rng, before = np.random.default_rng(3), curve.threads()
    matrix = rng.integers(-(2**40), 2**40, (50, 70))
    results = []
    for threads in (1, 2):
        curve.set_threads(threads)
        results.append((curve.msm_rows([matrix], POINTS), curve.msm(field.powers(9, 70), POINTS), curve.generators(b"t", 99)))
    curve.set_threads(before)
    for one, other in zip(*results, strict=True):
        assert curve.equal(one, other)


def test_too_few_points_are_named() -> None:
    with pytest.raises(ValueError, match="points: need 71"):
        curve.msm_rows([np.zeros((1, 71), np.uint8)], POINTS)
