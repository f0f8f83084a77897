"""Casts to FP8 of the exact trainer's numbers: torch's own, after a clamp to what the format can hold."""

from __future__ import annotations

import torch
from torch import Tensor

from zkaudit.training.provable import FP8, GROUP

TYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def cast_activation(method: FP8, j: int, values: Tensor, bits: int) -> Tensor:
    """Integers with `bits` fractional bits to the nearest numbers of E4M3 times layer j's scale, ties to even; (n, units)."""
    return cast(values, "e4m3", exponents(method.activation_exponents[j], values) + bits)


def cast_gradient(method: FP8, j: int, values: Tensor, bits: int) -> Tensor:
    """The same for gradients, in their format."""
    return cast(values, method.gradient_format, exponents(method.gradient_exponents[j], values) + bits)


def exponents(given: int | tuple[int, ...], values: Tensor) -> Tensor:
    """A layer's exponent, or that of each unit where groups of units have their own: int32, () or (units)."""
    if not isinstance(given, tuple):
        return torch.tensor(given, dtype=torch.int32, device=values.device)
    groups = torch.tensor(given, dtype=torch.int32, device=values.device)
    return groups.repeat_interleave(GROUP)[: values.shape[1]]


def cast(values: Tensor, kind: str, shift: Tensor | int) -> Tensor:
    """Integers below 2^24 in size to the nearest numbers of the format times 2^shift, saturated; in the type they come in."""
    largest, shift = torch.finfo(TYPES[kind]).max, torch.as_tensor(shift, dtype=torch.int32, device=values.device)
    scaled = torch.ldexp(values.to(torch.float32), -shift).clamp(-largest, largest)
    return torch.ldexp(scaled.to(TYPES[kind]).to(torch.float32), shift).to(values.dtype)
