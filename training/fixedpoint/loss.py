"""Gradients of the losses with respect to the outputs, in integers.

Square loss, targets y scaled by 2^f:   G = (Z' - y) 2^(g-f).
Softmax cross-entropy, y one-hot:       d = max Z' - Z', e = floor(2^16 exp(-d / 2^f)), S = sum e,
                                        e 2^g = p S + rho with 0 <= rho < S, G = p - y 2^g."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from zkaudit.training.config import FixedPoint

EXPONENTIAL_BITS = 16  # fractional bits of the table's values, and bits of its index


def square_gradient(outputs: Tensor, targets: Tensor, bits: FixedPoint) -> Tensor:
    """G, int64 (n, outputs)."""
    return (outputs - targets) << (bits.gradient_bits - bits.activation_bits)


def distances(outputs: Tensor) -> Tensor:
    """d: how far each output lies below the largest of its row, int64 (n, outputs)."""
    return outputs.amax(dim=1, keepdim=True) - outputs


def cross_entropy_gradient(distance: Tensor, targets: Tensor, bits: FixedPoint) -> tuple[Tensor, Tensor, Tensor]:
    """G, p and rho, int64 (n, outputs) each; they mean something where the distances lie in the table."""
    table = exponential_table(bits.activation_bits, distance.device)
    exponential = table[distance.clamp(0, len(table) - 1)]
    total = exponential.sum(dim=1, keepdim=True)
    scaled = exponential << bits.gradient_bits
    quotient = scaled // total
    return quotient - (targets << bits.gradient_bits), quotient, scaled - quotient * total


def largest_gradient(loss: str, target: int, output: int, bits: FixedPoint) -> int:
    """No |G| exceeds it where no target is larger in size than `target` and no output than `output`."""
    if loss == "square":
        return (output + target) << (bits.gradient_bits - bits.activation_bits)
    return (1 + target) << bits.gradient_bits


@cache
def exponential_table(activation_bits: int, device: torch.device | str = "cpu") -> Tensor:
    """floor(2^16 exp(-d / 2^activation_bits)) for d in [0, 2^16), int64.

    No value but the first comes within 2^-30 of an integer (a test checks it), so float64 decides every floor.
    The CPU's exp makes it for every device.
    """
    d = torch.arange(1 << EXPONENTIAL_BITS, dtype=torch.float64)
    return torch.floor(torch.exp(-d / 2**activation_bits) * 2**EXPONENTIAL_BITS).to(device, torch.int64)
