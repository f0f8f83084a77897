"""Choices by score and random draws of a mixture are whole numbers: the same for everybody, ties to the lower id."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from zkaudit.training.errors import TrainingError
from zkaudit.training.filters.ranking import UNIT, Kept, fixed_point, keep_best, ranked
from zkaudit.training.mixture.draw import ONE, draw_sources, whole_shares

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=40)


@given(scores=SCORES, highest=st.booleans())
def test_ranking_is_by_score_then_by_lower_id(scores: list[int], highest: bool) -> None:
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i] if highest else scores[i], i))
    assert ranked(np.array(scores), highest=highest).tolist() == expected


@given(scores=SCORES, share=st.integers(1, 100), sizes=st.data())
def test_the_kept_are_the_longest_list_of_the_best_within_the_budget(
    scores: list[int], share: int, sizes: st.DataObject
) -> None:
    lengths = sizes.draw(st.lists(st.integers(1, 50), min_size=len(scores), max_size=len(scores)))
    kept = keep_best(np.array(scores), share / 100, lengths)
    order, budget, chosen = sorted(range(len(scores)), key=lambda i: (-scores[i], i)), Fraction(share, 100) * sum(lengths), []
    for i in order:
        if sum(lengths[j] for j in [*chosen, i]) > budget:
            break
        chosen.append(i)
    chosen = chosen or order[:1]
    assert kept.ids == tuple(sorted(chosen))
    assert kept.threshold == min(scores[i] for i in chosen)


def test_a_share_means_the_decimal_that_was_written() -> None:
    assert [len(keep_best(np.arange(10), tenths / 10).ids) for tenths in range(1, 11)] == list(range(1, 11))


def test_scores_that_differ_by_rounding_alone_choose_alike() -> None:
    scores = np.random.default_rng(0).normal(size=200)
    moved = np.rint(scores * UNIT) / UNIT + 1e-9 * np.random.default_rng(1).normal(size=200)
    assert keep_best(fixed_point(scores), 0.3).ids == keep_best(fixed_point(moved), 0.3).ids


def test_the_digest_tells_scores_and_choices_apart() -> None:
    scores = np.arange(4)
    digests = {Kept((0, 1), scores, 0).digest(), Kept((0, 2), scores, 0).digest(), Kept((0, 1), scores + 1, 0).digest()}
    assert len(digests) == 3
    assert Kept((0, 1), scores, 0).digest() in digests


@pytest.mark.parametrize("scores", [[0.0, float("nan")], [float("inf")], [1e13], [], [[1.0]]])
def test_scores_that_decide_nothing_are_refused(scores: list[float]) -> None:
    with pytest.raises(TrainingError, match=r"record \d has the score|a number for each record"):
        fixed_point(scores)


@pytest.mark.parametrize(("share", "sizes"), [(0.0, None), (1.5, None), (0.5, [1, 0]), (0.5, [1])])
def test_shares_and_sizes_are_checked(share: float, sizes: list[int] | None) -> None:
    with pytest.raises(TrainingError, match=r"share =|sizes must be"):
        keep_best(np.arange(2), share, sizes)


@given(st.lists(st.fractions(0, 10, max_denominator=1000), min_size=1, max_size=12).filter(any))
def test_whole_shares_sum_to_one_and_are_within_a_unit(weights: list[Fraction]) -> None:
    shares = whole_shares(weights)
    assert sum(shares) == ONE
    total = sum(weights)
    assert all(abs(share - weight / total * ONE) < 1 for share, weight in zip(shares, weights, strict=True))
    assert all(share == 0 for share, weight in zip(shares, weights, strict=True) if weight == 0)


def test_what_is_left_of_equal_shares_goes_to_the_lower_source() -> None:
    assert whole_shares([1, 1, 1]) == (ONE // 3 + 1, ONE // 3, ONE // 3)


def test_draws_follow_the_shares() -> None:
    shares = whole_shares([5, 3, 2, 0])
    counts = Counter(draw_sources(shares, 4000, seed=3))
    assert counts[3] == 0
    assert chisquare([counts[i] for i in range(3)], [2000, 1200, 800]).pvalue > 0.01


def test_draws_are_fixed_by_the_seed() -> None:
    """Values that must never change: a recorded run is replayed with them."""
    assert draw_sources(whole_shares([1, 1, 2]), 12, seed=7) == draw_sources(whole_shares([1, 1, 2]), 20, seed=7)[:12]
    assert draw_sources(whole_shares([1, 1, 2]), 12, seed=7) == [2, 2, 0, 0, 2, 2, 1, 1, 2, 2, 2, 2]


def test_shares_of_another_whole_are_refused() -> None:
    with pytest.raises(TrainingError, match="sum to 2"):
        draw_sources([1, 2], 3, 0)
    with pytest.raises(TrainingError, match="must not be negative"):
        whole_shares([1, -1])
    with pytest.raises(TrainingError, match="must not be negative"):
        whole_shares([0, 0])
