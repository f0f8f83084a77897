"""Fira: GaLore, and what it leaves out of the gradient as well (Chen et al. 2024, arXiv 2410.01623).

    phi_j = ||N_j|| / (||R_j|| + 1e-8)     for each column j of R = U^T G (row, if the basis is on the right)
    S     = (G - U R) phi,                 rescaled to ||S|| = 1.01 ||S_before|| where it is larger (and S_before not 0)
    W    -= lr sqrt(1 - b2^t) / (1 - b1^t) * (scale * U N + S)

N is AdamW's direction in the subspace, before bias correction (galore.py). State beyond GaLore's: the number ||S|| of the step
before. Defaults are GaLore's and, for the limiter, the paper's 1.01. "full" has R without rows or columns of G, so no phi.

The released package fira 1.0.2 multiplies U R by the scale in S too, so that with its scale of 0.25 S keeps three quarters of
the gradient inside the subspace: `residual="released"` does the same; at scale 1 both agree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.optim.galore import GaLoreAdamW
from zkaudit.training.optim.projection import Subspace

METHOD = Method(
    name="fira",
    title="Fira: full-rank updates from low-rank states",
    paper="Chen, Feng, Li, Lai, Yue, Yuan, Wang 2024, arXiv 2410.01623",
    where="zkaudit.training.optim.fira.FiraAdamW",
    changes=("memory",),
    effect="Lower loss than LoRA and GaLore at the same rank; at 7B an eighth of GaLore's optimizer states at a lower loss.",
    library="fira has the update rule, step by step equal; 8-bit states, seeds and resuming exactly are ours",
    provable="Not yet: its norms are square roots, for which GaLore's proofs have a relation (docs/proved-methods.md).",
    server_sees="A weight change of full rank: the gradient outside the subspace is in it, scaled by column.",
    use=(
        "from zkaudit.training.optim.fira import FiraAdamW\n"
        "from zkaudit.training.optim.galore import low_rank_groups\n"
        "\n"
        "optimizer = FiraAdamW(low_rank_groups(model, rank=128))"
    ),
    avoid="It needs whole gradients: it does not go with per_layer(..., accumulate=k), nor with projection='full'.",
)

TINY = 1e-8


class FiraAdamW(GaLoreAdamW):
    """GaLoreAdamW with the residual. `limit` bounds the growth of its norm a step; `residual` is "orthogonal" or "released"."""

    def __init__(self, params: ParamsT, *args: Any, limit: float = 1.01, residual: str = "orthogonal", **options: Any) -> None:
        self._own = {"limit": limit, "residual": residual}
        super().__init__(params, *args, **options)
        self.defaults |= self._own

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(self._own | param_group)

    def full_update(
        self,
        state: dict[str, Any],
        group: dict[str, Any],
        subspace: Subspace,
        low: Tensor,
        direction: Tensor,
        gradient: Tensor | None,
    ) -> Tensor:
        if gradient is None:
            raise TrainingError("FiraAdamW needs whole gradients, not sums in the subspace: use GaLoreAdamW")
        inside = super().full_update(state, group, subspace, low, direction, gradient)
        reduced = 0 if subspace.left is not None else 1
        phi = direction.norm(dim=reduced, keepdim=True) / (low.norm(dim=reduced, keepdim=True) + TINY)
        kept = group["scale"] if group["residual"] == "released" else 1.0
        residual: Tensor = (gradient - subspace.up(low) * kept) * phi
        norm = residual.norm()
        if (before := state.get("residual_norm")) is not None:
            limiter = (norm / (before + TINY)).clamp_min(group["limit"]) / group["limit"]
            limiter = torch.where(before > 0, limiter, 1.0)
            residual, norm = residual / limiter, norm / limiter
        state["residual_norm"] = norm
        return inside + residual

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if group["rank"] is not None and group["projection"] == "full":
            raise TrainingError("projection='full' has no columns to scale the residual by: FiraAdamW takes any other")
        if not group["limit"] >= 1:
            raise TrainingError(f"limit={group['limit']!r} cannot be used: it must be 1 or more")
        if group["residual"] not in ("orthogonal", "released"):
            raise TrainingError(f"residual={group['residual']!r} cannot be used: it must be orthogonal or released")
