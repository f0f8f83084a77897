"""SLTrain: W = s B A + S, low rank plus a sparse matrix on a fixed random support.

B m x r starts at 0, A r x n as torch starts a linear layer, the values of S uniform in +-1/sqrt(n); s = alpha / r. Density
0.03 is the paper's, alpha 32 that of the authors' code (github.com/andyjm3/SLTrain). Numbers a layer: r (m + n)
+ density m n trained, and density m n positions of 4 bytes that are stored. The dense W exists for one layer at a time: it is
formed in forward, thrown away, and formed again in backward, which saves x and the factors alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.low_rank.linears import LowRankLinear, TakenOver, replace_linears
from zkaudit.training.method import Method

METHOD = Method(
    name="sltrain",
    title="SLTrain, low rank plus sparse",
    paper="Han et al. 2024, arXiv:2406.02214",
    where="zkaudit.training.low_rank.sltrain.sltrain",
    changes=("memory",),
    effect="perplexity near full rank with up to 73% less memory at 7B, with quantised states and per-layer updates",
    library="",
    provable="A dense product, and a sparse one on a public support: products with a committed vector of values.",
    server_sees="Gradients of the factors, and the plain gradient on the support: density m n entries of it.",
    use=(
        "from zkaudit.training.low_rank.sltrain import sltrain\n"
        "\n"
        "taken = sltrain(model, rank=128, density=0.03)\n"
        "print(taken.full)  # parameters that are trained in full"
    ),
    avoid="Layers start anew, so not for fine-tuning; each pass forms the dense weights anew, which takes time.",
)


class SparseLowRankLinear(LowRankLinear):
    """y = (s B A + S) x + bias. `support` holds the flat positions of `values` in S, sorted."""

    FACTORS = ("A", "B", "values")

    def __init__(self, linear: nn.Linear, rank: int, density: float, alpha: float, generator: torch.Generator) -> None:
        super().__init__(linear)
        m, n = linear.weight.shape
        if m * n > 2**31:
            raise TrainingError(f"a layer of {m} x {n} has more entries than positions of 32 bits can name")
        self.scale = alpha / rank
        device, dtype = linear.weight.device, linear.weight.dtype
        bound = 1.0 / math.sqrt(n)
        count = max(1, int(density * m * n))
        support = torch.randperm(m * n, generator=generator)[:count].sort().values.to(torch.int32)
        A = torch.rand(rank, n, generator=generator, dtype=dtype).mul_(2 * bound).sub_(bound)
        values = torch.rand(count, generator=generator, dtype=dtype).mul_(2 * bound).sub_(bound)
        self.A, self.B = nn.Parameter(A.to(device)), nn.Parameter(linear.weight.new_zeros(m, rank))
        self.values = nn.Parameter(values.to(device))
        self.register_buffer("support", support.to(device))
        self.support: Tensor

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x, self.B, self.A, self.values, self.support, self.scale)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias

    def dense_weight(self) -> Tensor:
        return _dense(self.B, self.A, self.values, self.support, self.scale)


def sltrain(
    model: nn.Module, rank: int, *, density: float = 0.03, alpha: float = 32.0, targets: Iterable[str] = (), seed: int = 0
) -> TakenOver[SparseLowRankLinear]:
    """Replaces linear layers of `model` in place; their weights start anew. Raises TrainingError for a bad density."""
    if not 0 < density < 1:
        raise TrainingError(f"density is {density}: it must lie between 0 and 1")
    generator = torch.Generator().manual_seed(seed)
    return replace_linears(model, lambda linear: SparseLowRankLinear(linear, rank, density, alpha, generator), rank, targets)


def _dense(B: Tensor, A: Tensor, values: Tensor, support: Tensor, scale: float) -> Tensor:
    weight = scale * (B @ A)
    return weight.view(-1).index_add(0, support, values.to(weight.dtype)).view_as(weight)


class _Product(torch.autograd.Function):
    """x W^T with W made when it is needed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, B: Tensor, A: Tensor, values: Tensor, support: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, B, A, values, support)
        ctx.scale = scale
        return F.linear(x, _dense(B, A, values, support, scale))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, B, A, values, support = ctx.saved_tensors
        to_x = grad @ _dense(B, A, values, support, ctx.scale) if ctx.needs_input_grad[0] else None
        to_weight = grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        to_values = to_weight.view(-1).index_select(0, support)
        return to_x, ctx.scale * (to_weight @ A.T), ctx.scale * (B.T @ to_weight), to_values, None, None
