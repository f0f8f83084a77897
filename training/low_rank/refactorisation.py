"""Weight refactorisation: every k updates the factors of W = B A are balanced again, the product unchanged.

B A = U S V^T, B := U sqrt(S), A := sqrt(S) V^T. Done from the factors in float64, O((m + n) r^2): B = Q R, A^T = P T, and the
r x r matrix R T^T has the singular values. Gradients of B and A then have comparable sizes and the factors' columns are the
product's own directions. k is an option; the paper's abstract gives no number, 200 is ours. First moments live in the old
coordinates: with B' = B N^-1 and A' = N A the gradients are G_B' = G_B N^T and G_A' = N^-T G_A. `moments` says what happens
to them: "keep" (as they are), "carry" (first moments so transformed, second ones kept) or "reset" (both and the step to zero,
as momentum_reset.py does)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zkaudit.training.errors import TrainingError
from zkaudit.training.low_rank.factorised import FactorisedLinear, balanced
from zkaudit.training.low_rank.momentum_reset import zero_moments
from zkaudit.training.low_rank.periodic import Periodic
from zkaudit.training.method import Method

METHOD = Method(
    name="weight-refactorisation",
    title="Weight refactorisation of low-rank factors",
    paper="Glentis et al. 2025, arXiv:2505.22922",
    where="zkaudit.training.low_rank.refactorisation.Refactorisation",
    changes=("memory", "schedule"),
    effect="with momentum reset, low-rank training comes near full rank; 20 to 25% less memory at 1B than GaLore or Fira",
    library="",
    provable="The product is unchanged: B' A' = B A up to rounding, one check of committed matrices.",
    server_sees="As for low rank; the server can do the same step itself.",
    use=(
        "from zkaudit.training.low_rank.refactorisation import Refactorisation\n"
        "\n"
        "low_rank(model, rank=128)\n"
        "optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)\n"
        "Refactorisation(model, optimizer, every=200)  # acts after optimizer.step"
    ),
    avoid="Only for W = B A layers of `low_rank`; save its state_dict too.",
)

MOMENTS = ("keep", "carry", "reset")


class Refactorisation(Periodic):
    """Balances the factors of every `FactorisedLinear` of `model` after each `every`-th step of `optimizer`, by a hook on it.

    Works wherever `optimizer.step` is called, HF Trainer too. `state_dict` holds the count of steps.
    Raises TrainingError for bad options."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, every: int = 200, moments: str = "keep") -> None:
        self.layers = [module for module in model.modules() if isinstance(module, FactorisedLinear)]
        if not self.layers:
            raise TrainingError("the model has no FactorisedLinear layer: call low_rank(model, rank) first")
        if moments not in MOMENTS:
            raise TrainingError(f"moments is {moments!r}: it must be one of {', '.join(MOMENTS)}")
        self.moments = moments
        super().__init__(optimizer, every)

    def act(self, optimizer: Optimizer) -> None:
        for layer in self.layers:
            change = refactorise(layer)
            if self.moments == "carry":
                carry(optimizer, layer, change)
            elif self.moments == "reset":
                zero_moments(optimizer, (layer.A, layer.B))


@torch.no_grad()
def refactorise(layer: FactorisedLinear) -> Tensor:
    """Balances one layer's factors in place; returns the r x r matrix N of A' = N A, in float64."""
    q, r = torch.linalg.qr(layer.B.double())
    p, t = torch.linalg.qr(layer.A.double().T)
    left, values, right = torch.linalg.svd(r @ t.T)
    B, A = balanced(q @ left, values, right @ p.T)
    change: Tensor = A @ torch.linalg.pinv(layer.A.double())
    layer.A.copy_(A)
    layer.B.copy_(B)
    return change


def carry(optimizer: Optimizer, layer: FactorisedLinear, change: Tensor) -> None:
    """Writes the first moments of both factors in the new coordinates. TrainingError if they are projected or in 8 bits."""
    of_a, of_b = optimizer.state[layer.A].get("exp_avg"), optimizer.state[layer.B].get("exp_avg")
    for moment, p in ((of_a, layer.A), (of_b, layer.B)):
        if moment is not None and (moment.shape != p.shape or moment.element_size() == 1):
            raise TrainingError(
                "moments='carry' needs first moments of the factors' shape in floating point: use 'keep' or 'reset'"
            )
    if of_a is not None:
        of_a.copy_(torch.linalg.pinv(change).T @ of_a.double())
    if of_b is not None:
        of_b.copy_(of_b.double() @ change.T)
