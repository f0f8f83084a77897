"""Pure low rank: W = B A, with B m x r and A r x n, and nothing else.

The start is the nearest rank-r matrix to the layer's own weight with balanced factors: W = U S V^T, B = U_r sqrt(S_r), A =
sqrt(S_r) V_r^T. Signs are fixed (largest entry of each left vector positive) so that runs repeat. Numbers a layer: r (m + n)
against m n. The weakest baseline of the comparison in arXiv:2505.22922; weight refactorisation (refactorisation.py) and
momentum reset (momentum_reset.py) lift it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zkaudit.training.low_rank.linears import LowRankLinear, TakenOver, replace_linears
from zkaudit.training.method import Method

METHOD = Method(
    name="low-rank",
    title="Pure low rank, W = B A",
    paper="baseline of arXiv:2505.22922; spectral start: Khodak et al. 2021, arXiv:2105.01029",
    where="zkaudit.training.low_rank.factorised.low_rank",
    changes=("memory",),
    effect="r (m + n) numbers a layer instead of m n; loss above full rank's",
    library="",
    provable="As two dense layers without a non-linearity between them.",
    server_sees="Gradients of both factors: the update of B A spans at most 2 r directions.",
    use=(
        "from zkaudit.training.low_rank.factorised import low_rank\n"
        "\n"
        "taken = low_rank(model, rank=128)\n"
        "print(taken.full)  # parameters that are trained in full"
    ),
    avoid="Loss stays above full rank's; take it as a baseline, or where a small model is the aim.",
)


class FactorisedLinear(LowRankLinear):
    """y = B (A x) + bias."""

    FACTORS = ("A", "B")

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__(linear)
        left, values, right = torch.linalg.svd(linear.weight.detach().double(), full_matrices=False)
        B, A = balanced(left[:, :rank], values[:rank], right[:rank])
        self.A, self.B = nn.Parameter(A.to(linear.weight.dtype)), nn.Parameter(B.to(linear.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.A), self.B, self.bias)

    def dense_weight(self) -> Tensor:
        return self.B @ self.A


def low_rank(model: nn.Module, rank: int, targets: Iterable[str] = ()) -> TakenOver[FactorisedLinear]:
    """Replaces linear layers of `model` in place by products of rank `rank`."""
    return replace_linears(model, lambda linear: FactorisedLinear(linear, rank), rank, targets)


def balanced(left: Tensor, values: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """B = U sqrt(S) and A = sqrt(S) V^T of equal norms, with signs fixed."""
    largest = left.gather(0, left.abs().argmax(0, keepdim=True))[0]
    root = values.sqrt()
    root_signed = torch.where(largest < 0, -root, root)
    return (left * root_signed).contiguous(), (right * root_signed[:, None]).contiguous()
