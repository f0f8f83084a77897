"""RMSNorm and the gated product, with what they store of their inputs, as one Triton kernel each way.

What layers.Stored does with a function of torch's, for the two functions of a decoder layer that are many small operations
there. Rows are split into groups that share a scale; a group is a power of two, and divides the row. They run where those of
kernels.py run."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zkaudit.training.fp8.device_codes import BLOCK, decode, grouped, native, to_bfloat16

ROWS = 512  # programs that share the rows of a norm's backward pass
Stored = tuple[Tensor, Tensor]  # codes, and the groups' scales in bfloat16


def norm(x: Tensor, weight: Tensor, eps: float, group: int, exact: bool) -> tuple[Tensor, Stored]:
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension, and x as it is stored; `exact`: not of what is stored."""
    x = x.contiguous()
    width = x.shape[-1]
    found, stored = torch.empty_like(x), _room(x, group)
    _norm_forward[(x.numel() // width,)](
        x, weight, stored[0].view(torch.uint8), stored[1], found, width, eps, EXACT=exact, **_row(x, group)
    )
    return found, stored


def norm_gradients(gradient: Tensor, stored: Stored, weight: Tensor, eps: float, group: int) -> tuple[Tensor, Tensor]:
    """Of x and of weight, at the stored x."""
    gradient = gradient.contiguous()
    width = gradient.shape[-1]
    rows = gradient.numel() // width
    programs = min(rows, ROWS)
    of_x = torch.empty_like(gradient)
    parts = torch.empty(programs, width, device=gradient.device)
    _norm_backward[(programs,)](
        stored[0].view(torch.uint8), stored[1], weight, gradient, of_x, parts,
        rows, triton.cdiv(rows, programs), width, eps, **_row(gradient, group),
    )  # fmt: skip
    return of_x, parts.sum(0).to(weight.dtype)


def gate(x: Tensor, up: Tensor, group: int, exact: bool) -> tuple[Tensor, Stored, Stored]:
    """silu(x) * up, and both as they are stored."""
    x, up = x.contiguous(), up.contiguous()
    found, first, second = torch.empty_like(x), _room(x, group), _room(up, group)
    count = x.numel() // group
    _gate_forward[(triton.cdiv(count * group, BLOCK),)](
        x, up, first[0].view(torch.uint8), first[1], second[0].view(torch.uint8), second[1], found, count,
        EXACT=exact, **_groups_of(x, group),
    )  # fmt: skip
    return found, first, second


def gate_gradients(gradient: Tensor, x: Stored, up: Stored, group: int) -> tuple[Tensor, Tensor]:
    """Of both, at what is stored."""
    gradient = gradient.contiguous()
    of_x, of_up = torch.empty_like(gradient), torch.empty_like(gradient)
    count = gradient.numel() // group
    _gate_backward[(triton.cdiv(count * group, BLOCK),)](
        x[0].view(torch.uint8), x[1], up[0].view(torch.uint8), up[1], gradient, of_x, of_up, count,
        **_groups_of(gradient, group),
    )  # fmt: skip
    return of_x, of_up


def _room(x: Tensor, group: int) -> Stored:
    scales = torch.empty(*x.shape[:-1], x.shape[-1] // group, dtype=torch.bfloat16, device=x.device)
    return torch.empty_like(x, dtype=torch.float8_e4m3fn), scales


def _row(x: Tensor, group: int) -> dict[str, int]:
    """Constants of a kernel whose programs have a row each."""
    groups = triton.next_power_of_2(x.shape[-1] // group)
    warps = min(16, max(1, groups * group // 256))
    return {**_groups_of(x, group), "GROUPS": groups, "num_warps": warps}


def _groups_of(x: Tensor, group: int) -> dict[str, int]:
    """Constants of a kernel whose programs have a few groups each."""
    groups = max(1, BLOCK // group)
    return {"ROUNDS": x.dtype == torch.bfloat16, "NATIVE": native(x.device), "GROUPS": groups, "GROUP": group}


@triton.jit
def _read(code, scale, NATIVE: tl.constexpr, ROUNDS: tl.constexpr):
    """What rows of codes stand for, in float32, rounded as their tensor's own type rounds."""
    return _rounded(decode(code, False, NATIVE) * scale[:, None], ROUNDS)


@triton.jit
def _rounded(x, ROUNDS: tl.constexpr):
    return to_bfloat16(x) if ROUNDS else x


@triton.jit
def _add(a, b):
    return a + b


@triton.jit
def _sum(x):
    return tl.reduce(tl.reduce(x, 1, _add), 0, _add)


@triton.jit
def _norm_forward(
    values, weight, codes, scales, found, width, eps,
    EXACT: tl.constexpr, NATIVE: tl.constexpr, ROUNDS: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, GROUPS)
    channel = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = channel < width
    x = tl.load(values + row * width + channel, mask=inside, other=0).to(tl.float32)
    code, scale = grouped(x, False, NATIVE)
    tl.store(codes + row * width + channel, code, mask=inside)
    tl.store(scales + row * (width // GROUP) + group, scale.to(tl.bfloat16), mask=group * GROUP < width)
    if not EXACT:
        x = tl.where(inside, _read(code, scale, NATIVE, ROUNDS), 0.0)
    hat = _rounded(x / tl.sqrt(_sum(x * x) / width + eps), ROUNDS)
    y = _rounded(hat * tl.load(weight + channel, mask=inside, other=0).to(tl.float32), ROUNDS)
    tl.store(found + row * width + channel, y.to(found.dtype.element_ty), mask=inside)


@triton.jit
def _norm_backward(
    codes, scales, weight, gradient, of_x, parts, rows, turns, width, eps,
    NATIVE: tl.constexpr, ROUNDS: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    group = tl.arange(0, GROUPS)
    channel = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    w = tl.load(weight + channel, mask=channel < width, other=0).to(tl.float32)
    total = tl.full((GROUPS, GROUP), 0.0, tl.float32)
    for turn in range(turns):
        row = (turn * tl.num_programs(0) + tl.program_id(0)).to(tl.int64)
        inside = (channel < width) & (row < rows)
        real = (group * GROUP < width) & (row < rows)
        scale = tl.load(scales + row * (width // GROUP) + group, mask=real, other=0).to(tl.float32)
        x = _read(tl.load(codes + row * width + channel, mask=inside, other=0), scale, NATIVE, ROUNDS)
        g = tl.load(gradient + row * width + channel, mask=inside, other=0).to(tl.float32)
        root = tl.sqrt(_sum(x * x) / width + eps)
        hat, up = x / root, _rounded(g * w, ROUNDS)
        total += g * _rounded(hat, ROUNDS)
        found = _rounded((up - hat * (_sum(up * hat) / width)) / root, ROUNDS)
        tl.store(of_x + row * width + channel, found.to(of_x.dtype.element_ty), mask=inside)
    tl.store(parts + tl.program_id(0) * width + channel, total, mask=channel < width)


@triton.jit
def _groups(count, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    """A program's groups, the places of their numbers, and which of both are there."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    inside = tl.broadcast_to((group < count)[:, None], (GROUPS, GROUP))
    return group, group[:, None] * GROUP + tl.arange(0, GROUP)[None, :], group < count, inside


@triton.jit
def _gate_forward(
    values, up, codes, scales, up_codes, up_scales, found, count,
    EXACT: tl.constexpr, NATIVE: tl.constexpr, ROUNDS: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    group, place, real, inside = _groups(count, GROUPS, GROUP)
    x = tl.load(values + place, mask=inside, other=0).to(tl.float32)
    u = tl.load(up + place, mask=inside, other=0).to(tl.float32)
    code, scale = grouped(x, False, NATIVE)
    up_code, up_scale = grouped(u, False, NATIVE)
    tl.store(codes + place, code, mask=inside)
    tl.store(scales + group, scale.to(tl.bfloat16), mask=real)
    tl.store(up_codes + place, up_code, mask=inside)
    tl.store(up_scales + group, up_scale.to(tl.bfloat16), mask=real)
    if not EXACT:
        x, u = _read(code, scale, NATIVE, ROUNDS), _read(up_code, up_scale, NATIVE, ROUNDS)
    y = _rounded(_rounded(x * _sigmoid(x), ROUNDS) * u, ROUNDS)
    tl.store(found + place, y.to(found.dtype.element_ty), mask=inside)


@triton.jit
def _gate_backward(
    codes, scales, up_codes, up_scales, gradient, of_x, of_up, count,
    NATIVE: tl.constexpr, ROUNDS: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    group, place, real, inside = _groups(count, GROUPS, GROUP)
    scale = tl.load(scales + group, mask=real, other=0).to(tl.float32)
    up_scale = tl.load(up_scales + group, mask=real, other=0).to(tl.float32)
    x = _read(tl.load(codes + place, mask=inside, other=0), scale, NATIVE, ROUNDS)
    u = _read(tl.load(up_codes + place, mask=inside, other=0), up_scale, NATIVE, ROUNDS)
    g = tl.load(gradient + place, mask=inside, other=0).to(tl.float32)
    share = _sigmoid(x)
    found = _rounded(_rounded(g * u, ROUNDS) * (share * (1 + x * (1 - share))), ROUNDS)
    tl.store(of_x + place, found.to(of_x.dtype.element_ty), mask=inside)
    found = _rounded(g * _rounded(x * share, ROUNDS), ROUNDS)
    tl.store(of_up + place, found.to(of_up.dtype.element_ty), mask=inside)


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))
