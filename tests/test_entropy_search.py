"""The search by botorch: near the optimum after few runs, about as good as our own, and its log can be checked."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from mixture_cases import POOL, score, searched

from zkaudit.training.errors import TrainingError
from zkaudit.training.mixture.admire import (
    MixtureSearch,
    Outcome,
    SearchOptions,
    Trial,
    check,
    expected_improvement,
)
from zkaudit.training.mixture.entropy_search import EntropySearch

pytestmark = pytest.mark.usefixtures("one_thread")
REGRET = max(map(score, POOL)) - np.array([score(mixture) for mixture in POOL])


def proposed(search: MixtureSearch, first: int) -> np.ndarray:
    """Regrets of the mixtures after the first, which are drawn."""
    return REGRET[[outcome.trial.mixture for outcome in search.log[first:]]]


def test_proposals_lie_near_the_optimum_about_as_near_as_our_own() -> None:
    regrets = {}
    for kind in (MixtureSearch, EntropySearch):
        searches = [searched(12, run_seed=seed, kind=kind) for seed in ("7", "8")]
        assert all(REGRET[search.recommend()] <= np.quantile(REGRET, 0.02) for search in searches)
        regrets[kind] = np.median([proposed(search, 5) for search in searches])
        assert regrets[kind] < np.quantile(REGRET, 0.15)
    assert 1 / 4 < regrets[EntropySearch] / regrets[MixtureSearch] < 4


def test_cheap_runs_lead_to_the_best_of_the_largest_size() -> None:
    search = searched(13, (0.1, 1.0), kind=EntropySearch)
    sizes = [outcome.trial.size for outcome in search.log]
    assert sizes[7:].count(0) > sizes[7:].count(1)
    assert REGRET[search.recommend()] <= np.quantile(REGRET, 0.02)
    assert proposed(search, 7).min() <= np.quantile(REGRET, 0.02)


def test_information_is_divided_by_a_size_s_cost_alone() -> None:
    cheap, dear = searched(8, (1.0, 1.0), kind=EntropySearch), EntropySearch(POOL, "7", (1.0, 8.0))
    dear.log = list(cheap.log)
    one, other = cheap.acquisition(), dear.acquisition()
    np.testing.assert_array_equal(one[:, 0], other[:, 0])
    np.testing.assert_allclose(one[:, 1], 8 * other[:, 1])
    assert np.quantile(one[np.isfinite(one)], 0.5) > 0


@pytest.mark.parametrize("explore", [0.0, 0.5])
def test_with_one_size_it_is_the_log_of_our_expected_improvement(explore: float) -> None:
    search = searched(7, kind=EntropySearch)
    search.options = SearchOptions(explore=explore)
    values = search.acquisition()[:, 0]
    tried = [outcome.trial.mixture for outcome in search.log]
    with search._seeded():
        process = search._process()
        with torch.no_grad():
            posterior = process.posterior(torch.as_tensor(POOL))
    mean, deviation = posterior.mean[:, 0].numpy(), posterior.variance[:, 0].sqrt().numpy()
    best = mean[tried].max() + explore * np.std([outcome.score for outcome in search.log])
    expected = expected_improvement(mean, deviation, best)
    sure = (expected > 1e-8) & np.isfinite(values)
    assert sure.sum() > 10
    np.testing.assert_allclose(values[sure], np.log(expected[sure]), rtol=1e-4)
    assert (values[tried] == -np.inf).all()


def test_proposals_follow_from_the_seed_and_leave_torch_s_numbers_alone() -> None:
    search, twin = searched(8, (0.1, 1.0), kind=EntropySearch), EntropySearch(POOL, "7", (0.1, 1.0))
    twin.log = list(search.log)
    torch.manual_seed(1)
    first = search.acquisition()
    after = torch.rand(3)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, twin.acquisition())
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3))


@pytest.mark.parametrize("costs", [(1.0,), pytest.param((0.1, 1.0), marks=pytest.mark.slow)])
def test_a_log_that_does_not_follow_from_itself_is_found(costs: tuple[float, ...]) -> None:
    log, options = searched(9, costs, kind=EntropySearch).log, SearchOptions()
    assert check(POOL, "7", costs, log, options, kind=EntropySearch) is None
    far = max(set(range(150)) - {outcome.trial.mixture for outcome in log}, key=REGRET.__getitem__)
    swapped = [*log[:8], Outcome(Trial(far, log[8].trial.size), log[8].score)]
    assert check(POOL, "7", costs, swapped, options, kind=EntropySearch) == 8


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="no trials yet"):
        EntropySearch(POOL, "7").recommend()
    monkeypatch.setitem(sys.modules, "botorch", None)
    with pytest.raises(TrainingError, match=r"pip install 'zkaudit\[mixture\]'"):
        EntropySearch(POOL, "7")
