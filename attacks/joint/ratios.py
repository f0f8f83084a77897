"""Records read off the first layer: where a unit answers one record only, its weights' update over its bias's is that record.

With the layer's inputs x_s and the errors g_s that come back to it, summed over all steps and places,

    dW[:, j] = -sum rate g_sj x_s,   db[j] = -sum rate g_sj,   so  dW[:, j] / db[j] = x_s  if g_sj is zero but for one record

exactly (Phong et al. 2018, "Privacy-preserving deep learning via additively homomorphic encryption"; Geiping et al.
2020, proposition 3.1). Of one record every unit that moved shows it; of many, ReLU units that fired for one of them alone. A
mixture of records is told from a record by the grid of the fixed-point inputs: a ratio's k entries that are not zero all lie
within r of a multiple of the grid by chance with probability (2 r)^k.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint.client import GRID_RANGE, Found, Seen
from zkaudit.attacks.joint.labels import sole_label
from zkaudit.attacks.joint.reading import Reading, first_layer

CLAIM = 0.01  # false ones that are expected among all claims
SILENT = 1e-12  # a bias that moved less, relative to the layer's largest movement, has not moved


@dataclass(frozen=True)
class Ratios:
    """Claims ratios on the grid; with one record behind the update it also guesses, by least squares over all units."""

    false_hits: float = CLAIM
    name: str = "ratios"

    def run(self, seen: Seen) -> Found:
        """AuditError if no unit of the first layer moved, or what moved there are no records times errors."""
        if not seen.method.is_plain:
            return self._guessed(seen, first_layer(seen))
        values = unit_ratios(seen)
        near = values[on_grid(values, seen.grid) * len(values) < self.false_hits]
        claims = (_agreed if seen.method.fp8 and seen.records > 1 else distinct)(near, seen.grid)[: seen.records]
        stages = {"units of the first layer": seen.start[0].shape[1], "units that moved": len(values), "claimed": len(claims)}
        records = claims if len(claims) or seen.records > 1 else regression(seen)[None]
        return Found(records, len(claims), sole_label(seen), stages)

    def _guessed(self, seen: Seen, reading: Reading) -> Found:
        """Without claims: what is read is rounded."""
        if not reading.has_ones:
            raise AuditError("LoRA's adapters have no bias to divide by")
        if seen.records > 1 and not reading.is_sparse:
            raise AuditError("every unit answers all records: the method mixes the units' errors, or Adam their sizes")
        if seen.records > 1:
            return Found(guesses(seen), 0)
        leading = torch.linalg.svd(reading.moved, full_matrices=False)[0][:, 0]
        return Found((leading[:-1] / leading[-1]).nan_to_num()[None], 0, sole_label(seen))


def unit_ratios(seen: Seen) -> Tensor:
    """Ratio of each unit that moved, (units, d), the one whose bias moved most first."""
    moved = seen.update[0]
    size = moved[-1].abs()
    order = size.argsort(descending=True, stable=True)
    order = order[size[order] > SILENT * moved.abs().max()]
    if not len(order):
        raise AuditError("the biases of the first layer did not move, so there is nothing to divide by")
    return (moved[:-1, order] / moved[-1, order]).T


def regression(seen: Seen) -> Tensor:
    """The one record (d,) whose multiples the units' updates are, by least squares: entries may be disturbed or left out."""
    weights, bias = seen.update[0][:-1], seen.update[0][-1]
    sent = (weights != 0) & (bias != 0) if seen.partial else torch.ones_like(weights, dtype=torch.bool)
    return (weights * bias * sent).sum(1) / (bias.square() * sent).sum(1).clamp_min(1e-300)


def guesses(seen: Seen) -> Tensor:
    """As many records as are behind the update, (n, d): claims, then the ratios that other units' come nearest to.

    Two units agree where both answer the same record alone. What lies nearer to a record already chosen than to its own nearest
    ratio is taken for the same record.
    """
    values = unit_ratios(seen)
    limit = GRID_RANGE * seen.grid
    chosen = list(distinct(values[on_grid(values, seen.grid) * len(values) < CLAIM], seen.grid)[: seen.records])
    pool = values[: max(2 * seen.records, len(values) // 2)].clamp(-limit, limit)
    apart = torch.cdist(pool, pool).fill_diagonal_(torch.inf)
    lonely = apart.amin(1)
    for i in lonely.argsort(stable=True).tolist():
        if len(chosen) == seen.records:
            break
        if not chosen or float((torch.stack(chosen) - pool[i]).norm(dim=1).amin()) > 2 * float(lonely[i].clamp_max(1e9)):
            chosen.append(pool[i])
    chosen += [pool[i % len(pool)] for i in range(seen.records - len(chosen))]
    return torch.stack(chosen)


def on_grid(values: Tensor, grid: float) -> Tensor:
    """For each row of (m, d) the probability that a random one is as near to the grid; 1 for what no record can be."""
    places = values / grid
    nearest = places.round()
    told = nearest != 0
    far = ((places - nearest).abs() * told).amax(1).clamp(1e-12, 0.5)
    chance = (2 * far).pow(told.sum(1))
    possible = told.any(1) & (nearest.abs() <= GRID_RANGE).all(1)
    return torch.where(possible, chance, torch.ones_like(chance))


def distinct(values: Tensor, grid: float) -> Tensor:
    """Rows rounded to the grid, each once, in their order."""
    rows = dict.fromkeys(tuple(row) for row in (values / grid).round().tolist())
    return torch.tensor(list(rows), dtype=values.dtype).reshape(-1, values.shape[1]) * grid


def _agreed(values: Tensor, grid: float) -> Tensor:
    """Of those distinct what two units show: FP8 has few errors, so that ratios of them put many a mixture on the grid too."""
    rows = Counter(tuple(row) for row in (values / grid).round().tolist())
    found = [row for row, count in rows.items() if count > 1]
    return torch.tensor(found, dtype=values.dtype).reshape(-1, values.shape[1]) * grid
