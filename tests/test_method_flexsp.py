"""The sequence-parallel planner against exhaustive search, its limits, and plans with one degree for all."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.search.sequence_plan import Cluster, Plan, PlanOptions, buckets, homogeneous_plans, plan

FOUR = Cluster(devices=4, per_node=2, tokens=100, attention=1e-3, linear=0.1, inside=0.02, between=0.5, latency=0.3)
ONCE = PlanOptions(more_micro_batches=0)


def ways(devices: int, largest: int) -> Iterator[list[int]]:
    """Every multiset of powers of two whose sum is at most `devices`."""
    yield []
    for degree in (1, 2, 4):
        if degree <= min(devices, largest):
            yield from ([degree, *rest] for rest in ways(devices - degree, degree))


def exhaustive(lengths: list[int], cluster: Cluster) -> float:
    best = math.inf
    for degrees in ways(cluster.devices, cluster.devices):
        for places in itertools.product(range(len(degrees)), repeat=len(lengths)):
            groups = [[s for s, at in zip(lengths, places, strict=True) if at == g] for g in range(len(degrees))]
            if all(sum(group) <= degree * cluster.tokens for group, degree in zip(groups, degrees, strict=True)):
                best = min(best, max(cluster.time(d, group) for d, group in zip(degrees, groups, strict=True)))
    return best


def check(found: Plan, lengths: list[int], cluster: Cluster) -> None:
    """A plan trains every sequence once, on the devices and in the memory there are, in the time it says."""
    groups = [group for part in found.micro_batches for group in part]
    assert Counter(s for group in groups for s in group.lengths) == Counter(lengths)
    assert all(sum(group.degree for group in part) <= cluster.devices for part in found.micro_batches)
    assert all(sum(group.lengths) <= group.degree * cluster.tokens for group in groups)
    seconds = sum(max(cluster.time(g.degree, g.lengths) for g in part) for part in found.micro_batches)
    assert found.seconds == pytest.approx(seconds)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=5).filter(lambda lengths: sum(lengths) <= 400))
def test_the_plan_is_the_best_of_all(lengths: list[int]) -> None:
    best = exhaustive(lengths, FOUR)
    if math.isinf(best):  # fits by the sum, but not piece by piece: the plan takes more micro-batches
        check(plan(lengths, FOUR, ONCE), lengths, FOUR)
    else:
        found = plan(lengths, FOUR, ONCE)
        check(found, lengths, FOUR)
        assert best == pytest.approx(found.seconds)
        assert found.gap < 1e-6


@settings(max_examples=10)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_batches_beyond_memory_are_split_into_micro_batches_that_fit(lengths: list[int]) -> None:
    options = PlanOptions(buckets=6, seconds=2, more_micro_batches=0)
    found = plan(lengths, FOUR, options)
    check(found, lengths, FOUR)
    assert len(found.micro_batches) >= sum(lengths) / 400
    for other in homogeneous_plans(lengths, FOUR, options).values():
        check(other, lengths, FOUR)


@settings(max_examples=10)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=8))
def test_no_plan_of_one_degree_is_faster_where_buckets_are_exact(lengths: list[int]) -> None:
    plans = homogeneous_plans(lengths, FOUR)
    for degree, found in plans.items():
        assert {group.degree for part in found.micro_batches for group in part} == {degree}
        assert plan(lengths, FOUR).seconds <= found.seconds + 1e-5 or len(found.micro_batches) > 1


def test_a_long_tail_makes_unequal_groups_faster() -> None:
    slow = Cluster(devices=4, per_node=4, tokens=100, attention=1e-3, linear=0.1, inside=0.2, between=0.2)
    lengths = [150, 60, 40, 30, 20, 10, 10]
    found = plan(lengths, slow)
    assert len({group.degree for part in found.micro_batches for group in part}) > 1
    assert found.seconds < 0.95 * min(each.seconds for each in homogeneous_plans(lengths, slow).values())


@settings(max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 4))
def test_buckets_have_the_least_padding(lengths: list[int], count: int) -> None:
    ordered = sorted(lengths)
    found = buckets(lengths, count)
    assert [s for run in found for s in run] == ordered
    cuts = [c for n in range(min(count, len(lengths))) for c in itertools.combinations(range(1, len(lengths)), n)]
    runs = [np.split(np.array(ordered), cut) for cut in cuts]
    least = min(sum(int((run.max() - run).sum()) for run in cut) for cut in runs)
    assert least == sum(run[-1] - s for run in found for s in run)
    assert len(found) <= count


def test_exchange_costs_more_where_a_group_spans_nodes_and_nothing_alone() -> None:
    free = Cluster(4, 2, 100, attention=0, linear=0, inside=0.02, between=0.5)
    assert free.cost(1, 60) == 0
    assert free.cost(2, 60) == pytest.approx(60 / 2 * 0.02 / 2)
    assert free.cost(4, 60) == pytest.approx(60 / 4 * (0.02 + 2 * 0.5) / 4)


def test_a_transformers_costs_are_its_operations_by_hand() -> None:
    made = Cluster.of_transformer(
        devices=8, per_node=8, tokens=1000, layers=2, width=64, flops=1e9, inside=1e8, between=1e7
    )  # fmt: skip
    weights = 2 * 12 * 64 * 64
    assert made.linear == pytest.approx(6 * weights / 1e9)
    assert made.attention * 100**2 == pytest.approx(
        3 * 2 * (2 * 64 * 100 * 100 * 2) / 2 / 1e9
    )  # 2 products, half of them masked
    assert made.inside == pytest.approx(8 * 64 * 2 * 2 / 1e8)


def test_bad_input_is_named() -> None:
    with pytest.raises(TrainingError, match="devices must be a power of two, not 6"):
        Cluster(6, 2, 100, 0, 0, 0, 0)
    with pytest.raises(TrainingError, match="inside must be a number of at least 0"):
        Cluster(4, 2, 100, 0, 0, -1, 0)
    with pytest.raises(TrainingError, match="401 tokens does not fit into a group of degree 4"):
        plan([401], FOUR)
    with pytest.raises(TrainingError, match="degree 3 is none of 1, 2, 4"):
        plan([4], FOUR, degrees=(3,))
    with pytest.raises(TrainingError, match="at least one sequence"):
        plan([], FOUR)
    with pytest.raises(TrainingError, match="buckets"):
        PlanOptions(buckets=0)
