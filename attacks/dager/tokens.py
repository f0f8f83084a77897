"""The token stage: which tokens, at which positions, lie in the span of the first layer's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress, Ranking
from zkaudit.attacks.dager.nulls import discoveries, log_p_values
from zkaudit.attacks.dager.options import DagerOptions
from zkaudit.attacks.dager.stages import Stage
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import Dependence, token_activations

CONSISTENT = 8.0  # times the distance that noise explains: more is not in the batch
FLOOR = 1e-5  # distances that float32 activations can have in any case
BINS = 40  # of the histogram of distances, over [0, 1]


@dataclass(frozen=True)
class Candidates:
    """`distances` and log p-values (P, V), nearest kind of segment each; `survivors[p]` are ids at position p, nearest first.

    Where the site does not know positions P is 1 and the list holds everywhere. `kinds[p]` is the kind of segment of each.
    """

    distances: Tensor
    log_p: Tensor
    survivors: list[list[int]]
    kinds: list[list[int]]
    positional: bool
    sure: bool = True  # noise explains the distances of as many as span the space: true inputs do span it

    def at(self, position: int) -> list[int]:
        """Survivors at a position; none beyond the last."""
        if not self.positional:
            return self.survivors[0]
        return self.survivors[position] if position < len(self.survivors) else []

    @property
    def count(self) -> int:
        return sum(map(len, self.survivors))

    def ranking(self, most: int, calibrated: bool) -> Ranking:
        """All survivors by distance, then the next likeliest tokens, at most `most` of those."""
        best, _ = self.distances.min(0)
        claimed = sorted({token for row in self.survivors for token in row}, key=lambda token: float(best[token]))
        score = -self.log_p.min(0).values if calibrated else -best
        rest = score.clone()
        if not score.any():  # no evidence either way: by distance
            score = rest = -best.double()
        rest[claimed] = -torch.inf
        others = rest.topk(min(most, len(rest) - len(claimed))).indices.tolist()
        ids = [*claimed, *others]
        return Ranking(ids, [float(score[token]) for token in ids], len(claimed))

    def histogram(self) -> dict[str, list[float]]:
        """Distances of the vocabulary, at every position: edges of bins and counts."""
        counts = torch.histc(self.distances.float(), BINS, 0.0, 1.0)
        return {"edges": torch.linspace(0, 1, BINS + 1).tolist(), "counts": counts.tolist()}


@contextmanager
def given(model: PublicModel, **more: Any) -> Iterator[None]:
    """Within the context the model's forward pass gets further arguments: segments, a mask."""
    handle = model.base.register_forward_pre_hook(lambda _m, args, kwargs: (args, {**kwargs, **more}), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def token_distances(model: PublicModel, stage: Stage, position: int, segment: int = 0) -> tuple[Tensor, Tensor]:
    """Of the whole vocabulary at a position, and what noise explains, (V,); the pad token, which is masked, is far away."""
    with given(model, **({"token_type_ids": torch.tensor([[segment]], device=model.device)} if segment else {})):
        far, explained = stage.measured(token_activations(model, stage.group.site, position))
    pad = model.tokenizer.pad_token_id
    if pad is not None and pad != model.tokenizer.eos_token_id:
        far[pad] = 1.0
    return far.cpu(), explained.cpu()


def candidates(
    model: PublicModel, stage: Stage, options: DagerOptions, longest: int, threshold: float, progress: Progress
) -> Candidates:
    """All positions up to `longest`, or (as published) up to the first where nothing survives.

    Published: distance below `threshold`. Calibrated: unlikely by chance (Benjamini-Hochberg over all positions and tokens);
    if those of them whose distance noise explains are enough to span the space, only those.
    """
    positional = stage.dependence is Dependence.POSITION
    kinds = options.token_types if positional else 1
    rows, segments, explained = [], [], []
    for position in range(longest if positional else 1):
        tables = [token_distances(model, stage, position, kind) for kind in range(kinds)]
        nearest, which = torch.stack([far for far, _ in tables]).min(0)
        rows.append(nearest)
        segments.append(which)
        explained.append(torch.stack([noise for _, noise in tables]).gather(0, which[None])[0])
        progress("testing tokens", (position + 1) / longest)
        if options.published and not (nearest < threshold).any():
            break
    distances = torch.stack(rows)
    sure = True
    if options.published:
        log_p = torch.zeros(distances.shape, dtype=torch.float64)
        passed = distances < threshold
    else:
        log_p = torch.stack([log_p_values(row, stage.dimension, stage.space.rank) for row in distances])
        passed = discoveries(log_p, options.false_discovery)
        consistent = passed & (distances <= (CONSISTENT * torch.stack(explained)).clamp_min(FLOOR))
        sure = int(consistent.sum()) >= stage.space.rank
        passed = consistent if sure else passed
    survivors, types = [], []
    for row, mask, which in zip(distances, passed, segments, strict=True):
        ids = mask.nonzero()[:, 0]
        ids = ids[row[ids].argsort()]
        survivors.append(ids.tolist())
        types.append(which[ids].tolist())
    while positional and survivors and not survivors[-1]:
        survivors.pop()
        types.pop()
    return Candidates(distances, log_p, survivors, types, positional, sure)
