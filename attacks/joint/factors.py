"""Several records read off the first layer exactly, as long as they are no more than its inputs and units: sparse factors.

The layer's update is U = -sum x_s g_s^T = -X^T G with X (n, d + 1) holding the records and ones, G (n, h) the errors that came
back, summed over steps. The rows of G span the row space of U, and each is zero at the units that never fired for its record.
So: draw n - 1 units, take the one vector of the row space that is zero there, and keep it if it is zero at more units than was
asked for; n independent ones of those drawn most often are G up to scale, X follows from U G^+, and its last column, which is
ones, sets the scale. Source: Dimitrov et al. 2024, "SPEAR: exact gradient inversion of batches in federated learning",
arXiv 2403.03945. Their check of a whole batch, by the gradient it would have, is replaced by one of each record, by the grid
(`ratios.py`), and a part that is found is taken out before the search goes on. Local steps do not disturb U's form, since
inputs do not move with the weights.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint.client import Found, Seen
from zkaudit.attacks.joint.ratios import CLAIM, distinct, on_grid
from zkaudit.attacks.joint.reading import Reading, first_layer

ROUGHLY, ROUGH_DRAWS = 0.005, 8192  # zero, and how often to try, in updates that were disturbed
ZERO = 1e-7  # entries of a factor smaller than this, relative to its largest, are zero
SAME = 1e-3  # candidates that the others make up to this share of their length are no new ones
RANK = 1e-10  # of singular values, relative to the largest
POOL = 16  # of the likeliest candidates for each record
MOST_LEFT_OUT = 0.8  # of them, each time they are joined again
BLOCK = 2048  # draws at a time


@dataclass(frozen=True)
class SparseFactors:
    """`draws` sets of units are tried; the chance that one shows a record halves with each record more."""

    draws: int = 32768
    orders: int = 256  # in which candidates are joined
    false_hits: float = CLAIM
    zero: float = ZERO
    seed: int = 0
    name: str = "sparse_factors"

    def run(self, seen: Seen) -> Found:
        """AuditError if the update's rank cannot tell as many records apart as are behind it, or its errors are dense."""
        if not seen.method.is_plain:
            return self._rounded(seen, first_layer(seen))
        moved, n = seen.update[0], seen.records
        _, singular, right = torch.linalg.svd(moved, full_matrices=False)
        rank = int((singular > RANK * singular[0]).sum())
        if rank < n:
            raise AuditError(f"{n} different records are behind the update, whose first layer shows {rank} directions only")
        generator = torch.Generator().manual_seed(self.seed)
        factors, told = right[:n], torch.zeros(n, dtype=torch.bool)
        while not told.all():
            better, known = self._improved(seen, factors, told, generator)
            if int(known.sum()) <= int(told.sum()):
                break
            factors, told = better, known
        claims = distinct(_records(moved, factors)[told], seen.grid)
        return Found(claims, len(claims), None, {"records": n, "directions": rank, "claimed": len(claims)})

    def _improved(self, seen: Seen, factors: Tensor, told: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Other factors in place of those whose record is not told yet, and which records are told with them.

        A record on the grid means that all other factors are free of its errors. So the factors of records that are not told
        span the errors of just these, and the search goes on there, with fewer zeros asked for. A told record's own factor may
        still hold some of their errors: others of their span are tried in its place, one at a time.
        """
        moved, n = seen.update[0], len(factors)
        rest = _orthonormal(factors[~told])
        candidates = _sparse(rest, self.draws, self.zero, generator)
        own = [self._purer(factor, rest, generator) for factor in factors[told]]
        best = factors, told
        for attempt in range(self.orders if len(candidates) >= len(rest) else 0):
            chosen = _independent(candidates, len(rest), attempt, generator)
            if len(chosen) < len(rest):
                continue
            turn = int(torch.randint(len(own), (1,), generator=generator)) if own and attempt else -1
            other = int(torch.randint(1 << 30, (1,), generator=generator))
            picked = [some[other % len(some) if place == turn else 0] for place, some in enumerate(own)]
            joined = torch.cat([torch.stack(picked), chosen]) if picked else chosen
            known = on_grid(_records(moved, joined), seen.grid) * self.orders * n < self.false_hits
            if int(known.sum()) > int(best[1].sum()):
                best = joined, known
            if known.all():
                break
        return best

    def _purer(self, factor: Tensor, rest: Tensor, generator: torch.Generator) -> list[Tensor]:
        """What a factor may be without the rest's part: sparse vectors of the span of both, likeliest first; then itself."""
        span = _sparse(_orthonormal(torch.cat([factor[None], rest])), BLOCK, self.zero, generator)
        outside = (span - span @ rest.T @ rest).norm(dim=1) > SAME * span.norm(dim=1)
        return [*span[outside], factor]

    def _rounded(self, seen: Seen, reading: Reading) -> Found:
        """Guesses, for errors that are nearly zero and records that are nearly on the grid."""
        n, rank = seen.records, reading.directions
        if not reading.is_sparse:
            raise AuditError("the errors that are left in the first layer's update are dense: the method mixes the units'")
        if rank < n:
            raise AuditError(f"{n} different records are behind the update, whose first layer shows {rank} directions only")
        found = replace(self, zero=ROUGHLY, draws=ROUGH_DRAWS).guess(seen)
        if found is None:
            raise AuditError("no units at which records' errors are zero were found")
        return Found(found, 0, None, {"records": n, "directions": rank})

    def guess(self, seen: Seen) -> Tensor | None:
        """The records (n, d) of the likeliest factors, on the grid or not: for updates that were disturbed. None if too few."""
        moved, n = seen.update[0], seen.records
        generator = torch.Generator().manual_seed(self.seed)
        if n > min(moved.shape):
            return None
        right = torch.linalg.svd(moved, full_matrices=False)[2]
        factors = _independent(_sparse(right[:n], self.draws, self.zero, generator), n, 0, generator)
        return _records(moved, factors) if len(factors) == n else None


def _orthonormal(rows: Tensor) -> Tensor:
    rotated: Tensor = torch.linalg.svd(rows, full_matrices=False)[2]
    return rotated


def _sparse(rows: Tensor, draws: int, zero: float, generator: torch.Generator) -> Tensor:
    """Different vectors (m, h) of the span of `rows` (n, h) with at least n zeros, those drawn most often first.

    A factor is drawn by any units of its zeros, a sum of two factors only by those that include the one where they cancel.
    """
    n, units = rows.shape
    if n == 1:
        return rows
    found: dict[tuple[int, ...], Tensor] = {}
    hits: Counter[tuple[int, ...]] = Counter()
    for _ in range(0, draws, BLOCK):
        chosen = torch.rand(BLOCK, units, generator=generator).argsort(1)[:, : n - 1]
        _, singular, right = torch.linalg.svd(rows.T[chosen], full_matrices=True)  # (BLOCK, n - 1, n)
        vectors = right[:, -1] @ rows
        vectors = vectors / vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
        zeros = (vectors.abs() < zero).sum(1)
        good = (zeros >= n) & (singular[:, -1] > 1e-6 * singular[:, 0])
        for vector in vectors[good]:
            key = tuple((vector / (100 * zero)).round().int().tolist())
            found.setdefault(key, vector)
            hits[key] += 1
    return torch.stack([found[key] for key, _ in hits.most_common()]) if found else rows[:0]


def _independent(candidates: Tensor, n: int, attempt: int, generator: torch.Generator) -> Tensor:
    """Up to n independent candidates, the likeliest first, of which some are left out at random after the first attempt."""
    pool = candidates[: POOL * n]
    share, drawn = torch.rand(1, generator=generator), torch.rand(len(pool), generator=generator)
    return apart(pool[drawn >= share * MOST_LEFT_OUT * (attempt > 0)], n, SAME)


def apart(candidates: Tensor, most: int, least: float) -> Tensor:
    """Up to `most` of them in their order, of each of which at least that share of its length lies outside those before."""
    basis, chosen = candidates[:0], []
    for vector in candidates:
        unit = vector / vector.norm()
        rest = unit - basis.T @ (basis @ unit)
        if float(rest.norm()) > least:
            basis = torch.cat([basis, (rest / rest.norm())[None]])
            chosen.append(vector)
        if len(chosen) == most:
            break
    return torch.stack(chosen) if chosen else candidates[:0]


def _records(moved: Tensor, factors: Tensor) -> Tensor:
    """The records (n, d) that go with these errors (n, h)."""
    found: Tensor = (moved @ torch.linalg.pinv(factors)).T
    scale = found[:, -1:]
    return found[:, :-1] / torch.where(scale.abs() < 1e-300, torch.full_like(scale, torch.inf), scale)
