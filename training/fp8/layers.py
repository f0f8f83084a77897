"""Layers that save their inputs in FP8 for the backward pass, as autograd functions: what they save is float8 storage.

What is stored for the backward pass is a tensor's codes and scales; these pass hooks over saved tensors, and checkpointing, as
any saved tensor does."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zkaudit.training.fp8.codes import E4M3, FORMATS, Format, dequantize, quantize_groups, quantize_tensor, rounded


class Linear(torch.autograd.Function):
    """y = x W^T + b, or x W + b if `transposed`; the gradient of W is taken from the codes of x, that of x from W as it is.

    With `gradients`, "E5M2", the gradient of y is rounded to that format, with one scale, before either product.
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
        ctx.save_for_backward(codes, scale, weight)
        ctx.transposed, ctx.gradients = transposed, gradients
        return F.linear(x, weight.T if transposed else weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, scale, weight = ctx.saved_tensors
        if ctx.gradients:
            gradient = rounded(gradient, FORMATS[ctx.gradients])
        rows = gradient.flatten(0, -2)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ (weight.T if ctx.transposed else weight).to(gradient.dtype)
        if ctx.needs_input_grad[1]:
            x = dequantize(codes, scale, dtype=gradient.dtype).flatten(0, -2)
            of_weight = (x.T @ rows if ctx.transposed else rows.T @ x).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0).to(weight.dtype)
        return of_x, of_weight, of_bias, None, None, None, None


class Stored(torch.autograd.Function):
    """function(*inputs), where only the inputs' codes, in groups of channels, are saved; backwards it is computed again.

    `tensors` are the `count` inputs and then the parameters that the function reads. With `exact` the value is that of the
    inputs as they are; otherwise value and gradients are both those at the stored inputs.
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], group: int, exact: bool, count: int, *tensors: Tensor) -> Tensor:
        inputs = list(tensors[:count])
        saved: list[Tensor] = []
        for place, x in enumerate(inputs):
            codes, scales = quantize_groups(x, group)
            saved += [codes, scales.view(torch.int16)]  # as bits: hooks that compress saved floats leave them alone
            if not exact:
                inputs[place] = dequantize(codes, scales, group, x.dtype)
        ctx.save_for_backward(*saved, *tensors[count:])
        ctx.function, ctx.group, ctx.dtypes = function, group, [x.dtype for x in inputs]
        device = tensors[0].device.type
        ctx.autocast = torch.autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return function(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count, needed = len(ctx.dtypes), ctx.needs_input_grad[4:]
        saved = ctx.saved_tensors  # asked for once: checkpointing refuses a second time
        pairs, parameters = saved[: 2 * count], saved[2 * count :]
        inputs = [
            dequantize(codes, scales.view(torch.bfloat16), ctx.group, dtype).requires_grad_(need)
            for codes, scales, dtype, need in zip(pairs[::2], pairs[1::2], ctx.dtypes, needed[:count], strict=True)
        ]
        with torch.enable_grad(), ctx.autocast:
            value = ctx.function(*inputs)
        wanted = [x for x, need in zip([*inputs, *parameters], needed, strict=True) if need]
        found = iter(torch.autograd.grad(value, wanted, gradient))
        return None, None, None, None, *(next(found) if need else None for need in needed)


class Shared:
    """The codes of the last input of a linear layer: layers that read the same tensor (queries, keys, values) save it once."""

    def __init__(self) -> None:
        self._input: weakref.ref[Tensor] | None = None
        self._version = 0
        self._codes: tuple[Tensor, Tensor] | None = None

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """codes.quantize_tensor of x."""
        seen = self._input() if self._input is not None else None
        if self._codes is None or seen is not x or self._version != x._version:
            with torch.no_grad():
                self._codes = quantize_tensor(x)
            self._input, self._version = weakref.ref(x), x._version
        return self._codes

    def forget(self, *_: object) -> None:
        """Drop them; also a forward hook."""
        self._input = self._codes = None

    def __reduce__(self) -> tuple[type[Shared], tuple[()]]:
        return Shared, ()  # a copied or saved model starts without


class StoredAttention:
    """A pair of hooks for torch.autograd.graph.saved_tensors_hooks that stores queries, keys, values and outputs by groups.

    Only tensors of four dimensions whose last holds channels: sums of exponentials, masks, weights and codes stay as they are.
    """

    def __init__(self, group: int, code: Format = E4M3) -> None:
        self.group, self.code = group, code

    def pack(self, x: Tensor) -> Any:
        if not x.is_floating_point() or x.element_size() == 1 or x.ndim != 4 or x.shape[-1] < self.group:
            return x
        return (*quantize_groups(x.detach(), self.group, self.code), x.dtype)

    def unpack(self, packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        codes, scales, dtype = packed
        return dequantize(codes, scales, self.group, dtype)
