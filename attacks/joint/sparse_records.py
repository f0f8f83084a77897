"""Records found by their own zeros, in a subspace that an update shows: what GaLore's bases and LoRA's A' give away.

The columns of what is read (`reading.py`) span a space of dimension k that holds the records, or most of them. A record is zero
at some inputs (a pixel, a word that is absent), a mixture of records only where all of them are. So: draw k - 1 inputs, take
the one vector of the space that is zero there, and keep it if it is zero at more inputs than was asked for; those with most
zeros are the records up to scale. It is the search of `factors.py` (Dimitrov et al. 2024) with inputs in the place of errors.
With ones among what is read the last entry sets the scale. Without (LoRA) the grid does: the shape of whole numbers tells them
up to a common factor, which is taken to be the same for all records, the one at which simulated training moves the weights as
observed (`unrolled.py`); signs are such that records are positive in sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint.client import GRID_RANGE, Found, Seen
from zkaudit.attacks.joint.factors import apart
from zkaudit.attacks.joint.labels import sole_label
from zkaudit.attacks.joint.reading import EXACT, ROUNDED, Reading, first_layer
from zkaudit.attacks.joint.unrolled import distance, fitted_scale

BLOCK = 2048  # draws at a time
POOL = 64  # candidates for one record that are tried in simulated training
NEARLY = 1e-7  # of a shape's largest entry: how far from whole numbers whole ones may seem
SAME = 0.1  # of a vector's length that must lie outside what was found before
SMALL_ONE = 0.1  # of a vector's largest entry: a record's one is more, so its inputs lie below 10


@dataclass(frozen=True)
class SparseRecords:
    """`zero` and `rounded_zero` count as zero, relative to a vector's largest entry, exactly and where the method rounds."""

    draws: int = 16384
    zero: float = 1e-6
    rounded_zero: float = 0.01
    extra: int = 2  # zeros more than were asked for
    most_directions: int = 12
    seed: int = 0
    name: str = "sparse_records"

    def run(self, seen: Seen) -> Found:
        """AuditError if the space is too large, or no vector of it has zeros of its own."""
        reading = first_layer(seen)
        k = reading.directions
        if k > min(self.most_directions, seen.inputs // 2):
            raise AuditError(f"the first layer shows {k} directions, in which zeros of single records are not searched for")
        space = torch.linalg.svd(reading.moved, full_matrices=False)[0][:, :k].T
        candidates = self._vectors(space, reading)
        label = sole_label(seen)
        is_sole = reading.has_ones and label is not None and k > 1
        if not len(candidates) and not is_sole:
            raise AuditError(f"no vector of the {k} directions that the first layer shows has zeros of its own")
        if not reading.has_ones:
            shapes = apart(candidates, k, SAME)[: seen.records]
            records = fitted_scale(seen, torch.stack([_whole(shape) for shape in shapes]) * seen.grid)
        elif label is not None and is_sole:
            records = _matching(seen, _with_ones(torch.cat([candidates[:POOL], _columns(reading)])), label)
        else:
            records = _with_ones(apart(candidates, k, SAME)[: seen.records])
        return Found(records, 0, label, {"records": seen.records, "directions": k, "vectors": len(records)})

    def _vectors(self, space: Tensor, reading: Reading) -> Tensor:
        """Vectors (m, d or d + 1) of the space (k, ...), those with most zeros first."""
        k, width = space.shape
        inputs = space[:, : width - reading.has_ones]
        if k == 1:
            return _usable(space, reading)
        zero, still = (self.zero, EXACT) if reading.is_exact else (self.rounded_zero, ROUNDED)
        active = (inputs.norm(dim=0) > still * inputs.norm(dim=0).max()).nonzero().flatten()
        if len(active) < k + self.extra:
            return space[:0]
        generator = torch.Generator().manual_seed(self.seed)
        best = [space[:0]]
        for _ in range(0, self.draws, BLOCK):
            chosen = active[torch.rand(BLOCK, len(active), generator=generator).argsort(1)[:, : k - 1]]
            _, singular, right = torch.linalg.svd(inputs.T[chosen], full_matrices=True)
            vectors = _usable(right[:, -1][singular[:, -1] > 1e-6] @ space, reading)
            best.append(vectors[(vectors[:, active].abs() < zero).sum(1) >= k - 1 + self.extra])
        found = torch.cat(best)
        zeros = (found[:, active].abs() < zero).sum(1)
        return found[zeros.argsort(descending=True, stable=True)]


def _columns(reading: Reading) -> Tensor:
    """The direction that most units share, then each unit's own: that of a unit that moved little may be the purest."""
    leading = torch.linalg.svd(reading.moved, full_matrices=False)[0][:, :1].T
    return _usable(torch.cat([leading, reading.moved.T[reading.moved.any(0)]]), reading)


def _with_ones(vectors: Tensor) -> Tensor:
    """The records (m, d) of vectors (m, d + 1)."""
    return vectors[:, :-1] / vectors[:, -1:]


def _matching(seen: Seen, records: Tensor, label: Tensor) -> Tensor:
    """Of guesses of the one record (m, d) the one whose simulated training moves the weights most alike, (1, d)."""
    target = torch.nn.functional.one_hot(label, seen.outputs).to(records)
    apart = [float(distance(seen, record[None], target)) for record in records]
    best = min(range(len(apart)), key=apart.__getitem__)
    return records[best : best + 1]


def _whole(shape: Tensor) -> Tensor:
    """The smallest whole numbers in proportion to the entries, the largest of which is one in size; else as it is."""
    least = torch.full((1,), torch.inf, dtype=shape.dtype)
    for first in range(1, GRID_RANGE, BLOCK):
        factors = torch.arange(first, min(first + BLOCK, GRID_RANGE), dtype=shape.dtype)
        scaled = factors[:, None] * shape
        fits = ((scaled - scaled.round()).abs().amax(1) < NEARLY * factors).nonzero().flatten()
        if len(fits):
            least = factors[fits[:1]]
            break
    return (shape * least).round() if bool(least.isfinite()) else shape * GRID_RANGE / 2


def _usable(vectors: Tensor, reading: Reading) -> Tensor:
    """Scaled to a largest entry of one, positive in sum; without those that have no one where ones are read."""
    vectors = vectors / vectors.abs().amax(1, keepdim=True)
    if not reading.has_ones:
        return vectors * vectors.sum(1, keepdim=True).sign()
    vectors = vectors * vectors[:, -1:].sign()
    return vectors[vectors[:, -1] > SMALL_ONE]
