"""How unlikely it is that a wrong token comes so close: a null fitted to the distances of the whole vocabulary.

Squared distances of directions without preference are Beta((m - k)/2, k/2) (`spans`). Embeddings have preferences: tokens at
one position share its vector, trained ones crowd in a cone. Nearly all of the vocabulary is not in the batch, so a Beta is
fitted to the upper half of its distances; the p-value is the larger of the two, which is the careful one.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import optimize, special, stats
from torch import Tensor

LEVELS = (0.5, 0.9)  # quantiles to fit: tokens of the batch are all below them
SMALLEST = 1e-16  # of a squared distance: below it float32 activations say nothing


def log_p_values(distances: Tensor, dimension: int, rank: int) -> Tensor:
    """Natural logarithms of p-values, (V,), of distances of the whole vocabulary to a subspace."""
    if rank <= 0 or rank >= dimension:
        return torch.zeros(distances.shape, dtype=torch.float64)  # nothing was seen, or everything lies in the whole space
    squared = distances.double().square().clamp(SMALLEST, 1.0).cpu().numpy()
    shape = ((dimension - rank) / 2, rank / 2)
    isotropic = _log_cdf(squared, *shape)
    fitted = fit_beta(squared, shape)
    return torch.from_numpy(isotropic if fitted is None else np.maximum(isotropic, _log_cdf(squared, *fitted)))


def fit_beta(squared: np.ndarray, start: tuple[float, float]) -> tuple[float, float] | None:
    """Shape (a, b) of the Beta with the sample's quantiles at LEVELS; None if there is none."""
    wanted = np.quantile(squared, LEVELS)
    if not 0 < wanted[0] < wanted[1] < 1:
        return None

    def miss(logs: np.ndarray) -> np.ndarray:
        return np.asarray(special.betainc(*np.exp(np.clip(logs, -7, 12)), wanted)) - LEVELS

    found = optimize.root(miss, np.log(start), method="hybr")
    if not found.success or np.abs(found.fun).max() > 1e-3:
        center, spread = wanted[0], (wanted[1] - wanted[0]) / stats.norm.ppf(LEVELS[1])
        total = max(center * (1 - center) / spread**2 - 1, 1e-3)
        found = optimize.root(miss, np.log([center * total, (1 - center) * total]), method="hybr")
        if not found.success or np.abs(found.fun).max() > 1e-3:
            return None
    a, b = np.exp(found.x)
    return float(a), float(b)


def _log_cdf(squared: np.ndarray, a: float, b: float) -> np.ndarray:
    """log of Beta's distribution function, by its leading term where that underflows."""
    value = special.betainc(a, b, squared)
    leading = a * np.log(squared) - np.log(a) - special.betaln(a, b)
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(value > 1e-280, np.log(value), leading))


def discoveries(log_p: Tensor, rate: float) -> Tensor:
    """Benjamini-Hochberg: which hypotheses are rejected at this false discovery rate; a mask of the shape of `log_p`."""
    flat, order = log_p.flatten().sort()
    count = len(flat)
    steps = torch.arange(1, count + 1, dtype=torch.float64)
    passed = (flat <= torch.log(rate * steps / count)).nonzero()
    mask = torch.zeros(count, dtype=torch.bool)
    if len(passed):
        mask[order[: int(passed.max()) + 1]] = True
    return mask.view(log_p.shape)
