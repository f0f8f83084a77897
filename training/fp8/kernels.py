"""The functions of codes.py as Triton kernels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zkaudit.training.fp8.codes import E5M2, Format
from zkaudit.training.fp8.device_codes import (
    BLOCK,
    SMALL,
    bits_of,
    decode,
    encode,
    greater,
    grouped,
    native,
    scaled,
    sizes,
    to_bfloat16,
)

SIDE, QUANTIZED_SIDE = 128, 64  # of the square that one program transposes, and of that which it quantises first
PARTS, PART = 512, 4096  # programs that look for a tensor's largest number, and how many numbers each looks at in one turn


def quantize_tensor(values: Tensor, code: Format, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """codes.quantize_tensor."""
    values = values.contiguous()
    found, n = torch.empty_like(values, dtype=code.dtype), values.numel()
    largest, scale, given = _measured(values, scale)
    _quantize_tensor[(triton.cdiv(n, BLOCK),)](
        values,
        found.view(torch.uint8),
        largest,
        scale,
        n,
        WIDE=code is E5M2,
        NATIVE=native(values.device),
        BLOCK=BLOCK,
        **given,
    )
    return found, scale


def quantize_matrix(values: Tensor, code: Format, scale: Tensor | None, plain: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """Codes of a matrix if they are asked for, those of its transpose, and the scale: one pass after the largest is known."""
    values = values.contiguous()
    rows, columns = values.shape
    found = torch.empty_like(values, dtype=code.dtype) if plain else None
    across = torch.empty(columns, rows, dtype=code.dtype, device=values.device)
    largest, scale, given = _measured(values, scale)
    bits = across.view(torch.uint8)
    _quantize_matrix[_tiles(rows, columns, QUANTIZED_SIDE)](
        values, found.view(torch.uint8) if found is not None else bits, bits, largest, scale, rows, columns,
        WIDE=code is E5M2, NATIVE=native(values.device), PLAIN=plain, SIDE=QUANTIZED_SIDE, **given, num_warps=8,
    )  # fmt: skip
    return found, across, scale


def turned(stored: Tensor) -> Tensor:
    """codes.turned."""
    stored = stored.contiguous()
    rows, columns = stored.shape
    found = torch.empty(columns, rows, dtype=stored.dtype, device=stored.device)
    _turn[_tiles(rows, columns, SIDE)](stored.view(torch.uint8), found.view(torch.uint8), rows, columns, SIDE=SIDE, num_warps=8)
    return found


def quantize_groups(values: Tensor, group: int, code: Format) -> tuple[Tensor, Tensor]:
    """codes.quantize_groups."""
    values = values.contiguous()
    width = values.shape[-1]
    found = torch.empty_like(values, dtype=code.dtype)
    scales = torch.empty((*values.shape[:-1], triton.cdiv(width, group)), dtype=torch.bfloat16, device=values.device)
    constants = {**sizes(group), "WIDE": code is E5M2, "NATIVE": native(values.device)}
    grid = (triton.cdiv(scales.numel(), constants["GROUPS"]),)
    shape = (scales.numel(), width, scales.shape[-1], group)
    _quantize_groups[grid](values, found.view(torch.uint8), scales, *shape, **constants)
    return found, scales


def dequantize(stored: Tensor, scales: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """codes.dequantize."""
    stored = stored.contiguous()
    found = torch.empty_like(stored, dtype=dtype)
    n, wide = stored.numel(), stored.dtype == E5M2.dtype
    direct = native(stored.device) and dtype != torch.float16  # LLVM would multiply in float16, which a scale may not fit
    columns = scales.shape[-1] if scales.ndim else 0
    grid = (triton.cdiv(n, BLOCK),)
    _dequantize[grid](
        stored.view(torch.uint8), scales, found, n, stored.shape[-1] if columns else 1, columns, group, WIDE=wide,
        NATIVE=direct, GROUPED=columns > 0, ROUNDS=dtype == torch.bfloat16, BLOCK=BLOCK,
    )  # fmt: skip
    return found


def _measured(values: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor, dict[str, bool]]:
    """The bits of the largest size, room for a scale, and that a kernel is to make it; or the scale that is given."""
    if scale is not None:
        return scale, scale, {"GIVEN": True}
    largest = torch.zeros((), dtype=torch.int32, device=values.device)
    n = values.numel()
    _largest_size[(min(PARTS, triton.cdiv(n, PART)),)](
        values, largest, n, triton.cdiv(n, PARTS * PART), BLOCK=PART, num_warps=8
    )
    return largest, torch.empty((), device=values.device), {"GIVEN": False}


def _tiles(rows: int, columns: int, side: int) -> tuple[int]:
    return (triton.cdiv(rows, side) * triton.cdiv(columns, side),)


@triton.jit
def _largest_size(values, largest, n, turns, BLOCK: tl.constexpr):
    """The bits of the largest size."""
    most = tl.full((BLOCK,), 0, tl.int32)
    for turn in range(turns):
        place = (turn * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(values + place, mask=place < n, other=0).to(tl.float32)
        most = tl.maximum(most, bits_of(tl.abs(x)))
    tl.atomic_max(largest, tl.reduce(most, 0, greater))


@triton.jit
def _scale(largest, scale, WIDE: tl.constexpr, GIVEN: tl.constexpr):
    """The scale that is given, or what the largest size needs, which one program writes down."""
    if GIVEN:
        found = tl.load(scale)
    else:
        most = tl.load(largest).to(tl.float32, bitcast=True)
        found = tl.div_rn(tl.where(most < SMALL, SMALL, most), 57344.0 if WIDE else 448.0)
        tl.store(scale, found, mask=tl.program_id(0) == 0)
    return found


@triton.jit
def _quantize_tensor(
    values, found, largest, scale, n, WIDE: tl.constexpr, NATIVE: tl.constexpr, GIVEN: tl.constexpr, BLOCK: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    x = tl.load(values + place, mask=inside, other=0).to(tl.float32)
    tl.store(found + place, encode(scaled(x, _scale(largest, scale, WIDE, GIVEN), NATIVE), WIDE, NATIVE), mask=inside)


@triton.jit
def _quantize_matrix(
    values, found, across, largest, scale, rows, columns,
    WIDE: tl.constexpr, NATIVE: tl.constexpr, PLAIN: tl.constexpr, GIVEN: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    row, column = _tile(columns, SIDE)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    place = row[:, None] * columns + column[None, :]
    x = tl.load(values + place, mask=inside, other=0).to(tl.float32)
    code = encode(scaled(x, _scale(largest, scale, WIDE, GIVEN), NATIVE), WIDE, NATIVE)
    if PLAIN:
        tl.store(found + place, code, mask=inside)
    tl.store(across + column[:, None] * rows + row[None, :], tl.trans(code), mask=tl.trans(inside))


@triton.jit
def _turn(stored, found, rows, columns, SIDE: tl.constexpr):
    row, column = _tile(columns, SIDE)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    code = tl.load(stored + row[:, None] * columns + column[None, :], mask=inside, other=0)
    tl.store(found + column[:, None] * rows + row[None, :], tl.trans(code), mask=tl.trans(inside))


@triton.jit
def _tile(columns, SIDE: tl.constexpr):
    """Rows and columns of a program's square."""
    across = (columns + SIDE - 1) // SIDE
    row = (tl.program_id(0) // across).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    column = (tl.program_id(0) % across).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    return row, column


@triton.jit
def _quantize_groups(
    values, found, scales, count, width, columns, group,
    WIDE: tl.constexpr, NATIVE: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    chosen = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    row, column = chosen // columns, chosen % columns
    inner = tl.arange(0, WIDTH)[None, :]
    channel = column[:, None] * group + inner
    inside = (chosen[:, None] < count) & (inner < group) & (channel < width)
    place = row[:, None] * width + channel
    x = tl.load(values + place, mask=inside, other=0).to(tl.float32)
    code, scale = grouped(x, WIDE, NATIVE)
    tl.store(scales + chosen, scale.to(tl.bfloat16), mask=chosen < count)
    tl.store(found + place, code, mask=inside)


@triton.jit
def _dequantize(
    stored, scales, found, n, width, columns, group,
    WIDE: tl.constexpr, NATIVE: tl.constexpr, GROUPED: tl.constexpr, ROUNDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    value = decode(tl.load(stored + place, mask=inside, other=0), WIDE, NATIVE)
    if GROUPED:
        scale = tl.load(scales + (place // width) * columns + (place % width) // group, mask=inside, other=0).to(tl.float32)
    else:
        scale = tl.load(scales).to(tl.float32)
    value = value * scale
    if ROUNDS:
        value = to_bfloat16(value)
    tl.store(found + place, value.to(found.dtype.element_ty), mask=inside)
