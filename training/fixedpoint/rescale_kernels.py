"""The functions of rescale.py as Triton kernels: each number is read once and each result written once.

They run on a GPU, or, for tests, on a CPU where TRITON_INTERPRET=1 was set before this module is imported."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # numbers of one program


def rescale(parts: Tensor, shift: int, bits: int) -> tuple[Tensor, Tensor]:
    """rescale.rescale."""
    parts = parts.contiguous()
    quotient = torch.empty(parts.shape[1:], dtype=torch.int64, device=parts.device)
    remainder, n = torch.empty_like(quotient), quotient.numel()
    _rescale[_programs(n)](parts, quotient, remainder, n, 1 << (bits - 1), shift, bits - shift, LIMBS=len(parts), BLOCK=BLOCK)
    return quotient, remainder


def rectify(z: Tensor) -> tuple[Tensor, Tensor]:
    """rescale.rectify."""
    z = z.contiguous()
    positive, negative = torch.empty_like(z, dtype=torch.float64), torch.empty_like(z, dtype=torch.uint8)
    _rectify[_programs(z.numel())](z, positive, negative, z.numel(), BLOCK=BLOCK)
    return positive, negative.view(torch.bool)


def mask(gradient: Tensor, negative: Tensor) -> Tensor:
    """rescale.mask."""
    gradient, negative = gradient.contiguous(), negative.contiguous().view(torch.uint8)
    masked = torch.empty_like(gradient, dtype=torch.float64)
    _mask[_programs(gradient.numel())](gradient, negative, masked, gradient.numel(), BLOCK=BLOCK)
    return masked


def words(values: Tensor, count: int) -> Tensor:
    """rescale.words."""
    values = values.contiguous()
    found = torch.empty((*values.shape, count), dtype=torch.int16, device=values.device)
    _words[_programs(values.numel())](values, found, values.numel(), COUNT=count, BLOCK=BLOCK)
    return found


def _programs(n: int) -> tuple[int]:
    return (triton.cdiv(n, BLOCK),)


@triton.jit
def _rescale(parts, quotient, remainder, n, half, shift, above, LIMBS: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    low = tl.load(parts + place, mask=inside, other=0).to(tl.int64) + half
    high = low >> shift
    rest = low - (high << shift)
    for i in tl.static_range(1, LIMBS):
        parts += n
        high += tl.load(parts + place, mask=inside, other=0).to(tl.int64) << ((i - 1) * shift)
    result = high >> above
    tl.store(quotient + place, result, mask=inside)
    tl.store(remainder + place, rest + ((high - (result << above)) << shift), mask=inside)


@triton.jit
def _rectify(z, positive, negative, n, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    value = tl.load(z + place, mask=inside, other=0)
    tl.store(positive + place, tl.where(value < 0, 0, value).to(tl.float64), mask=inside)
    tl.store(negative + place, (value < 0).to(tl.uint8), mask=inside)


@triton.jit
def _mask(gradient, negative, masked, n, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    value = tl.load(gradient + place, mask=inside, other=0)
    off = tl.load(negative + place, mask=inside, other=0) != 0
    tl.store(masked + place, tl.where(off, 0, value).to(tl.float64), mask=inside)


@triton.jit
def _words(values, found, n, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    value = tl.load(values + place, mask=inside, other=0)
    for k in tl.static_range(COUNT):
        tl.store(found + place * COUNT + k, (value >> (16 * k)).to(tl.int16), mask=inside)
