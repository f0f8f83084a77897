"""The functions of codes.py and expansion.py, and a step of states.py, as Triton kernels.

Codes are made and read with integers, so that cards without an FP8 unit can store FP8 too, and every device gets the same bits;
where a power is taken, a device's logarithm decides, and codes may differ by one from another device's. They run on a GPU, or,
for tests, on a CPU where TRITON_INTERPRET=1 was set before this module is imported."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zkaudit.training.fp8.codes import E5M2, TINY, Format
from zkaudit.training.fp8.expansion import HIGHEST, RANGE

BLOCK = 1024  # numbers of one program
LARGEST = tl.constexpr(448.0)  # of E4M3
SMALL = tl.constexpr(TINY)
LOG_RANGE = tl.constexpr(RANGE)
LEAST_RATIO = tl.constexpr(RANGE / HIGHEST)
Moment = tuple[Tensor, Tensor, Tensor]  # an expansion.Expanded


def quantize_tensor(values: Tensor, scale: Tensor, code: Format) -> Tensor:
    """The codes of codes.quantize_tensor, from its scale."""
    values = values.contiguous()
    found = torch.empty_like(values, dtype=code.dtype)
    n = values.numel()
    _quantize_tensor[(triton.cdiv(n, BLOCK),)](values, found.view(torch.uint8), scale, n, WIDE=code is E5M2, BLOCK=BLOCK)
    return found


def quantize_groups(values: Tensor, group: int, code: Format) -> tuple[Tensor, Tensor]:
    """codes.quantize_groups."""
    values = values.contiguous()
    width = values.shape[-1]
    found = torch.empty_like(values, dtype=code.dtype)
    scales = torch.empty((*values.shape[:-1], triton.cdiv(width, group)), dtype=torch.bfloat16, device=values.device)
    sizes = _sizes(group)
    grid = (triton.cdiv(scales.numel(), sizes["GROUPS"]),)
    shape = (scales.numel(), width, scales.shape[-1], group)
    _quantize_groups[grid](values, found.view(torch.uint8), scales, *shape, WIDE=code is E5M2, **sizes)
    return found, scales


def dequantize(stored: Tensor, scales: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """codes.dequantize."""
    stored = stored.contiguous()
    found = torch.empty_like(stored, dtype=dtype)
    n, wide = stored.numel(), stored.dtype == E5M2.dtype
    columns = scales.shape[-1] if scales.ndim else 0
    grid = (triton.cdiv(n, BLOCK),)
    _dequantize[grid](
        stored.view(torch.uint8), scales, found, n, stored.shape[-1] if columns else 1, columns, group, WIDE=wide,
        GROUPED=columns > 0, ROUNDS=dtype == torch.bfloat16, BLOCK=BLOCK,
    )  # fmt: skip
    return found


def expand(values: Tensor, group: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """expansion.expand."""
    values = values.contiguous()
    n, count = values.numel(), triton.cdiv(values.numel(), group)
    found = torch.empty_like(values, dtype=torch.float8_e4m3fn)
    largest, power = torch.empty((2, count), device=values.device)
    sizes = _sizes(group)
    _expand[(triton.cdiv(count, sizes["GROUPS"]),)](
        values, found.view(torch.uint8), largest, power, n, count, group, steps, **sizes
    )
    return found, largest, power


def contract(stored: Tensor, largest: Tensor, power: Tensor, group: int) -> Tensor:
    """expansion.contract."""
    stored = stored.contiguous()
    found = torch.empty_like(stored, dtype=torch.float32)
    sizes = _sizes(group)
    grid = (triton.cdiv(largest.numel(), sizes["GROUPS"]),)
    _contract[grid](stored.view(torch.uint8), largest, power, found, stored.numel(), largest.numel(), group, **sizes)
    return found


def adamw(parameter: Tensor, gradient: Tensor, first: Moment, second: Moment, group: int, steps: int, *numbers: float) -> None:
    """A step of states.CoatAdamW in place, all contiguous; `numbers` are a states.Rates."""
    sizes = _sizes(group)
    m, v = (first[0].view(torch.uint8), *first[1:]), (second[0].view(torch.uint8), *second[1:])
    n, count = parameter.numel(), first[1].numel()
    _adamw[(triton.cdiv(count, sizes["GROUPS"]),)](
        parameter, gradient, *m, *v, *numbers, n, count, group, steps, ROUNDS=parameter.dtype == torch.bfloat16, **sizes
    )


def _sizes(group: int) -> dict[str, int]:
    width = triton.next_power_of_2(group)
    return {"GROUPS": max(1, BLOCK // width), "WIDTH": width}


@triton.jit
def _encode(x, WIDE: tl.constexpr):
    """FP8 code of float32, to nearest even, saturating; WIDE: E5M2, else E4M3."""
    MANTISSA: tl.constexpr = 2 if WIDE else 3
    BIAS: tl.constexpr = 15 if WIDE else 7
    DROPPED: tl.constexpr = 23 - MANTISSA
    size = tl.minimum(tl.abs(x), 57344.0 if WIDE else 448.0)
    bits = size.to(tl.int32, bitcast=True)
    bits = (bits + (1 << (DROPPED - 1)) - 1 + ((bits >> DROPPED) & 1)) >> DROPPED
    # Added to a number whose last bit is worth the format's smallest step, a small size is rounded to such steps.
    MAGIC: tl.constexpr = 128.0 if WIDE else 16384.0
    MAGIC_BITS: tl.constexpr = 0x43000000 if WIDE else 0x46800000
    steps = (size + MAGIC).to(tl.int32, bitcast=True) - MAGIC_BITS
    code = tl.where(size < (2.0**-14 if WIDE else 2.0**-6), steps, bits - ((127 - BIAS) << MANTISSA))
    code = tl.where(x != x, 0x7F, code)
    return (code | ((x.to(tl.int32, bitcast=True) >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def _decode(code, WIDE: tl.constexpr):
    """float32 of an FP8 code."""
    MANTISSA: tl.constexpr = 2 if WIDE else 3
    BIAS: tl.constexpr = 15 if WIDE else 7
    code = code.to(tl.int32)
    size = code & 0x7F
    normal = ((size << (23 - MANTISSA)) + ((127 - BIAS) << 23)).to(tl.float32, bitcast=True)
    value = tl.where(size < (1 << MANTISSA), size.to(tl.float32) * (2.0**-16 if WIDE else 2.0**-9), normal)
    if WIDE:
        value = tl.where(size == 0x7C, float("inf"), value)
    value = tl.where(size > (0x7C if WIDE else 0x7E), float("nan"), value)
    return tl.where(code >= 0x80, -value, value)


@triton.jit
def _to_bfloat16(x):
    """float32 rounded to a number of bfloat16, to nearest even: the interpreter's own conversion drops bits instead."""
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
    return tl.where(x != x, x, bits.to(tl.float32, bitcast=True))


@triton.jit
def _greater(a, b):
    return tl.maximum(a, b)


@triton.jit
def _smaller(a, b):
    return tl.minimum(a, b)


@triton.jit
def _bits(size):
    """Of sizes as of their bits the greater is the greater, and NaN is greater than all."""
    return size.to(tl.int32, bitcast=True)


@triton.jit
def _signed(size, x):
    """`size` with the sign of x."""
    return (_bits(size) | (_bits(x) & -0x80000000)).to(tl.float32, bitcast=True)


@triton.jit
def _largest(size):
    """The largest of each row; a NaN makes its row NaN."""
    return tl.reduce(_bits(size), 1, _greater).to(tl.float32, bitcast=True)


@triton.jit
def _quantize_tensor(values, found, scale, n, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    x = tl.load(values + place, mask=inside, other=0).to(tl.float32)
    tl.store(found + place, _encode(tl.div_rn(x, tl.load(scale)), WIDE), mask=inside)


@triton.jit
def _quantize_groups(
    values, found, scales, count, width, columns, group, WIDE: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr
):
    chosen = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    row, column = chosen // columns, chosen % columns
    inner = tl.arange(0, WIDTH)[None, :]
    channel = column[:, None] * group + inner
    inside = (chosen[:, None] < count) & (inner < group) & (channel < width)
    place = row[:, None] * width + channel
    x = tl.load(values + place, mask=inside, other=0).to(tl.float32)
    largest = _largest(tl.abs(x))
    largest = tl.where(largest < SMALL, SMALL, largest)
    scale = _to_bfloat16(tl.div_rn(largest, 57344.0 if WIDE else 448.0))
    tl.store(scales + chosen, scale.to(tl.bfloat16), mask=chosen < count)
    tl.store(found + place, _encode(tl.div_rn(x, scale[:, None]), WIDE), mask=inside)


@triton.jit
def _dequantize(
    stored, scales, found, n, width, columns, group, WIDE: tl.constexpr, GROUPED: tl.constexpr, ROUNDS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    value = _decode(tl.load(stored + place, mask=inside, other=0), WIDE)
    if GROUPED:
        scale = tl.load(scales + (place // width) * columns + (place % width) // group, mask=inside, other=0).to(tl.float32)
    else:
        scale = tl.load(scales).to(tl.float32)
    value = value * scale
    if ROUNDS:
        value = _to_bfloat16(value)
    tl.store(found + place, value.to(found.dtype.element_ty), mask=inside)


@triton.jit
def _expanded(x, inside, steps):
    """Codes, largest sizes and powers of rows of float32, as expansion.expand makes them."""
    size = tl.abs(x)
    size = tl.where(size <= SMALL, 0.0, size)
    largest = _largest(size)
    base = tl.where(largest == 0, 1.0, largest)
    least = tl.reduce(_bits(tl.where(inside & (size > 0), size, base[:, None])), 1, _smaller).to(tl.float32, bitcast=True)
    ratio = tl.log2(base) - tl.log2(least)
    ratio = tl.where(ratio < LEAST_RATIO, LEAST_RATIO, ratio)
    power = tl.floor(steps * LOG_RANGE / ratio) / steps
    power = tl.where(power < 1.0 / steps, 1.0 / steps, power)
    share = tl.where(size == 0, 1.0, tl.div_rn(size, base[:, None]))
    expanded = tl.where(size == 0, 0.0, LARGEST * tl.exp2(power[:, None] * tl.log2(share)))
    return _encode(_signed(expanded, x), False), largest, power


@triton.jit
def _contracted(code, largest, power):
    """float32 of rows of codes, as expansion.contract reads them."""
    value = _decode(code, False)
    size = tl.abs(value)
    share = tl.where(size == 0, 1.0, size / LARGEST)
    found = tl.where(size == 0, 0.0, largest[:, None] * tl.exp2(tl.log2(share) / power[:, None]))
    return _signed(found, value)


@triton.jit
def _expand(values, found, largest, power, n, count, group, steps, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    chosen = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    inner = tl.arange(0, WIDTH)[None, :]
    place = chosen[:, None] * group + inner
    inside = (inner < group) & (place < n)
    x = tl.load(values + place, mask=inside, other=0).to(tl.float32)
    code, most, exponent = _expanded(x, inside, steps)
    tl.store(found + place, code, mask=inside)
    tl.store(largest + chosen, most, mask=chosen < count)
    tl.store(power + chosen, exponent, mask=chosen < count)


@triton.jit
def _contract(stored, largest, power, found, n, count, group, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    chosen = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    inner = tl.arange(0, WIDTH)[None, :]
    place = chosen[:, None] * group + inner
    inside = (inner < group) & (place < n)
    most = tl.load(largest + chosen, mask=chosen < count, other=0)
    exponent = tl.load(power + chosen, mask=chosen < count, other=1)
    tl.store(found + place, _contracted(tl.load(stored + place, mask=inside, other=0), most, exponent), mask=inside)


@triton.jit
def _adamw(
    parameter, gradient, m_codes, m_largest, m_power, v_codes, v_largest, v_power,
    decay, rate, gain1, beta2, gain2, eps, root, n, count, group, steps,
    ROUNDS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    chosen = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    inner = tl.arange(0, WIDTH)[None, :]
    place = chosen[:, None] * group + inner
    inside, real = (inner < group) & (place < n), chosen < count
    g = tl.load(gradient + place, mask=inside, other=0).to(tl.float32)
    m_most, m_exponent = tl.load(m_largest + chosen, mask=real, other=0), tl.load(m_power + chosen, mask=real, other=1)
    v_most, v_exponent = tl.load(v_largest + chosen, mask=real, other=0), tl.load(v_power + chosen, mask=real, other=1)
    m = _contracted(tl.load(m_codes + place, mask=inside, other=0), m_most, m_exponent)
    v = _contracted(tl.load(v_codes + place, mask=inside, other=0), v_most, v_exponent)
    m += (g - m) * gain1
    v = v * beta2 + g * g * gain2
    p = tl.load(parameter + place, mask=inside, other=0).to(tl.float32)
    p = p * decay - rate * (m / (tl.sqrt(v) / root + eps))
    if ROUNDS:
        p = _to_bfloat16(p)
    tl.store(parameter + place, p.to(parameter.dtype.element_ty), mask=inside)
    code, most, exponent = _expanded(m, inside, steps)
    tl.store(m_codes + place, code, mask=inside)
    tl.store(m_largest + chosen, most, mask=real)
    tl.store(m_power + chosen, exponent, mask=real)
    code, most, exponent = _expanded(v, inside, steps)
    tl.store(v_codes + place, code, mask=inside)
    tl.store(v_largest + chosen, most, mask=real)
    tl.store(v_power + chosen, exponent, mask=real)
