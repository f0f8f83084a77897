"""Range expansion, and a step of states.py, as Triton kernels.

Where a power is taken, a device's logarithm decides, and codes may differ by one from another device's."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zkaudit.training.fp8.device_codes import (
    LARGEST,
    SMALL,
    bits_of,
    decode,
    encode,
    largest_of,
    native,
    signed,
    sizes,
    smaller,
    to_bfloat16,
)
from zkaudit.training.fp8.expansion import HIGHEST, RANGE

LOG_RANGE = tl.constexpr(RANGE)
LEAST_RATIO = tl.constexpr(RANGE / HIGHEST)
Moment = tuple[Tensor, Tensor, Tensor]  # an expansion.Expanded


def expand(values: Tensor, group: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """expansion.expand."""
    values = values.contiguous()
    n, count = values.numel(), triton.cdiv(values.numel(), group)
    found = torch.empty_like(values, dtype=torch.float8_e4m3fn)
    largest, power = torch.empty((2, count), device=values.device)
    constants = {**sizes(group), "NATIVE": native(values.device)}
    _expand[(triton.cdiv(count, constants["GROUPS"]),)](
        values, found.view(torch.uint8), largest, power, n, count, group, steps, **constants
    )
    return found, largest, power


def contract(stored: Tensor, largest: Tensor, power: Tensor, group: int) -> Tensor:
    """expansion.contract."""
    stored = stored.contiguous()
    found = torch.empty_like(stored, dtype=torch.float32)
    constants = {**sizes(group), "NATIVE": native(stored.device)}
    grid = (triton.cdiv(largest.numel(), constants["GROUPS"]),)
    _contract[grid](stored.view(torch.uint8), largest, power, found, stored.numel(), largest.numel(), group, **constants)
    return found


def adamw(parameter: Tensor, gradient: Tensor, first: Moment, second: Moment, group: int, steps: int, *numbers: float) -> None:
    """A step of states.CoatAdamW in place, all contiguous; `numbers` are a states.Rates."""
    constants = {**sizes(group), "NATIVE": native(parameter.device)}
    m, v = (first[0].view(torch.uint8), *first[1:]), (second[0].view(torch.uint8), *second[1:])
    n, count = parameter.numel(), first[1].numel()
    _adamw[(triton.cdiv(count, constants["GROUPS"]),)](
        parameter, gradient, *m, *v, *numbers, n, count, group, steps, ROUNDS=parameter.dtype == torch.bfloat16, **constants
    )


@triton.jit
def _expanded(x, inside, steps, NATIVE: tl.constexpr):
    """Codes, largest sizes and powers of rows of float32, as expansion.expand makes them."""
    size = tl.abs(x)
    size = tl.where(size <= SMALL, 0.0, size)
    largest = largest_of(size)
    base = tl.where(largest == 0, 1.0, largest)
    least = tl.reduce(bits_of(tl.where(inside & (size > 0), size, base[:, None])), 1, smaller).to(tl.float32, bitcast=True)
    ratio = tl.log2(base) - tl.log2(least)
    ratio = tl.where(ratio < LEAST_RATIO, LEAST_RATIO, ratio)
    power = tl.floor(steps * LOG_RANGE / ratio) / steps
    power = tl.where(power < 1.0 / steps, 1.0 / steps, power)
    share = tl.where(size == 0, 1.0, tl.div_rn(size, base[:, None]))
    expanded = tl.where(size == 0, 0.0, LARGEST * tl.exp2(power[:, None] * tl.log2(share)))
    return encode(signed(expanded, x), False, NATIVE), largest, power


@triton.jit
def _contracted(code, largest, power, NATIVE: tl.constexpr):
    """float32 of rows of codes, as expansion.contract reads them."""
    value = decode(code, False, NATIVE)
    size = tl.abs(value)
    share = tl.where(size == 0, 1.0, size / LARGEST)
    half = tl.exp2(tl.log2(share) / power[:, None] / 2)  # its square may be subnormal: zero, on a device
    found = tl.where(size == 0, 0.0, largest[:, None] * half * half)
    return signed(found, value)


@triton.jit
def _expand(
    values, found, largest, power, n, count, group, steps,
    NATIVE: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    chosen = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    inner = tl.arange(0, WIDTH)[None, :]
    place = chosen[:, None] * group + inner
    inside = (inner < group) & (place < n)
    x = tl.load(values + place, mask=inside, other=0).to(tl.float32)
    code, most, exponent = _expanded(x, inside, steps, NATIVE)
    tl.store(found + place, code, mask=inside)
    tl.store(largest + chosen, most, mask=chosen < count)
    tl.store(power + chosen, exponent, mask=chosen < count)


@triton.jit
def _contract(stored, largest, power, found, n, count, group, NATIVE: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    chosen = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    inner = tl.arange(0, WIDTH)[None, :]
    place = chosen[:, None] * group + inner
    inside = (inner < group) & (place < n)
    most = tl.load(largest + chosen, mask=chosen < count, other=0)
    exponent = tl.load(power + chosen, mask=chosen < count, other=1)
    tl.store(found + place, _contracted(tl.load(stored + place, mask=inside, other=0), most, exponent, NATIVE), mask=inside)


@triton.jit
def _adamw(
    parameter, gradient, m_codes, m_largest, m_power, v_codes, v_largest, v_power,
    decay, rate, gain1, beta2, gain2, eps, root, n, count, group, steps,
    ROUNDS: tl.constexpr, NATIVE: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    chosen = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    inner = tl.arange(0, WIDTH)[None, :]
    place = chosen[:, None] * group + inner
    inside, real = (inner < group) & (place < n), chosen < count
    g = tl.load(gradient + place, mask=inside, other=0).to(tl.float32)
    m_most, m_exponent = tl.load(m_largest + chosen, mask=real, other=0), tl.load(m_power + chosen, mask=real, other=1)
    v_most, v_exponent = tl.load(v_largest + chosen, mask=real, other=0), tl.load(v_power + chosen, mask=real, other=1)
    m = _contracted(tl.load(m_codes + place, mask=inside, other=0), m_most, m_exponent, NATIVE)
    v = _contracted(tl.load(v_codes + place, mask=inside, other=0), v_most, v_exponent, NATIVE)
    m += (g - m) * gain1
    v = v * beta2 + g * g * gain2
    p = tl.load(parameter + place, mask=inside, other=0).to(tl.float32)
    p = p * decay - rate * (m / (tl.sqrt(v) / root + eps))
    if ROUNDS:
        p = to_bfloat16(p)
    tl.store(parameter + place, p.to(parameter.dtype.element_ty), mask=inside)
    code, most, exponent = _expanded(m, inside, steps, NATIVE)
    tl.store(m_codes + place, code, mask=inside)
    tl.store(m_largest + chosen, most, mask=real)
    tl.store(m_power + chosen, exponent, mask=real)
    code, most, exponent = _expanded(v, inside, steps, NATIVE)
    tl.store(v_codes + place, code, mask=inside)
    tl.store(v_largest + chosen, most, mask=real)
    tl.store(v_power + chosen, exponent, mask=real)
