"""A pool of mixtures of three sources, and a score that is known everywhere, for searches to be tried on."""

from __future__ import annotations

import numpy as np

from zkaudit.training.mixture.admire import MixtureSearch, dirichlet_pool

POOL = dirichlet_pool(3, 150, "7")
BEST = np.array([0.6, 0.3, 0.1])


def score(mixture: np.ndarray, size: int = 1) -> float:
    return float(-((mixture - BEST) ** 2).sum() + (0.05 * mixture[2] if size == 0 else 0.0))


def searched(
    count: int, costs: tuple[float, ...] = (1.0,), run_seed: str = "7", kind: type[MixtureSearch] = MixtureSearch
) -> MixtureSearch:
    """A search after `count` trials, told what they scored."""
    search = kind(POOL, run_seed, costs)
    for _ in range(count):
        trial = search.propose()
        search.tell(trial, score(POOL[trial.mixture], trial.size if len(costs) > 1 else 1))
    return search
