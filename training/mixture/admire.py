"""Bayesian search for a mixture: a Gaussian process over mixtures (and sizes of models) says which run to make next.

    y(pi, m) ~ GP,   pi a mixture of k sources, m one of the sizes of model (or fidelities) with cost c_m
    next run  = argmax over pool and sizes of  EI(pi, largest) * corr(f(pi, m), f(pi, largest)) / c_m
    answer    = argmax over the pool of the GP's mean at the largest size

EI is the expected improvement over the best mean seen. ADMIRE-BayesOpt (Chen et al. 2025, arXiv 2508.11551) searches a finite
pool with EI at one size and with max-value entropy search over several; the correlation per cost that stands here for it is
Huang et al. 2006's augmented expected improvement; entropy search is entropy_search.py's, with botorch. The process has a
Matern 5/2 kernel with one length for all sources, as a few trials cannot tell theirs apart, and noise; scikit-learn fits it in
each step.

The best mixture differs between sizes, so a search on small models alone ends at their optimum, not the large one's. The log of
trials is the search's record: each is in it before the next is proposed, and `check` computes the proposals again, to a
tolerance, as the last bits of a fit differ between machines. A best run without its log may be the best of many."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.steps import derive_seed
from zkaudit.zk.sampling import shuffled

METHOD = Method(
    name="admire",
    title="Bayesian search for a data mixture",
    paper="Chen et al. 2025 (ADMIRE-BayesOpt), arXiv 2508.11551",
    where="zkaudit.training.mixture.admire.MixtureSearch",
    changes=("data", "search"),
    effect="The best mixture is found more than five times faster than by the other searches compared.",
    library="Process and fit are scikit-learn's; with botorch, which ADMIRE uses, `entropy_search.EntropySearch` is theirs.",
    provable="Proposals are checked against the log of trials, to a tolerance; the runs are proved each by itself.",
    server_sees="A mixture and a score for each trial; the best mixture for a client's data tells what its data are like.",
    use="""
from zkaudit.training.mixture.admire import MixtureSearch, dirichlet_pool

search = MixtureSearch(dirichlet_pool(sources=5, count=1500, run_seed="7"), run_seed="7", costs=(1, 10))
for _ in range(30):
    trial = search.propose()
    search.tell(trial, -validation_loss(search.pool[trial.mixture], size=trial.size))
print(search.pool[search.recommend()])
""",
    avoid="more than about 20 sources or some hundred runs, and scores noisier than the differences looked for",
    binding="declared",
)

Floats = NDArray[np.float64]
SIZE_STEPS = (0.03, 0.1, 0.3, 1.0)  # distances between sizes that are tried, in units of the simplex
SHORTLIST = 64  # mixtures of highest EI whose correlation between sizes is looked at


class Trial(NamedTuple):
    """A mixture, by its place in the pool, and a size, by its place in the costs."""

    mixture: int
    size: int


class Outcome(NamedTuple):
    """A trial and its score, higher is better."""

    trial: Trial
    score: float


@dataclass(frozen=True)
class SearchOptions:
    """`start`: runs that are drawn at random before the process is asked; `explore`: what an improvement must at least be, in
    standard deviations of the scores."""

    start: int = 5
    explore: float = 0.0

    def __post_init__(self) -> None:
        if self.start < 2 or self.explore < 0:
            raise TrainingError(f"start = {self.start} must be at least 2 and explore = {self.explore} not negative")


class MixtureSearch:
    """The search over a pool (n, k) of mixtures and sizes with `costs`, the largest size last. `log` is its record."""

    def __init__(
        self, pool: ArrayLike, run_seed: str, costs: Sequence[float] = (1.0,), options: SearchOptions = SearchOptions()
    ) -> None:
        self.pool = np.asarray(pool, np.float64)
        if self.pool.ndim != 2 or not np.allclose(self.pool.sum(1), 1) or (self.pool < 0).any():
            raise TrainingError(f"a pool must be mixtures (n, k) whose shares sum to 1, not an array of {self.pool.shape}")
        if not costs or not min(costs) > 0:
            raise TrainingError("every size needs a cost above 0")
        if len(self.pool) < options.start:
            raise TrainingError(f"the pool has {len(self.pool)} mixtures, fewer than the first {options.start} runs")
        self.costs, self.options, self.log = tuple(float(cost) for cost in costs), options, list[Outcome]()
        self.run_seed = run_seed
        seed = derive_seed(run_seed, "mixture.admire", 0).to_bytes(8, "little")
        first = shuffled(b"zkaudit trials", seed, 0, np.arange(len(self.pool)))[: options.start].tolist()
        several = len(self.costs) > 1  # the first two are run at both ends, so that sizes can be compared
        self._first = [Trial(i, 0) for i in first] + [Trial(i, len(self.costs) - 1) for i in first[:2] if several]

    @property
    def head(self) -> str:
        """The head of a SHA-256 chain over pool, costs and log, in hexadecimal: publish it before each proposal is run."""
        link = hashlib.sha256(
            b"zkaudit mixture search" + self.pool.astype("<f8").tobytes() + repr(self.costs).encode()
        ).digest()
        for (mixture, size), score in self.log:
            link = hashlib.sha256(link + f"{mixture} {size} {score.hex()}".encode()).digest()
        return link.hex()

    @property
    def spent(self) -> float:
        """The cost of all trials."""
        return math.fsum(self.costs[outcome.trial.size] for outcome in self.log)

    def propose(self) -> Trial:
        """The next trial; a mixture is not proposed twice at a size. TrainingError if none is left."""
        if len(self.log) < len(self._first):
            return self._first[len(self.log)]
        values = self.acquisition()
        place = int(values.argmax())
        if values.flat[place] == -math.inf:
            raise TrainingError("every mixture of the pool has been tried at every size")
        return Trial(*(int(part) for part in np.unravel_index(place, values.shape)))

    def tell(self, trial: Trial, score: float) -> None:
        """Add an outcome. TrainingError for a score that is not finite or a trial outside pool and sizes."""
        if not math.isfinite(score):
            raise TrainingError(f"the score of trial {tuple(trial)} is {score}: it must be finite")
        if not (0 <= trial.mixture < len(self.pool) and 0 <= trial.size < len(self.costs)):
            raise TrainingError(f"trial {tuple(trial)} is outside the pool or the sizes")
        self.log.append(Outcome(Trial(*trial), float(score)))

    def recommend(self) -> int:
        """The mixture of the pool with the highest mean at the largest size; ties go to the lower place."""
        surface = self._surface()
        return int(surface.process.predict(surface.points(self.pool, len(self.costs) - 1)).argmax())

    def acquisition(self) -> Floats:
        """Of every mixture and size (n, sizes); minus infinity where it was tried or left off the shortlist."""
        surface, last = self._surface(), len(self.costs) - 1
        mean, spread = surface.process.predict(surface.points(self.pool, last), return_std=True)
        deviation = np.sqrt(np.maximum(spread**2 - surface.noise, 0))  # of f itself, not of a noisy score
        best = float(mean[[outcome.trial.mixture for outcome in self.log]].max())
        improvement = expected_improvement(mean, deviation, best + self.options.explore)
        values = np.full((len(self.pool), last + 1), -math.inf)
        short = np.argsort(-improvement, kind="stable")[: SHORTLIST if last else None]
        for size, cost in enumerate(self.costs):
            together = 1.0 if size == last else surface.correlation(self.pool[short], size, last)
            values[short, size] = improvement[short] * together / cost
        for outcome in self.log:
            values[outcome.trial] = -math.inf
        return values

    def _surface(self) -> _Surface:
        """The process of the log's scores, standardised, with the step between sizes that makes them likeliest."""
        if not self.log:
            raise TrainingError("there are no trials yet to learn from")
        scores = np.array([outcome.score for outcome in self.log])
        scores = (scores - scores.mean()) / (scores.std() or 1.0)
        mixtures = self.pool[[outcome.trial.mixture for outcome in self.log]]
        sizes = np.array([outcome.trial.size for outcome in self.log])
        fitted = [_Surface.fit(mixtures, sizes, scores, step) for step in (SIZE_STEPS if len(self.costs) > 1 else (0.0,))]
        return max(fitted, key=lambda surface: float(surface.process.log_marginal_likelihood_value_))


@dataclass(frozen=True)
class _Surface:
    """A fitted process over points: a mixture's shares and, as one more coordinate, the size times `step`."""

    process: Any
    step: float

    @staticmethod
    def fit(mixtures: Floats, sizes: NDArray[np.int64], scores: Floats, step: float) -> _Surface:
        try:
            from sklearn.gaussian_process import GaussianProcessRegressor, kernels
        except ImportError as error:
            raise TrainingError("a mixture search needs scikit-learn: pip install 'zkaudit[train]'") from error
        smooth = kernels.ConstantKernel(1.0, (1e-2, 1e2)) * kernels.Matern(1.0, (0.05, 20.0), nu=2.5)
        process = GaussianProcessRegressor(smooth + kernels.WhiteKernel(1e-2, (1e-6, 1.0)), random_state=0)
        with warnings.catch_warnings():  # a parameter at its bound is no fault with few trials
            warnings.simplefilter("ignore")
            return _Surface(process.fit(np.column_stack([mixtures, step * sizes]), scores), step)

    @property
    def noise(self) -> float:
        """The variance of a score around f."""
        return float(self.process.kernel_.k2.noise_level)

    def points(self, mixtures: Floats, size: int) -> Floats:
        """(n, k + 1)."""
        return np.column_stack([mixtures, np.full(len(mixtures), self.step * size)])

    def correlation(self, mixtures: Floats, size: int, last: int) -> Floats:
        """Between f at this size and at the largest, given the trials, not below 0 (n,)."""
        both = np.concatenate([self.points(mixtures, size), self.points(mixtures, last)])
        _, covariance = self.process.predict(both, return_cov=True)
        n, variance = len(mixtures), np.maximum(covariance.diagonal() - self.noise, 1e-12)
        return np.asarray(np.clip(covariance[:n, n:].diagonal() / np.sqrt(variance[:n] * variance[n:]), 0, 1), np.float64)


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """E max(f - best, 0) for f normal with this mean and deviation (n,)."""
    from scipy.stats import norm

    gain, spread = mean - best, np.maximum(deviation, 1e-12)
    z = gain / spread
    return np.asarray(gain * norm.cdf(z) + spread * norm.pdf(z), np.float64)


def dirichlet_pool(sources: int, count: int, run_seed: str, concentration: float = 1.0) -> Floats:
    """Mixtures (count, sources) drawn from a symmetric Dirichlet distribution; 1 is uniform on the simplex."""
    if sources < 2 or count < 1 or not concentration > 0:
        raise TrainingError("a pool needs two sources or more, a mixture or more and a concentration above 0")
    random = np.random.default_rng(derive_seed(run_seed, "mixture.admire pool", 0))
    return random.dirichlet([concentration] * sources, count)


def check(
    pool: ArrayLike,
    run_seed: str,
    costs: Sequence[float],
    log: Sequence[Outcome],
    options: SearchOptions,
    tolerance: float = 1e-3,
    kind: type[MixtureSearch] = MixtureSearch,
) -> int | None:
    """The first trial of a log whose acquisition is more than `tolerance` of the best below it, None if there is none.

    kind: of the search whose log it is.
    """
    search = kind(pool, run_seed, costs, options)
    for number, (trial, score) in enumerate(log):
        if number < len(search._first):
            follows = Trial(*trial) == search._first[number]
        elif not (0 <= trial[0] < len(search.pool) and 0 <= trial[1] < len(search.costs)):
            follows = False
        else:
            values = search.acquisition()
            follows = bool(values[tuple(trial)] >= values.max() - tolerance * abs(values.max()))
        if not follows:
            return number
        search.tell(Trial(*trial), score)
    return None
