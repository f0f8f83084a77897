"""COAT's dynamic range expansion: a group of optimizer states is raised to a power that makes it fill FP8's range.

With M = max |x| and u = min |x| of a group of 128, and c = sqrt(M u), what is stored is fp8(sign(x) (|x| / c)^k / s) with

    k = floor(steps log(448^2 / 2) / log(M / u)) / steps,   s = (M / c)^k / 448.

As (|x| / c)^k / s = 448 (|x| / M)^k, the pair (M, k) says all that c, k and s say: it is what is kept, in float32, one number
less a group, and M itself is read back exactly.
`steps` is 16 as in the released code (Xi et al. 2024, NVlabs/COAT).

Where this differs from the released code: zeros do not count in u (there they make 10^-30 of it, and k tiny) and are read back
as zeros; k is never above 64 (a group of equal numbers has M / u = 1) nor below 1 / steps. Sizes below 2^-100 are zeros."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zkaudit.training.fp8 import codes

RANGE = math.log2(codes.E4M3.largest**2 / 2)  # what k makes of log2(M / u)
HIGHEST = 64.0  # of k


class Expanded(NamedTuple):
    """A tensor as E4M3 codes of its own shape, and float32 numbers (groups,): each group's largest size and power."""

    codes: Tensor
    largest: Tensor
    power: Tensor


def expand(values: Tensor, group: int = 128, steps: int = 16) -> Expanded:
    """`values`, of any shape, stored in groups of `group` of their numbers in order."""
    if kernels := codes.kernels_for(values, "state_kernels"):
        with torch.cuda.device(values.device):
            return Expanded(*kernels.expand(values, group, steps))
    flat = values.detach().float().flatten()
    rows = F.pad(flat, (0, -flat.numel() % group)).reshape(-1, group)
    size = F.threshold(rows.abs(), codes.TINY, 0.0)
    largest = size.amax(1)
    base = torch.where(largest == 0, 1.0, largest)
    least = torch.minimum(F.threshold(size, codes.TINY, math.inf).amin(1), base)
    ratio = (base.log2() - least.log2()).clamp(min=RANGE / HIGHEST)
    power = (torch.floor(steps * RANGE / ratio) / steps).clamp(min=1 / steps)
    expanded = codes.E4M3.largest * torch.exp2(power[:, None] * (size / base[:, None]).log2())
    stored = codes.cast(torch.copysign(expanded, rows))
    return Expanded(stored.flatten()[: flat.numel()].reshape(values.shape), largest, power)


def contract(stored: Expanded, group: int = 128) -> Tensor:
    """What was expanded, float32: sign(code) M (|code| / 448)^(1/k)."""
    if kernels := codes.kernels_for(stored.codes, "state_kernels"):
        with torch.cuda.device(stored.codes.device):
            return kernels.contract(*stored, group)  # type: ignore[no-any-return]
    flat = codes.read(stored.codes).flatten()
    rows = F.pad(flat, (0, -flat.numel() % group)).reshape(-1, group)
    half = torch.exp2((rows.abs() / codes.E4M3.largest).log2() / stored.power[:, None] / 2)  # the whole may be subnormal
    size = stored.largest[:, None] * half * half
    return torch.copysign(size, rows).flatten()[: flat.numel()].reshape(stored.codes.shape)
