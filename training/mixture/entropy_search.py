"""The search of admire.py with botorch's process and acquisition: max-value entropy per cost where there are several sizes.

    one size         next = argmax over the pool of log EI(pi), a GP with botorch's priors on its lengths
    several sizes    next = argmax over pool and sizes of I(f*; y(pi, m)) / c_m,  f* = max over the pool of f(pi, largest)

This is what ADMIRE-BayesOpt (Chen et al. 2025, arXiv 2508.11551) runs: the multi-fidelity form of max-value entropy search
(Takeno et al. 2020, arXiv 1901.08275), with the size of the model as fidelity. The pool is finite, so f* is drawn from the
process on the pool itself. Draws follow from the run's seed and the number of trials, so proposals can be made again."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.mixture.admire import Floats, MixtureSearch, SearchOptions
from zkaudit.training.steps import derive_seed

DEFAULTS = SearchOptions()
AT_ONCE = 256  # mixtures whose entropy is computed together


class EntropySearch(MixtureSearch):
    """MixtureSearch whose `acquisition` and `recommend` are by botorch; first runs, log and head are the same.

    `explore` counts with one size alone. `check(..., kind=EntropySearch)` is for its log. TrainingError without botorch.
    """

    def __init__(
        self, pool: ArrayLike, run_seed: str, costs: Sequence[float] = (1.0,), options: SearchOptions = DEFAULTS
    ) -> None:
        try:
            import_module("botorch")
        except ImportError as error:
            raise TrainingError("an entropy search needs botorch: pip install 'zkaudit[mixture]'") from error
        super().__init__(pool, run_seed, costs, options)

    def acquisition(self) -> Floats:
        """Of every mixture and size (n, sizes); minus infinity where it was tried."""
        with self._seeded():
            process = self._process()
            values = self._information(process) if len(self.costs) > 1 else self._improvement(process)
        for outcome in self.log:
            values[outcome.trial] = -math.inf
        return values

    def recommend(self) -> int:
        """The mixture of the pool with the highest mean at the largest size; ties go to the lower place."""
        with self._seeded():
            process = self._process()
            with torch.no_grad():
                return int(process.posterior(self._points(len(self.costs) - 1)).mean.argmax())

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Torch's random numbers follow from the run's seed and the length of the log; afterwards they are as before."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that stops at a bound is no fault with few trials
            torch.manual_seed(derive_seed(self.run_seed, "mixture.admire entropy", len(self.log)) >> 1)
            yield

    def _points(self, size: int, mixtures: Sequence[int] | slice = slice(None)) -> Tensor:
        """(n, k), or (n, k + 1) with the size's place on a scale that ends at 1."""
        points = torch.as_tensor(self.pool[mixtures])
        if (last := len(self.costs) - 1) == 0:
            return points
        return torch.cat([points, torch.full((len(points), 1), size / last, dtype=points.dtype)], 1)

    def _process(self) -> Any:
        """A fitted process of the log's scores, which botorch standardises."""
        from botorch.exceptions.errors import ModelFittingError
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP, SingleTaskMultiFidelityGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        if not self.log:
            raise TrainingError("there are no trials yet to learn from")
        seen = torch.cat([self._points(trial.size, [trial.mixture]) for trial, _ in self.log])
        scores = torch.tensor([[outcome.score] for outcome in self.log], dtype=torch.float64)
        if len(self.costs) > 1:
            process = SingleTaskMultiFidelityGP(seen, scores, data_fidelities=[self.pool.shape[1]])
        else:
            process = SingleTaskGP(seen, scores)
        try:
            fit_gpytorch_mll(ExactMarginalLogLikelihood(process.likelihood, process))
        except ModelFittingError as error:
            raise TrainingError(f"botorch finds no process that fits the {len(self.log)} scores: {error}") from error
        return process.eval()

    def _improvement(self, process: Any) -> Floats:
        """The logarithm of the expected improvement over the best mean of what was tried (n, 1)."""
        from botorch.acquisition import LogExpectedImprovement

        points, tried = self._points(0), [outcome.trial.mixture for outcome in self.log]
        with torch.no_grad():
            best = process.posterior(points[tried]).mean.max()
            spread = float(np.std([outcome.score for outcome in self.log]))
            return _each(LogExpectedImprovement(process, best + self.options.explore * spread), points)[:, None]

    def _information(self, process: Any) -> Floats:
        """What a run at each size is expected to tell of the best score at the largest, in nats per cost (n, sizes)."""
        from botorch.acquisition.max_value_entropy_search import qMultiFidelityMaxValueEntropy

        def largest(points: Tensor) -> Tensor:
            return torch.cat([points[..., :-1], torch.ones_like(points[..., -1:])], -1)

        def uncosted(deltas: Tensor, **_: Any) -> Tensor:
            return deltas

        last = len(self.costs) - 1
        with torch.no_grad():
            entropy = qMultiFidelityMaxValueEntropy(
                process, self._points(last), cost_aware_utility=uncosted, project=largest
            )  # one draw of best scores for all sizes
            return np.stack([_each(entropy, self._points(size)) / cost for size, cost in enumerate(self.costs)], 1)


def _each(function: Any, points: Tensor) -> Floats:
    """The acquisition of each point by itself (n,)."""
    found: Floats = torch.cat([function(part[:, None]) for part in torch.split(points, AT_ONCE)]).double().numpy()
    return found
