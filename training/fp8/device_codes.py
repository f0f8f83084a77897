"""What kernels are made of: FP8 codes made and read on a device, and the largest number of a row.

Where a device has no instruction for it codes are made and read with integers, so that cards without an FP8 unit can store FP8
too; every device gets the same bits. They run on a GPU, or, for tests, on a CPU where TRITON_INTERPRET=1 was set before this
module is imported."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

from zkaudit.training.fp8.codes import TINY

BLOCK = 1024  # numbers of one program
CAPABILITY = (8, 9)  # of GPUs that convert FP8 in one instruction
LARGEST = tl.constexpr(448.0)  # of E4M3
SMALL = tl.constexpr(TINY)
LEAST, MOST = tl.constexpr(2.0**-80), tl.constexpr(2.0**100)  # scales by which `scaled` divides in three instructions


def sizes(group: int) -> dict[str, int]:
    """Groups of one program, and the power of two that holds a group."""
    width = triton.next_power_of_2(group)
    return {"GROUPS": max(1, BLOCK // width), "WIDTH": width}


@cache
def native(device: torch.device) -> bool:
    """Whether kernels may leave the conversion of FP8 to the device, whose bits are the same."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY


@triton.jit
def encode(x, WIDE: tl.constexpr, NATIVE: tl.constexpr):
    """FP8 code of float32, to nearest even, saturating; WIDE: E5M2, else E4M3."""
    return x.to(tl.float8e5 if WIDE else tl.float8e4nv).to(tl.uint8, bitcast=True) if NATIVE else _encoded(x, WIDE)


@triton.jit
def _encoded(x, WIDE: tl.constexpr):
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
def decode(code, WIDE: tl.constexpr, NATIVE: tl.constexpr):
    """float32 of an FP8 code."""
    return code.to(tl.float8e5 if WIDE else tl.float8e4nv, bitcast=True).to(tl.float32) if NATIVE else _decoded(code, WIDE)


@triton.jit
def _decoded(code, WIDE: tl.constexpr):
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
def scaled(x, scale, NATIVE: tl.constexpr):
    """x / scale, rounded as division rounds, for a scale or one for each row.

    A reciprocal that is rounded to nearest gives a quotient that one step of correction rounds to nearest (Markstein), where
    remainders are not subnormal; sizes of x whose remainders are would be less than half of the smallest code.
    """
    if NATIVE:
        usual = (scale >= LEAST) & (scale <= MOST)
        if len(scale.shape) == 2:
            usual = tl.reduce(tl.reduce(usual.to(tl.int32), 1, smaller), 0, smaller) == 1
        if usual:
            inverse = tl.div_rn(1.0, scale)
            quotient = x * inverse
            corrected = tl.fma(tl.fma(-quotient, scale, x), inverse, quotient)
            found = tl.where(tl.abs(quotient) < float("inf"), corrected, quotient)
        else:
            found = tl.div_rn(x, scale)
    else:
        found = tl.div_rn(x, scale)
    return found


@triton.jit
def to_bfloat16(x):
    """float32 rounded to a number of bfloat16, to nearest even: the interpreter's own conversion drops bits instead."""
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
    return tl.where(x != x, x, bits.to(tl.float32, bitcast=True))


@triton.jit
def grouped(x, WIDE: tl.constexpr, NATIVE: tl.constexpr):
    """Codes of rows of float32 that have a scale each, and the scales: of bfloat16, in float32."""
    largest = largest_of(tl.abs(x))
    scale = to_bfloat16(tl.div_rn(tl.where(largest < SMALL, SMALL, largest), 57344.0 if WIDE else 448.0))
    return encode(scaled(x, scale[:, None], NATIVE), WIDE, NATIVE), scale


@triton.jit
def greater(a, b):
    return tl.maximum(a, b)


@triton.jit
def smaller(a, b):
    return tl.minimum(a, b)


@triton.jit
def bits_of(size):
    """Of sizes as of their bits the greater is the greater, and NaN is greater than all."""
    return size.to(tl.int32, bitcast=True)


@triton.jit
def signed(size, x):
    """`size` with the sign of x."""
    return (bits_of(size) | (bits_of(x) & -0x80000000)).to(tl.float32, bitcast=True)


@triton.jit
def largest_of(size):
    """The largest of each row; a NaN makes its row NaN."""
    return tl.reduce(bits_of(size), 1, greater).to(tl.float32, bitcast=True)
