"""Rows by repeated views and by buckets of lengths: counts, rests and odds, the same from whatever step one begins."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.zk.errors import BadInput
from zkaudit.zk.sampling import LengthBuckets, buckets_of, length_bucket_rows, shuffled, view_batch_rows, view_numbers

SEED = b"seed"


def test_an_order_sorts_by_words_of_shake() -> None:
    """Against the definition, with Python's own sort."""
    framed = (3).to_bytes(8, "little") + b"tag" + (4).to_bytes(8, "little") + SEED + (7).to_bytes(8, "little")
    stream = hashlib.shake_256(framed).digest(8 * 20)
    words = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(20)]
    rows = np.arange(100, 120)
    assert shuffled(b"tag", SEED, 7, rows).tolist() == [100 + i for i in sorted(range(20), key=words.__getitem__)]


shapes = st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 6)).filter(lambda s: s[0] * s[2] >= s[1])


@given(shapes, st.integers(0, 3))
def test_each_row_comes_views_times_a_cycle(shape: tuple[int, int, int], cycle: int) -> None:
    """All in a row, but for what no whole batch holds."""
    rows, batch, views = shape
    steps = rows * views // batch
    chosen = view_batch_rows(SEED, rows, batch, cycle * steps, steps, views).ravel()
    numbers = view_numbers(rows, batch, cycle * steps, steps, views).ravel()
    counts = Counter(chosen.tolist())
    assert all(count <= views for count in counts.values())
    assert rows * views - sum(counts.values()) < batch
    if rows * views % batch == 0:
        assert counts == dict.fromkeys(range(rows), views)
    runs = np.flatnonzero(np.diff(chosen, prepend=-1))  # where a row begins
    assert len(runs) == len(counts)
    assert (numbers[runs] == 0).all()
    assert (numbers == np.arange(len(numbers)) % views).all()


@given(shapes)
def test_a_row_s_views_lie_in_few_adjacent_batches(shape: tuple[int, int, int]) -> None:
    rows, batch, views = shape
    chosen = view_batch_rows(SEED, rows, batch, 0, rows * views // batch, views)
    for row in range(rows):
        where = np.flatnonzero((chosen == row).any(axis=1))
        assert not len(where) or where[-1] - where[0] <= -(-(views - 1) // batch)  # 1 if views fit in a batch


def test_a_row_rests_for_about_views_times_as_long() -> None:
    """The mean step from one group of views to the next is V N / B, against N / B in plain epochs."""
    rows, batch, views, cycles = 64, 8, 4, 50
    for number in (1, views):
        steps = cycles * rows * number // batch
        chosen = view_batch_rows(SEED, rows, batch, 0, steps, number)
        gaps = []
        for row in range(rows):
            where = np.flatnonzero((chosen == row).any(axis=1))
            gaps += np.diff(where)[np.diff(where) > 1].tolist()
        assert np.mean(gaps) == pytest.approx(number * rows / batch, rel=0.05)


@given(shapes, st.integers(0, 30), st.integers(1, 10))
def test_steps_are_the_same_wherever_one_begins(shape: tuple[int, int, int], first: int, steps: int) -> None:
    rows, batch, views = shape
    whole = view_batch_rows(SEED, rows, batch, 0, first + steps, views)
    assert (view_batch_rows(SEED, rows, batch, first, steps, views) == whole[first:]).all()


def test_cycles_and_seeds_have_orders_of_their_own() -> None:
    first, second = view_batch_rows(SEED, 32, 32, 0, 2, 1)
    assert sorted(first) == sorted(second) == list(range(32))
    assert (first != second).any()
    assert (view_batch_rows(b"other", 32, 32, 0, 1, 1)[0] != first).any()


@given(st.lists(st.integers(1, 1 << 40), min_size=1, max_size=30))
def test_a_bucket_holds_lengths_of_one_power(lengths: list[int]) -> None:
    found = buckets_of(np.array(lengths))
    assert sorted(row for rows in found.values() for row in rows.tolist()) == list(range(len(lengths)))
    assert all(lengths[row].bit_length() - 1 == k for k, rows in found.items() for row in rows.tolist())


many = st.lists(st.sampled_from([1, 2, 3, 5, 8, 9, 30]), min_size=12, max_size=80)


@given(many, st.integers(1, 4), st.integers(1, 5), st.integers(0, 2))
def test_a_pass_gives_every_row_once_but_for_the_rest(lengths: list[int], batch: int, cycles: int, through: int) -> None:
    buckets = buckets_of(np.array(lengths))
    if all(len(rows) < batch for rows in buckets.values()):
        return
    plan = LengthBuckets(SEED, np.array(lengths), dict.fromkeys(buckets, batch), cycles=cycles)
    drawn = list(plan.steps(through * plan.steps_of_a_pass, plan.steps_of_a_pass))
    rows = [row for _, _, chosen in drawn for row in chosen.tolist()]
    assert len(rows) == len(set(rows)) == sum(len(members) // batch * batch for members in buckets.values())
    assert all(lengths[row].bit_length() - 1 == k for _, k, chosen in drawn for row in chosen.tolist())
    numbers = [cycle for cycle, _, _ in drawn]
    assert numbers == sorted(numbers)
    assert set(numbers) <= set(range(through * cycles, (through + 1) * cycles))


@given(many, st.integers(0, 40), st.integers(1, 12))
def test_bucket_steps_are_the_same_wherever_one_begins(lengths: list[int], first: int, steps: int) -> None:
    whole = length_bucket_rows(SEED, np.array(lengths), 1, 0, first + steps, cycles=3)
    assert (length_bucket_rows(SEED, np.array(lengths), 1, first, steps, cycles=3) == whole[first:]).all()


def test_the_first_draw_of_a_cycle_has_the_curriculum_s_odds() -> None:
    """Of buckets with as many tokens each: 32/63, 16/63, ..., that is .508 .254 .127 .063 .032 .016."""
    lengths = np.repeat([1 << k for k in range(6)], [32, 16, 8, 4, 2, 1])
    batch = {k: 32 >> k for k in range(6)}
    firsts = Counter(
        next(LengthBuckets(number.to_bytes(4, "little"), lengths, batch, (32, 16, 8, 4, 2, 1), 1).steps(0, 1))[1]
        for number in range(4000)
    )
    for k, odds in enumerate((32, 16, 8, 4, 2, 1)):
        assert firsts[k] / 4000 == pytest.approx(odds / 63, abs=4 * (odds / 63 * (1 - odds / 63) / 4000) ** 0.5)


def test_short_buckets_come_first_in_each_cycle() -> None:
    lengths = np.repeat([1, 16], [16 * 400, 400])
    plan = LengthBuckets(SEED, lengths, {0: 16, 4: 1}, (32, 1), 8)
    places: dict[int, list[float]] = {0: [], 4: []}
    for number in range(8):
        drawn = [k for cycle, k, _ in plan.steps(0, plan.steps_of_a_pass) if cycle == number]
        for place, k in enumerate(drawn):
            places[k].append(place / len(drawn))
    assert np.mean(places[0]) < 0.3
    assert np.mean(places[4]) > 0.7


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: view_batch_rows(SEED, 2, 9, 0, 1, 4), "cannot be filled with 4 views of 2 rows"),
        (lambda: view_batch_rows(SEED, 2, 0, 0, 1, 4), "batch is 0"),
        (lambda: view_batch_rows(SEED, 2, 1, 0, 1, True), "views is True"),
        (lambda: length_bucket_rows(SEED, np.array([1, 0]), 1, 0, 1), "a number from 1"),
        (lambda: length_bucket_rows(SEED, np.array([[1]]), 1, 0, 1), "a number from 1"),
        (lambda: length_bucket_rows(SEED, np.array([1, 2]), 2, 0, 1), "no bucket has rows enough"),
        (lambda: length_bucket_rows(SEED, np.array([1, 2]), 1, 0, 1, (1,)), "1 entries for 2 buckets"),
        (lambda: length_bucket_rows(SEED, np.array([1, 2]), 1, 0, 1, (1, 0)), "odds is 0"),
        (lambda: length_bucket_rows(SEED, np.array([1, 2]), 1, 0, 1, (), 0), "cycles is 0"),
    ],
)
def test_what_cannot_be_sampled_is_named(make: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        make()  # type: ignore[operator]
