"""Scaling laws fitted to small runs and read off at larger ones (Kaplan et al. 2020, arXiv 2001.08361).

    L(N)         = (N_c / N)^a_N                                  N parameters without embeddings, trained to convergence
    L(N, S_min)  = (N_c / N)^a_N + (S_c / S_min)^a_S              S_min steps at a batch far above the critical one
    S            = S_min (1 + B_crit / B)                         steps at batch B to the same loss
    B_crit(L)    = B* / L^(1 / a_B)

The paper's language models gave a_N 0.077, N_c 6.5e13, a_S 0.76, S_c 2.1e3, a_B 0.21, B* 2e8 tokens: sizes of models and data
of other kinds give other numbers, so fit your own. Fits are non-linear least squares in log loss (scipy) from several starts,
with constants in logarithms. Intervals come from a bootstrap of the residuals, scaled up for the parameters fitted; points
along one run's curve are not independent, and then intervals are too narrow. The law has no loss that remains at infinite
size: near such a floor it predicts too low."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="scaling-law",
    title="Scaling laws in size, steps and batch",
    paper="Kaplan et al. 2020, arXiv 2001.08361; critical batch of McCandlish et al. 2018, arXiv 1812.06162",
    where="zkaudit.training.search.scaling_law.fit_sizes",
    changes=("search", "batch", "schedule"),
    effect="Predicts a larger run's loss from small ones, and the batch above which more records a step save few steps.",
    library="",
    provable="It measures; there is nothing to prove.",
    server_sees="Nothing: it reads losses.",
    use="""
fitted = fit_sizes(sizes, losses)
print(fitted.law(1e9), fitted.interval(1e9), fitted.parameters())
""",
    avoid=(
        "losses near a floor, and runs far from convergence: in our check L(N, S) missed by 13 % and the intervals "
        "were too narrow"
    ),
)

Floats = NDArray[np.float64]
Law = TypeVar("Law", bound="SizeLaw | SizeStepLaw | BatchLaw")
EXPONENTS = (0.05, 0.3, 1.0)  # where fits start


@dataclass(frozen=True)
class SizeLaw:
    """L(N)."""

    n_c: float
    a_n: float

    def __call__(self, size: float) -> float:
        return float((self.n_c / size) ** self.a_n)


@dataclass(frozen=True)
class SizeStepLaw:
    """L(N, S_min)."""

    n_c: float
    a_n: float
    s_c: float
    a_s: float

    def __call__(self, size: float, steps: float) -> float:
        return float((self.n_c / size) ** self.a_n + (self.s_c / steps) ** self.a_s)


@dataclass(frozen=True)
class BatchLaw:
    """B_crit(L), in the unit of the batches that it was fitted to."""

    b_star: float
    a_b: float

    def __call__(self, loss: float) -> float:
        return float(self.b_star / loss ** (1 / self.a_b))

    def smallest_steps(self, steps: float, batch: float, loss: float) -> float:
        """S_min: the steps to `loss` at a batch without limit, where batch `batch` took `steps`."""
        return steps / (1 + self(loss) / batch)


@dataclass(frozen=True)
class Fitted(Generic[Law]):
    """A law, the laws of the bootstrap's samples, and the residuals of log loss (of log steps for a BatchLaw)."""

    law: Law
    samples: tuple[Law, ...]
    residuals: tuple[float, ...]

    def interval(self, *at: float, level: float = 0.9, seed: int = 0) -> tuple[float, float]:
        """Where a new run at these sizes (and steps) will fall: the law's uncertainty and a residual's."""
        noise = np.random.default_rng(seed).choice(self.residuals, len(self.samples))
        drawn = np.array([law(*at) for law in self.samples])
        return _range(drawn * np.exp(noise), level)

    def parameters(self, level: float = 0.9) -> dict[str, tuple[float, float]]:
        """The interval of each of the law's constants."""
        names = [part.name for part in dataclasses.fields(self.law)]
        return {name: _range(np.array([getattr(law, name) for law in self.samples]), level) for name in names}


def fit_sizes(sizes: ArrayLike, losses: ArrayLike, *, draws: int = 200, seed: int = 0) -> Fitted[SizeLaw]:
    """Fit L(N) to runs that have converged: at least three different sizes."""
    size, loss = _columns(3, sizes=sizes, losses=losses)
    _varied("sizes", size)

    def logs(theta: Floats) -> Floats:
        return _log_term(theta[0], theta[1], size)

    starts = [_start(a, size, loss) for a in EXPONENTS]
    return _fitted(logs, np.log(loss), starts, lambda theta: SizeLaw(*_constants(theta)), draws, seed)


def fit_sizes_and_steps(
    sizes: ArrayLike, steps: ArrayLike, losses: ArrayLike, *, draws: int = 200, seed: int = 0
) -> Fitted[SizeStepLaw]:
    """Fit L(N, S_min) to points of learning curves: at least five, over several sizes and steps."""
    size, step, loss = _columns(5, sizes=sizes, steps=steps, losses=losses)
    _varied("sizes", size)
    _varied("steps", step)

    def logs(theta: Floats) -> Floats:
        return np.logaddexp(_log_term(theta[0], theta[1], size), _log_term(theta[2], theta[3], step))

    starts = [np.concatenate([_start(a, size, loss / 2), _start(b, step, loss / 2)]) for a in EXPONENTS for b in EXPONENTS]
    return _fitted(logs, np.log(loss), starts, lambda theta: SizeStepLaw(*_constants(theta)), draws, seed)


def fit_critical_batch(
    batches: ArrayLike, steps: ArrayLike, losses: ArrayLike, *, draws: int = 200, seed: int = 0
) -> Fitted[BatchLaw]:
    """Fit B_crit(L) to runs of one model: batch B reached loss L after S steps. S_min of each loss is fitted along.

    Losses are levels: at least two of them, each reached at two batches or more."""
    batch, step, loss = _columns(5, batches=batches, steps=steps, losses=losses)
    levels, which = np.unique(loss, return_inverse=True)
    if len(levels) < 2 or any(len(set(batch[which == level])) < 2 for level in range(len(levels))):
        raise TrainingError("losses must be at least two levels, each reached at two batches or more")
    log_loss = np.log(loss)

    def logs(theta: Floats) -> Floats:  # theta: log B*, log 1/a_B, log S_min of each level
        critical = theta[0] - np.exp(theta[1]) * log_loss
        predicted: Floats = theta[2:][which] + np.logaddexp(0.0, critical - np.log(batch))
        return predicted

    least = [float(np.log(step[which == level].min() / 2)) for level in range(len(levels))]
    starts = [
        np.array([math.log(b) + e * log_loss.mean(), math.log(e), *least]) for b in _spread(batch) for e in (1.0, 3.0, 10.0)
    ]
    return _fitted(logs, np.log(step), starts, lambda t: BatchLaw(math.exp(t[0]), math.exp(-t[1])), draws, seed)


def _log_term(offset: float, log_exponent: float, at: Floats) -> Floats:
    """log (c / at)^a, for offset = a log c, which least squares can step in evenly."""
    found: Floats = offset - np.exp(log_exponent) * np.log(at)
    return found


def _constants(theta: Floats) -> list[float]:
    """(a log c, log a) pairs as c, a, ..."""
    pairs = [(offset / math.exp(log_a), math.exp(log_a)) for offset, log_a in theta.reshape(-1, 2)]
    return [part for log_c, a in pairs for part in (math.exp(min(log_c, 700.0)), a)]


def _start(exponent: float, at: Floats, loss: Floats) -> Floats:
    return np.array([np.mean(np.log(loss) + exponent * np.log(at)), math.log(exponent)])


def _spread(batch: Floats) -> tuple[float, float, float]:
    return float(batch.min()), float(np.exp(np.log(batch).mean())), float(batch.max())


def _fitted(
    logs: Callable[[Floats], Floats], observed: Floats, starts: Sequence[Floats], law: Callable[[Floats], Any],
    draws: int, seed: int,
) -> Fitted[Any]:  # fmt: skip
    """The best fit of all starts, and fits to `draws` sets of resampled residuals that start from it."""
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise TrainingError("fitting a scaling law needs scipy: pip install 'zkaudit[audit]'") from error
    if draws < 1:
        raise TrainingError(f"draws must be at least 1, not {draws!r}")
    found = [least_squares(lambda theta: logs(theta) - observed, start, x_scale="jac") for start in starts]
    best = min(found, key=lambda fit: float(fit.cost)).x
    free = max(1, len(observed) - len(best))
    residuals = (observed - logs(best)) * math.sqrt(len(observed) / free)
    random, samples = np.random.default_rng(seed), []
    for _ in range(draws):
        moved = logs(best) + random.choice(residuals - residuals.mean(), len(observed))
        samples.append(law(least_squares(lambda theta, to=moved: logs(theta) - to, best, x_scale="jac").x))
    return Fitted(law(best), tuple(samples), tuple(residuals.tolist()))


def _columns(least: int, **given: ArrayLike) -> list[Floats]:
    """Positive vectors of one length, at least `least` long."""
    columns = {name: np.asarray(column, np.float64) for name, column in given.items()}
    lengths = {column.shape for column in columns.values()}
    if len(lengths) != 1 or any(column.ndim != 1 for column in columns.values()):
        raise TrainingError(f"{', '.join(columns)} must be lists of one length, not of shapes {sorted(lengths)}")
    for name, column in columns.items():
        if not (np.isfinite(column) & (column > 0)).all():
            raise TrainingError(f"{name} must be positive numbers, not {column[~(np.isfinite(column) & (column > 0))][0]}")
        if len(column) < least:
            raise TrainingError(f"the fit needs at least {least} runs, not {len(column)}")
    return list(columns.values())


def _varied(name: str, column: Floats) -> None:
    if len(set(column)) < 3:
        raise TrainingError(f"{name} must have at least three different values, not {len(set(column))}")


def _range(values: Floats, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise TrainingError(f"level must be between 0 and 1, not {level!r}")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
