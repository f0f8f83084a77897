"""Moments stored in 8 bits, in floats: COAT's range expansion with static ranges and torch's own cast.

    stored = L (q / 448)^(1/k),   q = E4M3 number nearest to 448 (|x| / L)^k,   L = largest number of the range, sign(x) kept

What the integers of zk/circuit/expanded.py, which the exact trainer uses, are up to their rounding."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zkaudit.training.provable import GROUP
from zkaudit.zk.circuit import expanded


def grouped(values: Tensor, given: int | tuple[int, ...]) -> Iterator[tuple[int, Tensor]]:
    """A layer's exponents, each with the units of `values`, (rank, kept units), that it is for."""
    exponents, width = (given, GROUP) if isinstance(given, tuple) else ((given,), values.shape[1])
    return zip(exponents, torch.split(values, width, 1), strict=True)


def stored(values: Tensor, kind: str, given: int | tuple[int, ...], unit: float) -> Tensor:
    """The "first" moment or the "second" one's root, (rank, kept units) in multiples of `unit`, as it is read back."""
    parts = []
    for exponent, part in grouped(values, given):
        power, most = expanded.power(exponent) / expanded.POWERS, unit * expanded.largest(kind, exponent)
        size = expanded.LARGEST * (part.abs() / most).clamp(max=1) ** power
        code = size.to(torch.float32).to(torch.float8_e4m3fn).to(values.dtype)
        parts.append(part.sign() * most * (code / expanded.LARGEST) ** (1 / power))
    return torch.cat(parts, 1)
