"""TAG (Deng et al. 2021): minimise ||grad(x', y') - g||^2 + alpha |grad(x', y') - g|, then read off the nearest tokens.

The paper uses 1000 iterations and an alpha that falls from layer to layer, tuned per model; here it is one number.
"""

from __future__ import annotations

from dataclasses import dataclass

from zkaudit.attacks.matching.distance import Distance, squared_and_absolute
from zkaudit.attacks.matching.dummy import Labels
from zkaudit.attacks.matching.search import Matching


@dataclass(frozen=True)
class TAG(Matching):
    """Squared plus `alpha` times absolute distance; labels optimised along with the vectors."""

    labels: Labels = "optimised"
    alpha: float = 0.01

    def distance(self) -> Distance:
        """Squares and absolute values."""
        return squared_and_absolute(self.alpha)
