"""Which records a score keeps, in whole numbers, so that everybody who has the scores keeps the same ones.

Scores are rounded to multiples of 2^-20. The best come first, ties go to the lower id, and the longest such list is kept whose
size is at most the share asked for. Scores that a model made differ in their last bits between machines; rounded and recorded,
they decide the choice exactly, and a check of them by computing them again needs a tolerance."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zkaudit.training.errors import TrainingError

UNIT = 1 << 20  # a score of 1
LARGEST = 1 << 40  # of a score

Scores = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Kept:
    """Ids that are kept, ascending, the scores of all records in units of 2^-20, and the worst score that was kept."""

    ids: tuple[int, ...]
    scores: Scores
    threshold: int

    def digest(self) -> str:
        """SHA-256 of the scores and of the choice, in hexadecimal: what a record of the run holds of it."""
        parts = [b"zkaudit kept records", self.scores.astype("<i8").tobytes(), np.array(self.ids, "<i8").tobytes()]
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()


def fixed_point(scores: ArrayLike) -> Scores:
    """Scores (n,) in units of 2^-20, rounded half to even. TrainingError for one that is not finite or is too large."""
    found = np.asarray(scores, np.float64)
    if found.ndim != 1 or not len(found):
        raise TrainingError(f"scores must be a number for each record, not an array of shape {found.shape}")
    if (bad := ~(np.abs(found) < LARGEST)).any():
        raise TrainingError(f"record {int(bad.argmax())} has the score {found[bad.argmax()]}: it must be finite, below 2^40")
    return np.rint(found * UNIT).astype(np.int64)


def ranked(scores: Scores, *, highest: bool = True) -> NDArray[np.int64]:
    """Ids (n,), the best score first; ties go to the lower id."""
    return np.argsort(-scores if highest else scores, kind="stable").astype(np.int64)


def keep_best(scores: Scores, share: float, sizes: Sequence[int] | None = None, *, highest: bool = True) -> Kept:
    """The best records that together are at most `share` of all: of all records, or of their `sizes` (tokens, bytes).

    At least one is kept. TrainingError for a share outside (0, 1] and for sizes that are not positive whole numbers."""
    if not 0 < share <= 1:
        raise TrainingError(f"share = {share} must be above 0 and at most 1")
    weights = [1] * len(scores) if sizes is None else [int(size) for size in sizes]
    if len(weights) != len(scores) or min(weights) < 1:
        raise TrainingError(f"sizes must be a positive number for each of the {len(scores)} records")
    order = ranked(scores, highest=highest)
    total = np.cumsum(np.array(weights, np.int64)[order])
    budget = part_of(int(total[-1]), share)
    count = max(1, int(np.searchsorted(total, budget, side="right")))
    kept = order[:count]
    return Kept(tuple(sorted(kept.tolist())), scores, int(scores[kept[-1]]))


def part_of(total: int, share: float) -> int:
    """The share of a whole number, rounded down, of the decimal that was written: 0.3 of 10 is 3."""
    return int(Fraction(str(share)) * total)
