"""A linear layer whose three products are of FP8 codes, with one scale a tensor, on the units that multiply FP8.

y = x W^T, the gradient of x, g W, and that of W, g^T x: x and W are E4M3, g is E5M2 or what the options say. torch multiplies
the codes (torch.nn.functional.scaled_mm, from 2.10 on); NVIDIA's units are there from compute capability 8.9 on, and take sizes
that are multiples of 16 and rows whose inner index runs fastest, so that codes are made of transposes too. On a CPU the same
products are taken in float32, which serves tests."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zkaudit.training.errors import TrainingError
from zkaudit.training.fp8.codes import FORMATS, quantize_both, quantize_tensor, quantize_turned, read, turned

MULTIPLE = 16  # of both sizes of a weight
CAPABILITY = (8, 9)

Codes = tuple[Tensor, Tensor]  # codes (rows, columns) and their one scale


def require_products(device: torch.device) -> None:
    """Raises TrainingError where FP8 codes cannot be multiplied."""
    if device.type != "cuda":
        return
    if not hasattr(F, "scaled_mm"):
        raise TrainingError(f"products in FP8 need torch 2.10 or later, this is {torch.__version__}")
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        raise TrainingError(
            f"products in FP8 need a GPU of compute capability 8.9 or later, not {torch.cuda.get_device_name(device)}"
        )


class LinearInFp8(torch.autograd.Function):
    """y = x W^T + b, or x W + b if `transposed`, from the codes of x.

    The codes are saved; those of W are made again backwards, with the scale that they had.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        codes: Tensor,
        scale: Tensor,
        transposed: bool,
        gradients: str | None,
    ) -> Tensor:
        ctx.transposed, ctx.gradients = transposed, FORMATS[gradients or "E5M2"]
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        stored = quantize_turned(weight) if transposed else quantize_tensor(weight)
        ctx.save_for_backward(codes, scale, weight, stored[1])
        y = product((codes.flatten(0, -2), scale), stored, dtype)
        if bias is not None:
            y += bias
        return y.reshape(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, scale, weight, of_codes = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        upstream, across, of_rows = quantize_both(rows, ctx.gradients)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            quantize = quantize_tensor if ctx.transposed else quantize_turned
            of_x = product((upstream, of_rows), quantize(weight, scale=of_codes), gradient.dtype)
            of_x = of_x.reshape(*gradient.shape[:-1], -1)
        if ctx.needs_input_grad[1]:
            g, x = (across, of_rows), (turned(codes.flatten(0, -2)), scale)
            of_weight = (product(x, g, gradient.dtype) if ctx.transposed else product(g, x, gradient.dtype)).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0).to(weight.dtype)
        return of_x, of_weight, of_bias, None, None, None, None


def product(left: Codes, right: Codes, dtype: torch.dtype) -> Tensor:
    """left right^T (m, n) as `dtype`, of codes (m, k) and (n, k)."""
    (a, a_scale), (b, b_scale) = left, right
    if not a.is_cuda:
        return (read(a) @ read(b).T * (a_scale * b_scale)).to(dtype)
    each = F.ScalingType.TensorWise
    return F.scaled_mm(_padded(a), _padded(b).T, a_scale, each, b_scale, each, output_dtype=dtype)


def _padded(codes: Tensor) -> Tensor:
    """Zeros after the last column, up to a multiple of what the units take."""
    missing = -codes.shape[1] % MULTIPLE
    return F.pad(codes.view(torch.uint8), (0, missing)).view(codes.dtype) if missing else codes.contiguous()
