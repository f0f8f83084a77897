"""Casts to FP8 of the exact trainer's numbers: torch's own, after a clamp to what the format can hold."""

from __future__ import annotations

import torch
from torch import Tensor

from zkaudit.training.provable import FP8

TYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def cast_activation(method: FP8, j: int, values: Tensor, bits: int) -> Tensor:
    """Integers with `bits` fractional bits to the nearest numbers of E4M3 times layer j's scale, ties to even."""
    return cast(values, "e4m3", method.activation_exponents[j] + bits)


def cast_gradient(method: FP8, j: int, values: Tensor, bits: int) -> Tensor:
    """The same for gradients, in their format."""
    return cast(values, method.gradient_format, method.gradient_exponents[j] + bits)


def cast(values: Tensor, kind: str, shift: int) -> Tensor:
    """Integers below 2^24 in size to the nearest numbers of the format times 2^shift, saturated; in the type they come in."""
    largest = torch.finfo(TYPES[kind]).max
    scaled = (values.to(torch.float32) * 2.0**-shift).clamp(-largest, largest)
    return (scaled.to(TYPES[kind]).to(torch.float32) * 2.0**shift).to(values.dtype)
