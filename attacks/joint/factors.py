"""Several records read off the first layer exactly, as long as they are no more than its inputs and units: sparse factors.

The layer's update is U = -sum x_s g_s^T = -X^T G with X (n, d + 1) holding the records and ones, G (n, h) the errors that came
back, summed over steps. The rows of G span the row space of U, and each is zero at the units that never fired for its record.
So: draw n - 1 units, take the one vector of the row space that is zero there, and keep it if it is zero at more units than was
asked for; n independent ones of the sparsest are G up to scale, X follows from U G^+, and its last column, which is ones, sets
the scale. Source: Dimitrov et al. 2024, "SPEAR: exact gradient inversion of batches in federated learning", arXiv 2403.03945.
Their check of a whole batch, by the gradient it would have, is replaced by one of each record, by the grid (`ratios.py`); local
steps do not disturb U's form, since inputs do not move with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint.client import Found, Seen
from zkaudit.attacks.joint.ratios import CLAIM, distinct, on_grid

ZERO = 1e-7  # entries of a factor smaller than this, relative to its largest, are zero
SAME = 0.05  # candidates that the others make up to this share of their length are no new ones
RANK = 1e-10  # of singular values, relative to the largest
BLOCK = 2048  # draws at a time


@dataclass(frozen=True)
class SparseFactors:
    """`draws` sets of units are tried; the chance that one shows a record halves with each record more."""

    draws: int = 32768
    orders: int = 64  # in which candidates are joined
    false_hits: float = CLAIM
    zero: float = ZERO
    seed: int = 0
    name: str = "sparse_factors"

    def run(self, seen: Seen) -> Found:
        """AuditError if the update's rank cannot tell as many records apart as are behind it."""
        moved, n = seen.update[0], seen.records
        _, singular, right = torch.linalg.svd(moved, full_matrices=False)
        rank = int((singular > RANK * singular[0]).sum())
        if rank < n:
            raise AuditError(f"{n} different records are behind the update, whose first layer shows {rank} directions only")
        generator = torch.Generator().manual_seed(self.seed)
        candidates = _sparse(right[:n], self.draws, self.zero, generator)
        best = moved.new_zeros(0, seen.inputs)
        for attempt in range(self.orders if len(candidates) >= n else 0):
            records = _records(moved, _independent(candidates, n, attempt, generator))
            chance = on_grid(records, seen.grid)
            claims = distinct(records[chance * self.orders * n < self.false_hits], seen.grid)
            best = max(best, claims, key=len)
            if len(best) == n:
                break
        stages = {"records": n, "directions": rank, "sparse candidates": len(candidates), "claimed": len(best)}
        return Found(best, len(best), None, stages)

    def guess(self, seen: Seen) -> Tensor | None:
        """The records (n, d) of the sparsest factors, on the grid or not: for updates that were disturbed. None if too few."""
        moved, n = seen.update[0], seen.records
        generator = torch.Generator().manual_seed(self.seed)
        if n > min(moved.shape):
            return None
        right = torch.linalg.svd(moved, full_matrices=False)[2]
        factors = _independent(_sparse(right[:n], self.draws, self.zero, generator), n, 0, generator)
        return _records(moved, factors) if len(factors) == n else None


def _sparse(rows: Tensor, draws: int, zero: float, generator: torch.Generator) -> Tensor:
    """Different vectors (m, h) of the span of `rows` (n, h) with at least n zeros, most zeros first."""
    n, units = rows.shape
    if n == 1:
        return rows
    found: dict[tuple[int, ...], tuple[int, Tensor]] = {}
    for _ in range(0, draws, BLOCK):
        chosen = torch.rand(BLOCK, units, generator=generator).argsort(1)[:, : n - 1]
        _, singular, right = torch.linalg.svd(rows.T[chosen], full_matrices=True)  # (BLOCK, n - 1, n)
        vectors = right[:, -1] @ rows
        vectors = vectors / vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
        zeros = (vectors.abs() < zero).sum(1)
        good = (zeros >= n) & (singular[:, -1] > 1e-6 * singular[:, 0])
        for vector, count in zip(vectors[good], zeros[good].tolist(), strict=True):
            found.setdefault(tuple((vector / (100 * zero)).round().int().tolist()), (count, vector))
    ordered = sorted(found.values(), key=lambda one: -one[0])
    return torch.stack([vector for _, vector in ordered]) if ordered else rows[:0]


def _independent(candidates: Tensor, n: int, attempt: int, generator: torch.Generator) -> Tensor:
    """Up to n independent candidates, the sparsest first, with some left out at random after the first attempt."""
    order = range(len(candidates))
    if attempt:
        order = [i for i in order if float(torch.rand(1, generator=generator)) > 0.3]
    basis = candidates[:0]
    chosen = []
    for i in order:
        vector = candidates[i] / candidates[i].norm()
        rest = vector - basis.T @ (basis @ vector)
        if float(rest.norm()) > SAME:
            basis = torch.cat([basis, (rest / rest.norm())[None]])
            chosen.append(i)
        if len(chosen) == n:
            break
    return candidates[chosen]


def _records(moved: Tensor, factors: Tensor) -> Tensor:
    """The records (n, d) that go with these errors (n, h)."""
    found = (moved @ torch.linalg.pinv(factors)).T
    scale = found[:, -1:]
    return found[:, :-1] / torch.where(scale.abs() < 1e-300, torch.full_like(scale, torch.inf), scale)
