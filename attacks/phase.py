"""Phase diagram: how much of a batch is recovered, over tokens behind an update (n) and rank that it shows (K).

The vectors are those that this model gives its vocabulary (a sample of it, if it is large) where a token is seen alone; only
the coefficients are random, with heavy tails as errors have. So it answers for any batch and rank of this model in seconds.
"""

from __future__ import annotations

from typing import Any

import torch

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import Dependence, token_activations
from zkaudit.attacks.sparse import SAMPLE, PursuitOptions, pursue
from zkaudit.attacks.taps import groups

RANKS = (1, 2, 4, 8, 16, 32, 64)
TOKENS = (8, 16, 32, 64, 128, 256)
NOTE = "Vectors are this model's, coefficients random with heavy tails; one draw for each cell."
VOCABULARY = 4096  # candidates at most


def diagram(model: PublicModel, seed: int = 0, progress: Progress = silent) -> dict[str, Any] | None:
    """{"ranks", "tokens", "recall": a row for each rank, "note"}; None if nothing trained sees single tokens as they are."""
    seen = [g for g in groups(model) if g.dependence <= Dependence.POSITION and g.taps[0].space == "input"]
    if not seen:
        return None
    generator = torch.Generator().manual_seed(seed)
    atoms = token_activations(model, seen[0].site, 0).double()
    norms = atoms.norm(dim=1)
    atoms = atoms[norms > 1e-6 * norms.max()]
    atoms = atoms[torch.randperm(len(atoms), generator=generator)[:VOCABULARY].to(atoms.device)]
    unit = (atoms / atoms.norm(dim=1, keepdim=True)).float()
    ranks = [rank for rank in RANKS if rank <= atoms.shape[1]]
    tokens = [count for count in TOKENS if count < min(len(atoms) // 4, 2 * atoms.shape[1])]
    if not tokens:
        raise AuditError("the model's width and vocabulary are too small for a phase diagram")
    recall = []
    for number, rank in enumerate(ranks):
        recall.append([_recall(atoms, unit, rank, count, generator) for count in tokens])
        progress("drawing the phase diagram", (number + 1) / len(ranks))
    return {"ranks": ranks, "tokens": tokens, "recall": recall, "note": NOTE}


def _recall(atoms: torch.Tensor, unit: torch.Tensor, rank: int, count: int, generator: torch.Generator) -> float:
    """Of one draw: share of the `count` tokens among as many first picks."""
    true = torch.randperm(len(atoms), generator=generator)[:count]
    size = torch.randn(count, generator=generator, dtype=torch.float64).exp()  # some errors are far larger than others
    mix = torch.randn(rank, count, generator=generator, dtype=torch.float64) * size
    rows = (mix.to(atoms) @ atoms[true.to(atoms.device)]).float()
    everywhere = torch.full((len(atoms),), -1, device=atoms.device)
    sample = torch.randperm(len(atoms), generator=generator)[:SAMPLE].to(atoms.device)
    picks = pursue([(unit, rows)], everywhere, count, count, sample, len(atoms), PursuitOptions())
    return len(set(picks.order) & set(true.tolist())) / count
