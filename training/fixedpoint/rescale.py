"""The element-wise work of a step, each piece in one pass over its numbers.

The torch code below defines what each function returns. On a GPU the kernels of rescale_kernels.py return the same integers,
where Triton can run; where it cannot, the torch code does the work there too."""

from __future__ import annotations

from functools import cache
from subprocess import SubprocessError
from types import ModuleType

import torch
from torch import Tensor


def rescale(parts: Tensor, shift: int, bits: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder, int64, of x + 2^(bits-1) divided by 2^bits, where x = sum of parts[i] 2^(i shift).

    parts: integers as int64 or float64, (limbs, ...). 0 < shift <= bits < 63. The remainder lies in [0, 2^bits). Sums are taken
    modulo 2^64: the caller knows that parts[0] + 2^(bits-1) and x / 2^shift are smaller than 2^63 in size.
    """
    if kernels := _kernels(parts):
        return kernels.rescale(parts, shift, bits)  # type: ignore[no-any-return]
    low = parts[0].to(torch.int64) + (1 << (bits - 1))
    if len(parts) == 1:
        return low >> bits, _low_bits(low, bits)
    high = low >> shift
    for i, part in enumerate(parts[1:]):
        high += part.to(torch.int64) << (i * shift)
    return high >> (bits - shift), _low_bits(low, shift) + (_low_bits(high, bits - shift) << shift)


def rectify(z: Tensor) -> tuple[Tensor, Tensor]:
    """max(z, 0) as float64, and where z < 0 as bool; z: int64."""
    if kernels := _kernels(z):
        return kernels.rectify(z)  # type: ignore[no-any-return]
    return z.clamp(min=0).to(torch.float64), z < 0


def mask(gradient: Tensor, negative: Tensor) -> Tensor:
    """The int64 gradient as float64, 0 where the bool `negative` says that ReLU let nothing through."""
    if kernels := _kernels(gradient):
        return kernels.mask(gradient, negative)  # type: ignore[no-any-return]
    return gradient.masked_fill(negative, 0).to(torch.float64)


def words(values: Tensor, count: int) -> Tensor:
    """The lowest `count` 16-bit words of int64 values (n, ...) in two's complement, lowest first: int16 (n, ..., count).

    Word k is limb k of the prover's witness; the words in a row are the bytes of the narrower type that the trace stores.
    """
    if kernels := _kernels(values):
        return kernels.words(values, count)  # type: ignore[no-any-return]
    return values.contiguous().view(torch.int16).reshape(*values.shape, 4)[..., :count].contiguous()


def _low_bits(values: Tensor, bits: int) -> Tensor:
    return values & ((1 << bits) - 1)


def _kernels(values: Tensor) -> ModuleType | None:
    """The Triton kernels, if these values are for them."""
    return _loaded() if values.is_cuda else None


@cache
def _loaded() -> ModuleType | None:
    # Triton may be missing, or lack the C compiler or headers with which it makes its launcher: the first launch tells.
    try:
        from zkaudit.training.fixedpoint import rescale_kernels

        rescale_kernels.words(torch.zeros(1, dtype=torch.int64, device="cuda"), 1)
    except (ImportError, OSError, RuntimeError, SubprocessError):
        return None
    return rescale_kernels
