"""Joint sparse pursuit: which few candidates span the observed rows, far beyond the rank of those rows.

Rows Y (k, m) of an update are Y = C X, where the rows of X (n, m) are the vectors of n tokens of N candidates; C is unknown.
With n <= k the span of Y is the span of X and a candidate lies in it or not: the span test. With n > k it does not, but Y is
still k measurements that share one sparse representation over the candidates, and those can be found while n is below about m:
the rank bounds what a subspace shows, not what the rows hold. Candidates are taken one at a time, each by the share of its
direction (away from those already taken) that lies in the row space of what is not explained yet, which is the span test at the
first step and rank-aware order-recursive matching pursuit (Davies and Eldar 2012) after it.

A step's score has the null Beta(k / 2, (m' - k) / 2) for a candidate of random direction, where m' is fitted to a random sample
of the candidates, since embeddings are not isotropic. Picks are claimed as long as each has fewer than `false_hits` expected;
beyond the first that has not, up to the last one with fewer than `false_hits` over the number of picks, since any of them may
be the last by chance; or altogether if few picks explain everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.spans import fisher

SAMPLE = 1024  # candidates that stand for all others when the null is fitted
WHOLE = 1e-4  # of an atom left outside the rows, on average: no more than rounding leaves
EXPLAINED = 1e-5  # of the rows' norm left: as good as nothing in float32
FEW = 0.75  # as many picks as there are dimensions explain anything; up to this share of them they must be right
CLOSE = 64  # candidates by mean score of which the p-values are compared
AT_ONCE, CERTAIN, ALIKE = 8, 1e-20, 0.15  # several are taken at once if each is certain and they are not alike


@dataclass(frozen=True)
class PursuitOptions:
    """`pool`: candidates kept after a first look at all; `floor`: share of the mean energy under which a direction is noise.

    Where picks do not explain everything though the rank is below what it could be, so that weak directions cannot be noise,
    `low_floor` is tried too.
    """

    false_hits: float = 0.05
    pool: int = 20_000
    floor: float = 1e-4
    low_floor: float = 0.0
    most: int | None = None  # picks; what the settings allow if None


@dataclass
class Part:
    """One piece of evidence during a pursuit: unit atoms (N, m), the residual rows (k, m), and what follows from them.

    `floor` is the share of the residual's mean energy under which a direction is noise.
    """

    atoms: Tensor
    residual: Tensor
    floor: float
    inner: Tensor = field(init=False)  # atoms @ residual.T
    free: Tensor = field(init=False)  # squared norm of what the picks leave of each atom
    taken: Tensor = field(init=False)  # (picks, m), orthonormal

    def __post_init__(self) -> None:
        self.taken = self.atoms[:0]
        self.inner = self.atoms @ self.residual.T
        self.free = self.atoms.new_ones(len(self.atoms))
        self.energy = float(self.residual.square().sum())
        self.least = max(self.floor * self.energy / len(self.residual), 1e-12 * self.energy)

    def with_atoms(self, atoms: Tensor) -> Part:
        """The same residual, after the same picks, before other candidates (N', m)."""
        other = Part(atoms, self.residual, self.floor)
        other.energy, other.taken = self.energy, self.taken
        other.least = max(other.least, 1e-12 * self.energy)
        other.free = 1 - (atoms @ self.taken.T).square().sum(1)
        return other

    def scores(self) -> tuple[Tensor, float]:
        """Of all atoms, in [0, 1], and the effective rank of the residual."""
        values, vectors = torch.linalg.eigh((self.residual @ self.residual.T).double())
        values = values.clamp_min(0)
        whitened = self.inner @ (vectors / (values + self.least).sqrt()).to(self.inner.dtype)
        score = whitened.square().sum(1) / self.free.clamp_min(1e-6)
        return torch.where(self.free > 1e-3, score, -1.0), float((values / (values + self.least)).sum())

    def take(self, picks: Sequence[int]) -> None:
        """Explain the rows by these atoms too; reads all atoms once."""
        before = len(self.taken)
        for pick in picks:
            direction = self.atoms[pick].clone()
            for _ in range(2):  # twice is enough for orthogonality in float32
                direction -= (self.taken @ direction) @ self.taken
            self.taken = torch.cat([self.taken, direction[None] / direction.norm().clamp_min(1e-12)])
        new = self.taken[before:]
        along = self.atoms @ new.T
        weights = self.residual @ new.T
        self.residual = self.residual - weights @ new
        self.inner -= along @ weights.T
        self.free -= along.square().sum(1)

    @property
    def left(self) -> float:
        """Share of the rows' norm that the picks do not explain."""
        left: float = float(self.residual.norm()) / max(self.energy, 1e-300) ** 0.5
        return left


@dataclass(frozen=True)
class Picks:
    """Indices of candidates in the order in which they were taken, expected false hits of each; `claimed` of them stand."""

    order: list[int]
    false_hits: list[float]
    claimed: int
    left: float


def pursue(
    parts: Sequence[tuple[Tensor, Tensor]],
    places: Tensor,
    most: int,
    most_at_place: int,
    sample: Tensor,
    total: int,
    options: PursuitOptions,
    progress: Progress = silent,
) -> Picks:
    """Pursue over parts (unit atoms (N, m), rows (k, m)), which all list the same N candidates out of `total`.

    At most `most` are taken, and `most_at_place` of those with the same entry in `places` (N,), unless that is negative.
    `sample` are indices of candidates that were drawn at random.
    """
    work = [Part(atoms, rows, options.floor) for atoms, rows in parts]
    order: list[int] = []
    hits: list[float] = []
    dimension = max(part.atoms.shape[1] for part in work)
    limit = min(most, dimension - 1)
    closed = torch.zeros_like(places, dtype=torch.bool)
    at_place: Counter[int] = Counter()
    while len(order) < limit:
        scored = [part.scores() for part in work]
        together = torch.stack([score for score, _ in scored]).mean(0).masked_fill(closed, -2.0)
        near = together.topk(min(CLOSE, len(together))).indices
        candidates, at = near.tolist(), places[near].tolist()
        log_p = fisher(
            [
                log_p_values(score[near], rank, score[sample], part.atoms.shape[1] - len(order))
                for part, (score, rank) in zip(work, scored, strict=True)
            ]
        )
        picks: list[int] = []
        for chosen in log_p.argsort(stable=True).tolist():
            best, place, wrong = candidates[chosen], at[chosen], float(log_p[chosen].exp()) * total
            if picks and (len(picks) == AT_ONCE or len(order) == limit or wrong > CERTAIN):
                break
            if closed[best] or _alike(work, best, picks):
                continue
            picks.append(best)
            order.append(best)
            hits.append(wrong)
            at_place[place] += 1
            closed[best] = True
            if place >= 0 and at_place[place] >= most_at_place:
                closed |= places == place
        if not picks:  # all are taken, or stand where no more may
            break
        for part in work:
            part.take(picks)
        progress("pursuing tokens", len(order) / limit)
        if max(part.left for part in work) < EXPLAINED:
            break
    if len(order) <= FEW * dimension and max(part.left for part in work) < EXPLAINED:
        return Picks(order, hits, len(order), max(part.left for part in work))
    return Picks(order, hits, _claimed(hits, options.false_hits, limit), max(part.left for part in work))


def _alike(parts: Sequence[Part], atom: int, picks: Sequence[int]) -> bool:
    """Whether an atom resembles one of the picks, so that taking the pick away may explain it too."""
    return any(float((part.atoms[list(picks)] @ part.atoms[atom]).abs().max()) > ALIKE for part in parts) if picks else False


def _claimed(hits: Sequence[float], bound: float, picks: int) -> int:
    """How many picks are claimed of those with these expected false hits."""
    first = next((number for number, value in enumerate(hits) if value >= bound), len(hits))
    return max([first, *(number + 1 for number, value in enumerate(hits) if value < bound / picks)])


def compressed(rows: Tensor) -> Tensor:
    """As many rows as there is rank, with the same row space and energy."""
    _, singular, right = torch.linalg.svd(rows.double(), full_matrices=False)
    kept = singular > 1e-7 * singular[0]
    kept_rows: Tensor = (singular[kept, None] * right[kept]).float()
    return kept_rows


def log_p_values(score: Tensor, rank: float, null: Tensor, dimension: int) -> Tensor:
    """log P(score or more) under a Beta with the mean of the `null` scores, on the host; 0 where there is nothing to tell."""
    null = null[null >= 0]
    if rank < 1e-6 or dimension < 2 or len(null) == 0:
        return torch.zeros(len(score), dtype=torch.float64)
    mean = float(np.clip(float(null.double().mean()), 1e-9, 1.0))
    if mean > 1 - WHOLE:  # the rows fill what candidates span: every candidate lies in it
        return torch.zeros(len(score), dtype=torch.float64)
    alpha = rank / 2
    beta = max(alpha * (1 - mean) / mean, 1e-3)
    values = score.double().clamp(0, 1).cpu().numpy()
    return torch.from_numpy(np.maximum(stats.beta.logsf(values, alpha, beta), -1e4) - 1e-3 * (values >= 1) * values)
