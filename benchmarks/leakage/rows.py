"""What a test measures: a figure for each seed, what was expected of it, and whether that came out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zkaudit.attacks.metrics import Interval, interval, mean_of


@dataclass(frozen=True)
class Plan:
    """How much is run. `records` a seed are for tests 13 and 14; `llama` and `gpt2` for tests that need no particular model."""

    seeds: int = 3
    quick: bool = False
    records: int = 24

    @property
    def llama(self) -> str:
        return "nano-llama" if self.quick else "micro-llama"

    @property
    def gpt2(self) -> str:
        return "nano-gpt2" if self.quick else "micro-gpt2"


@dataclass(frozen=True)
class Row:
    """`least` and `most` bound the mean over seeds, or that end of its interval; a row without bounds is only reported."""

    what: str
    expected: str
    values: Sequence[float]
    least: float = -math.inf
    most: float = math.inf
    judged: Literal["value", "low", "high"] = "value"

    @property
    def interval(self) -> Interval:
        """The mean and its bootstrap interval over seeds."""
        return interval(mean_of(self.values))

    @property
    def outcome(self) -> str:
        """Pass, miss or reported."""
        if math.isinf(self.least) and math.isinf(self.most):
            return "reported"
        return "pass" if self.least <= getattr(self.interval, self.judged) <= self.most else "miss"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "what": self.what,
            "expected": self.expected,
            "values": [float(value) for value in self.values],
            **self.interval.to_dict(),
            "outcome": self.outcome,
        }
