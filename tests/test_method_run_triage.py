"""Run triage: the rule against numpy's, what is refused, and runs that have diverged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import zscore

from zkaudit.training.errors import TrainingError
from zkaudit.training.search.run_triage import Signals, early, triage

NUMBERS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=3, max_size=10)


def runs(pairs: list[tuple[float, float]]) -> list[Signals]:
    return [Signals(f"run {number}", "data", norm, loss) for number, (norm, loss) in enumerate(pairs)]


@given(NUMBERS.filter(lambda pairs: all(len(set(column)) > 1 for column in zip(*pairs, strict=True))), st.floats(0, 2))
def test_badness_is_the_difference_of_standard_scores(pairs: list[tuple[int, int]], weight: float) -> None:
    found = triage(runs(pairs), loss_weight=weight)
    norms, losses = np.array(pairs, float).T
    expected = zscore(norms) - weight * zscore(losses)
    assert [found.badness[f"run {number}"] for number in range(len(pairs))] == pytest.approx(expected, abs=1e-9)


def test_low_norm_and_high_loss_rank_first_and_the_worst_are_stopped() -> None:
    found = triage(runs([(1.0, 3.0), (2.0, 2.0), (5.0, 1.0), (1.5, 2.5)]), stop=0.5)
    assert found.ranking == ("run 0", "run 3", "run 1", "run 2")
    assert found.stopped == ("run 2", "run 1")


def test_runs_that_have_diverged_are_stopped_first() -> None:
    found = triage(runs([(1.0, 3.0), (1.0, math.nan), (math.inf, 9.0), (9.0, 1.0)]), stop=0.5)
    assert found.stopped == ("run 1", "run 2")
    assert found.ranking[0] == "run 0"


def test_without_the_loss_a_diverging_run_s_high_loss_does_not_save_it() -> None:
    pairs = [(1.0, 2.0), (1.5, 2.1), (1.3, 50.0)]
    assert triage(runs(pairs)).ranking[0] == "run 2"
    assert triage(runs(pairs), loss_weight=0.0).ranking == ("run 0", "run 2", "run 1")


def test_equal_runs_are_stopped_in_the_order_of_their_names() -> None:
    assert triage(runs([(1.0, 1.0)] * 4), stop=0.5).stopped == ("run 0", "run 1")


def test_early_signals_are_means_of_a_window() -> None:
    norms, losses = [float(step) for step in range(20)], [20.0 - step for step in range(20)]
    assert early(norms, losses, step=9, window=4) == (7.5, 12.5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: triage(runs([(1.0, 1.0)])), "at least two runs"),
        (lambda: triage([Signals("a", "x", 1.0, 1.0), Signals("a", "x", 2.0, 1.0)]), "different names"),
        (lambda: triage([Signals("a", "x", 1.0, 1.0), Signals("b", "y", 2.0, 1.0)]), "'b' has other data than 'a'"),
        (lambda: triage(runs([(1.0, 1.0)] * 2), stop=1.0), "stop = 1.0"),
        (lambda: early([1.0] * 5, [1.0] * 5, step=2), "outside the 5 recorded"),
        (lambda: early([1.0] * 5, [1.0] * 5, step=5), "outside the 5 recorded"),
    ],
)
def test_what_cannot_be_compared_is_refused(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
