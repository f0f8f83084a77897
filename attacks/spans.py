"""Subspaces of observed rows, and how far a candidate lies from one, as a calibrated p-value.

For an observed k-dimensional subspace of an m-dimensional space and a unit vector of random direction, the squared distance
is Beta((m - k) / 2, k / 2). So a distance has a p-value, and V candidates have V p expected false hits below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor

from zkaudit.attacks.errors import AuditError


@dataclass(frozen=True)
class Subspace:
    """`basis` (m, k) has orthonormal columns; `singular` are all singular values of the rows it came from, largest first."""

    basis: Tensor
    singular: Tensor

    @property
    def rank(self) -> int:
        """k."""
        return self.basis.shape[1]

    @property
    def dimension(self) -> int:
        """m."""
        return self.basis.shape[0]

    def distances(self, candidates: Tensor) -> Tensor:
        """sin of the angle between each candidate (..., m) and the subspace, in [0, 1]; 1 for a candidate that is zero."""
        candidates = candidates.to(self.basis.dtype)
        norms = candidates.norm(dim=-1, keepdim=True)
        unit = candidates / norms.clamp_min(1e-300)
        residual = unit - (unit @ self.basis) @ self.basis.T
        return torch.where(norms[..., 0] > 0, residual.norm(dim=-1), 1.0).clamp(0, 1)

    def p_values(self, distances: Tensor) -> Tensor:
        """Of the distances, under the null that a candidate's direction is uniform."""
        return beta_p_values(distances, self.dimension, self.rank)


def subspace(rows: Tensor, rank: int | None = None, relative: float | None = None) -> Subspace:
    """Row space of `rows` (q, m), of a given rank, or of the singular values above `relative` times the largest.

    With neither, the rank is `gap_rank`'s. Computed in float64.
    """
    rows = rows.double()
    if not torch.isfinite(rows).all():
        raise AuditError("an update holds NaN or infinity")
    _, singular, right = torch.linalg.svd(rows, full_matrices=False)
    if rank is None:
        if relative is None:
            rank = gap_rank(singular)
        else:
            rank = int((singular > relative * singular[0]).sum()) if singular[0] > 0 else 0
    return Subspace(right[:rank].T.contiguous(), singular)


def gap_rank(singular: Tensor, precision: float = 2.0**-24) -> int:
    """How many singular values stand above rounding: those before the widest gap that begins above and ends near the floor.

    Rounding of entries at `precision` leaves singular values of up to about 30 precision s_0; a gap counts if it is at least
    tenfold and ends below that. Without one the rows have full rank.
    """
    s = singular.double().cpu().numpy()
    if len(s) == 0 or s[0] <= 0:
        return 0
    s = np.maximum(s / s[0], 1e-18)
    ratios = s[:-1] / s[1:]
    gaps = np.flatnonzero((s[1:] < 30 * precision) & (ratios > 10))
    if len(gaps) == 0:
        return int((s > precision).sum())
    return int(gaps[ratios[gaps].argmax()]) + 1


def beta_p_values(distances: Tensor, dimension: int, rank: int) -> Tensor:
    """P(distance <= d) for a uniform direction and a `rank`-dimensional subspace of `dimension` dimensions."""
    if rank <= 0:
        return torch.ones_like(distances)
    if rank >= dimension:
        return torch.ones_like(distances)  # everything lies in the whole space: no evidence
    squared = distances.double().clamp(0, 1).square().cpu().numpy()
    return torch.from_numpy(np.asarray(stats.beta.cdf(squared, (dimension - rank) / 2, rank / 2))).to(distances.device)


def fisher(parts: Sequence[Tensor]) -> Tensor:
    """log p of p-values taken together, by Fisher's rule, from the log p (N,) of each, on the host.

    With s = -sum log p of k independent ones, 2 s is chi-squared with 2 k degrees of freedom: p = exp(-s) sum_i<k s^i / i!.
    The product alone, exp(-s), is no p-value. In this form nothing underflows, so that the order of tiny ones is kept.
    """
    s = -torch.stack(list(parts)).sum(0).double().numpy()
    order = np.arange(len(parts))
    terms = special.xlogy(order, s[:, None]) - special.gammaln(order + 1)
    return torch.from_numpy(np.minimum(special.logsumexp(terms, axis=1) - s, 0.0))
