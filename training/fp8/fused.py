"""Where layers.Stored runs as one kernel each way: RMSNorm and the gated product of Llama's kin, on a GPU that Triton knows.

The kernels compute what Stored computes, with the same codes; sums may be taken in another order."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zkaudit.training.fp8.codes import kernels_for

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")  # weight * (x / root).to(x.dtype)
SILU = ("SiLU", "SiLUActivation")
TYPES = (torch.bfloat16, torch.float32)
LARGEST = 1 << 14  # channels of a norm that one program holds


def norm(module: nn.Module, x: Tensor, group: int, exact: bool) -> Tensor | None:
    """What `module` makes of x, storing x in FP8; None where that takes Stored."""
    weight = getattr(module, "weight", None)
    if type(module).__name__ not in NORMS or not isinstance(weight, Tensor) or x.shape[-1] > LARGEST:
        return None
    if not _fits(x, group) or weight.dtype != x.dtype:
        return None
    return _Norm.apply(x, weight, module.variance_epsilon, group, exact)  # type: ignore[no-any-return, no-untyped-call]


def gate(function: nn.Module, x: Tensor, up: Tensor, group: int, exact: bool) -> Tensor | None:
    """function(x) * up, storing both in FP8; None where that takes Stored."""
    if type(function).__name__ not in SILU or not _fits(x, group) or (up.dtype, up.shape) != (x.dtype, x.shape):
        return None
    return _Gate.apply(x, up, group, exact)  # type: ignore[no-any-return, no-untyped-call]


def _fits(x: Tensor, group: int) -> bool:
    whole = x.shape[-1] % group == 0 and group & (group - 1) == 0
    return whole and x.dtype in TYPES and kernels_for(x, "layer_kernels") is not None


def _kernels(x: Tensor) -> ModuleType:
    found = kernels_for(x, "layer_kernels")
    assert found is not None  # _fits saw to it
    return found


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, group: int, exact: bool) -> Tensor:
        with torch.cuda.device(x.device):
            found, (codes, scales) = _kernels(x).norm(x, weight, eps, group, exact)
        ctx.save_for_backward(codes, scales.view(torch.int16), weight)  # as bits: hooks that compress floats leave them alone
        ctx.eps, ctx.group = eps, group
        return found  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales, weight = ctx.saved_tensors
        with torch.cuda.device(gradient.device):
            stored = (codes, scales.view(torch.bfloat16))
            of_x, of_weight = _kernels(gradient).norm_gradients(gradient, stored, weight, ctx.eps, ctx.group)
        return of_x, of_weight if ctx.needs_input_grad[1] else None, None, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, group: int, exact: bool) -> Tensor:
        with torch.cuda.device(x.device):
            found, first, second = _kernels(x).gate(x, up, group, exact)
        ctx.save_for_backward(*(part for codes, scales in (first, second) for part in (codes, scales.view(torch.int16))))
        ctx.group = group
        return found  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales, up_codes, up_scales = ctx.saved_tensors
        with torch.cuda.device(gradient.device):
            pairs = (codes, scales.view(torch.bfloat16)), (up_codes, up_scales.view(torch.bfloat16))
            of_x, of_up = _kernels(gradient).gate_gradients(gradient, *pairs, ctx.group)
        return of_x, of_up, None, None
