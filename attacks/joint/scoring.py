"""How near recovered records are to the true ones, which the scorer alone knows.

Guesses are assigned to records so that errors are least in sum (Hungarian). A record's error is its distance from its guess
over the root mean square distance of the data from their mean: about what guessing the mean makes. A record counts as
recovered up to an error of 0.1, and its fidelity is 1 - error, at least 0; records without a guess have neither.
"""

from __future__ import annotations

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from zkaudit.attacks.joint.client import Found
from zkaudit.attacks.metrics.bootstrap import interval, mean_of

NEAR = 0.1


class Scorer:
    """Of the records (n, d) with labels (n,) behind one update, out of a data set (rows, d)."""

    def __init__(self, records: Tensor, labels: Tensor, data: Tensor) -> None:
        self.records, self.labels = records, labels
        spread = float((data - data.mean(0)).square().sum(1).mean().sqrt())
        self.unit = spread or 1.0

    def errors(self, guesses: Tensor) -> tuple[Tensor, Tensor]:
        """Of each record with the guess that it is assigned, infinite without one, (n,); and that guess's number or -1."""
        error = torch.full((len(self.records),), torch.inf, dtype=self.records.dtype)
        of = torch.full((len(self.records),), -1)
        if len(guesses):
            apart = torch.cdist(self.records, guesses, compute_mode="donot_use_mm_for_euclid_dist") / self.unit
            apart = apart.nan_to_num(nan=torch.inf, posinf=torch.inf)
            rows, columns = map(torch.from_numpy, linear_sum_assignment(apart.clamp_max(1e12).numpy()))
            error[rows], of[rows] = apart[rows, columns], columns
        return error, of

    def fidelity(self, guesses: Tensor) -> float:
        """Mean over records."""
        return float((1 - self.errors(guesses)[0]).clamp_min(0).mean())

    def metrics(self, found: Found) -> dict[str, dict[str, float]]:
        """Each with its interval over records; errors and labels over those with a guess."""
        error, of = self.errors(found.records)
        guessed = error.isfinite()
        values: dict[str, Tensor] = {
            "records_recovered": (error <= NEAR).double(),
            "record_fidelity": (1 - error).clamp_min(0),
        }
        if bool(guessed.any()):
            values["record_error"] = error[guessed]
            if found.labels is not None:
                values["labels_right"] = (found.labels[of[guessed]] == self.labels[guessed]).double()
        return {name: interval(mean_of(value.tolist())).to_dict() for name, value in values.items()}


def value(attack: dict[str, Any], metric: str) -> float | None:
    """A metric of a scored attack, None if it has none."""
    found = (attack.get("metrics") or {}).get(metric)
    return None if found is None else float(found["value"])
