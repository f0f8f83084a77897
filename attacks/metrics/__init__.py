"""Metrics of leakage, with intervals: tokens, sequences and personal data, scored by a `Scorer` that alone has the truth."""

from zkaudit.attacks.metrics.bootstrap import Interval, Sample, difference, interval, mean_of, together
from zkaudit.attacks.metrics.pii import digit_share, normalise, similarity, stands_in, stands_in_normalised, value_metrics
from zkaudit.attacks.metrics.scorer import Score, ScoreOptions, Scorer, combine, gain
from zkaudit.attacks.metrics.text import match, rouge1_table, sequence_metrics
from zkaudit.attacks.metrics.tokens import token_metrics

__all__ = [
    "Interval",
    "Sample",
    "Score",
    "ScoreOptions",
    "Scorer",
    "combine",
    "difference",
    "digit_share",
    "gain",
    "interval",
    "match",
    "mean_of",
    "normalise",
    "rouge1_table",
    "sequence_metrics",
    "similarity",
    "stands_in",
    "stands_in_normalised",
    "together",
    "token_metrics",
    "value_metrics",
]
