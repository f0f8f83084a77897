"""Deep leakage from gradients (Zhu, Liu, Han 2019): minimise ||grad(x', y') - g||^2 over dummy inputs and dummy labels.

The paper runs L-BFGS at rate 1 for 300 iterations (`optimizer="lbfgs"`; here each takes up to 20 evaluations). Adam is the
default, it gets further in as many evaluations: vectors and logits differ in scale. Labels are free logits as in the paper;
`labels="soft"` uses that a language model's labels are its inputs, which finds more. Meant for one short record.
"""

from __future__ import annotations

from dataclasses import dataclass

from zkaudit.attacks.matching.distance import Distance, squared
from zkaudit.attacks.matching.dummy import Labels
from zkaudit.attacks.matching.search import Matching


@dataclass(frozen=True)
class DLG(Matching):
    """Squared distance; labels optimised along with the vectors."""

    labels: Labels = "optimised"

    def distance(self) -> Distance:
        """Sum of squares."""
        return squared
