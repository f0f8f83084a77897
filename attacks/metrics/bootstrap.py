"""Percentile bootstrap of ratios: every metric here is sum(parts) / sum(wholes) over units (tokens, records or batches).

Units are drawn with replacement and the ratio is taken again (Efron and Tibshirani 1993, chapter 13). Fewer than about ten
units give intervals that are too narrow, and one where all units agree gives an interval of no width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zkaudit.attacks.errors import AuditError

DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Sample:
    """Units of a metric: unit i has `parts[i]` out of `wholes[i]`. Without wholes the value is 0."""

    parts: Sequence[float]
    wholes: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.wholes):
            raise AuditError(f"a sample has {len(self.parts)} parts and {len(self.wholes)} wholes")

    @property
    def value(self) -> float:
        """The metric."""
        whole = float(sum(self.wholes))
        return float(sum(self.parts)) / whole if whole else 0.0

    @property
    def total(self) -> tuple[float, float]:
        """Sum of the parts and of the wholes: what the sample is as one unit of a larger one."""
        return float(sum(self.parts)), float(sum(self.wholes))


def mean_of(values: Sequence[float]) -> Sample:
    """The sample whose value is the mean."""
    return Sample([float(value) for value in values], [1.0] * len(values))


def together(samples: Sequence[Sample]) -> Sample:
    """The sample whose units are whole samples (batches); the units themselves if there is just one."""
    if len(samples) == 1:
        return samples[0]
    totals = [sample.total for sample in samples]
    return Sample([part for part, _ in totals], [whole for _, whole in totals])


def interval(sample: Sample, seed: int = 0, draws: int = DRAWS, level: float = LEVEL) -> Interval:
    """The value of a sample with its percentile interval."""
    value = sample.value
    low, high = _percentiles(_resampled(sample, np.random.default_rng(seed), draws), level)
    return Interval(value, min(low, value), max(high, value))


def difference(
    sample: Sample, other: Sample, paired: bool, seed: int = 0, draws: int = DRAWS, level: float = LEVEL
) -> Interval:
    """The value of `sample` less that of `other`; `paired` draws the same units of both, AuditError if they are not as many."""
    if paired and len(sample.parts) != len(other.parts):
        raise AuditError(f"samples of {len(sample.parts)} and {len(other.parts)} units cannot be paired")
    value = sample.value - other.value
    generators = np.random.default_rng(seed), np.random.default_rng(seed if paired else seed + 1)
    drawn = _resampled(sample, generators[0], draws) - _resampled(other, generators[1], draws)
    low, high = _percentiles(drawn, level)
    return Interval(value, min(low, value), max(high, value))


def _resampled(sample: Sample, generator: np.random.Generator, draws: int) -> np.ndarray:
    parts, wholes = np.asarray(sample.parts, float), np.asarray(sample.wholes, float)
    if not len(parts):
        return np.zeros(draws)
    counts = generator.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=draws)
    part, whole = counts @ parts, counts @ wholes
    result: np.ndarray = np.divide(part, whole, out=np.zeros(draws), where=whole > 0)
    return result


def _percentiles(drawn: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
