"""Mixture search: expected improvement against sampling and torch's normal, what is proposed, and a log that is checked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixture_cases import BEST, POOL, score, searched

from zkaudit.training.errors import TrainingError
from zkaudit.training.mixture.admire import (
    MixtureSearch,
    Outcome,
    SearchOptions,
    Trial,
    _Surface,
    check,
    dirichlet_pool,
    expected_improvement,
)
from zkaudit.training.mixture.entropy_search import EntropySearch

pytestmark = pytest.mark.usefixtures("one_thread")


@given(st.floats(-2, 2), st.floats(0.01, 2), st.floats(-2, 2))
@settings(max_examples=30)
def test_expected_improvement_is_the_mean_of_what_is_above_the_best(mean: float, deviation: float, best: float) -> None:
    points = np.linspace(-9, 9, 200_001)
    density = np.exp(-(points**2) / 2) / np.sqrt(2 * np.pi)
    expected = np.trapezoid(np.maximum(mean + deviation * points - best, 0) * density, points)
    found = expected_improvement(np.array([mean]), np.array([deviation]), best)
    assert found[0] == pytest.approx(expected, abs=1e-6)


def test_the_search_finds_the_best_of_the_pool_where_random_runs_seldom_do() -> None:
    search = searched(16)
    values = [score(mixture) for mixture in POOL]
    regret = max(values) - values[search.recommend()]
    random = [max(values) - max(np.random.default_rng(seed).choice(values, 16, replace=False)) for seed in range(200)]
    assert regret == 0
    assert np.quantile(random, 0.2) > 0


def test_the_correlation_between_sizes_is_the_posterior_s() -> None:
    """By the textbook formula from the kernel alone: K(a, b) - K(a, X) (K(X, X) + noise)^-1 K(X, b)."""
    mixtures, sizes = POOL[:9], np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
    scores = np.array([score(m, s) for m, s in zip(mixtures, sizes, strict=True)])
    surface = _Surface.fit(mixtures, sizes, scores, step=0.3)
    seen, asked = np.column_stack([mixtures, 0.3 * sizes]), POOL[20:30]
    low, high = surface.points(asked, 0), surface.points(asked, 1)
    smooth = surface.process.kernel_.k1
    inverse = np.linalg.inv(smooth(seen) + (surface.noise + surface.process.alpha) * np.eye(9))

    def posterior(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (smooth(a, b) - smooth(a, seen) @ inverse @ smooth(seen, b)).diagonal()

    expected = posterior(low, high) / np.sqrt(posterior(low, low) * posterior(high, high))
    assert surface.correlation(asked, 0, 1) == pytest.approx(np.clip(expected, 0, 1), abs=1e-3)


@pytest.mark.parametrize("kind", [MixtureSearch, EntropySearch])
def test_no_mixture_is_tried_twice_at_a_size_until_none_is_left(kind: type[MixtureSearch]) -> None:
    search = kind(POOL[:7], "7")
    for _ in range(7):
        trial = search.propose()
        search.tell(trial, score(POOL[trial.mixture]))
    assert sorted(outcome.trial.mixture for outcome in search.log) == list(range(7))
    with pytest.raises(TrainingError, match="every mixture of the pool has been tried"):
        search.propose()


def test_cheap_runs_come_first_where_sizes_agree_and_their_cost_is_counted() -> None:
    search = searched(14, costs=(0.1, 1.0))
    sizes = [outcome.trial.size for outcome in search.log]
    assert sizes[:7] == [0, 0, 0, 0, 0, 1, 1]
    assert sizes.count(0) > sizes.count(1)
    assert search.spent == pytest.approx(sum((0.1, 1.0)[size] for size in sizes))
    assert [o.trial.mixture for o in search.log[5:7]] == [o.trial.mixture for o in search.log[:2]]


def test_the_first_runs_depend_on_the_seed_and_the_pool_alone() -> None:
    first = [[o.trial for o in searched(5, run_seed=seed).log] for seed in ("7", "7", "8")]
    assert first[0] == first[1] != first[2]
    np.testing.assert_array_equal(dirichlet_pool(3, 150, "7"), POOL)


@pytest.mark.parametrize("costs", [(1.0,), (0.1, 1.0)])
def test_a_log_that_does_not_follow_from_itself_is_found(costs: tuple[float, ...]) -> None:
    log = searched(9, costs).log
    options = SearchOptions()
    assert check(POOL, "7", costs, log, options) is None
    assert check(POOL, "8", costs, log, options) == 0
    tried = {outcome.trial.mixture for outcome in log}
    elsewhere = max(set(range(150)) - tried, key=lambda i: float(np.abs(POOL[i] - BEST).sum()))
    swapped = [*log[:8], Outcome(Trial(elsewhere, log[8].trial.size), log[8].score)]
    assert check(POOL, "7", costs, swapped, options) == 8
    outside = [*log[:8], Outcome(Trial(len(POOL), 0), 1.0)]
    assert check(POOL, "7", costs, outside, options) == 8
    # a trial that was left out shows as well: the runs after it no longer follow
    assert check(POOL, "7", costs, [*log[:3], *log[4:]], options) == 3


def test_the_head_tells_of_every_trial_and_its_order() -> None:
    search, heads = searched(6), []
    for log in (search.log, search.log[:5], search.log[::-1], [*search.log[:5], Outcome(search.log[5].trial, 0.5)]):
        other = MixtureSearch(POOL, "7")
        other.log = list(log)
        heads.append(other.head)
    assert heads[0] == search.head
    assert len(set(heads)) == 4
    assert MixtureSearch(POOL, "7").head != MixtureSearch(POOL[::-1], "7").head


def test_an_improvement_must_be_as_large_as_asked() -> None:
    eager, shy = searched(8), searched(8)
    shy.options = dataclasses.replace(shy.options, explore=1.0)
    assert shy.acquisition().max() < eager.acquisition().max()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MixtureSearch([[0.5, 0.4]] * 9, "7"), "shares sum to 1"),
        (lambda: MixtureSearch([[1.5, -0.5]] * 9, "7"), "shares sum to 1"),
        (lambda: MixtureSearch(POOL, "7", ()), "a cost above 0"),
        (lambda: MixtureSearch(POOL[:3], "7"), "fewer than the first 5 runs"),
        (lambda: MixtureSearch(POOL, "7").recommend(), "no trials yet"),
        (lambda: MixtureSearch(POOL, "7").tell(Trial(0, 0), float("nan")), "must be finite"),
        (lambda: MixtureSearch(POOL, "7").tell(Trial(0, 1), 1.0), "outside the pool or the sizes"),
        (lambda: SearchOptions(start=1), "start = 1"),
        (lambda: dirichlet_pool(1, 5, "7"), "two sources or more"),
    ],
)
def test_bad_input_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
