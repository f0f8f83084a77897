"""8-bit floating point with scales: x is stored as the code of x / s, and read back as code * s.

s is the largest |x| of its tensor or of its group over the format's largest number, so that no number overflows: 448 of E4M3
(4 bits of exponent, 3 of mantissa), 57344 of E5M2. Rounding is to nearest, ties to even. Groups lie along the last dimension,
which holds channels: they never cross tokens. A NaN or an infinity makes its whole group, or tensor, NaN: it is not hidden.

The torch code defines what each function returns. On a GPU the kernels of kernels.py return the same bits where Triton can
run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from subprocess import SubprocessError
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

OVERFLOW = 2.0**127 / 232  # takes 480, which E4M3's NaN would be, and not 448, beyond float32
PIECE = 1 << 16  # numbers that a CPU converts at a time
TINY = 2.0**-100  # smaller sizes count as this in a scale: far from float32's subnormal numbers, which devices may flush


@dataclass(frozen=True)
class Format:
    """One of the two formats; `largest` is its largest finite number."""

    name: str
    dtype: torch.dtype
    largest: float


E4M3 = Format("E4M3", torch.float8_e4m3fn, 448.0)
E5M2 = Format("E5M2", torch.float8_e5m2, 57344.0)
FORMATS = {code.name: code for code in (E4M3, E5M2)}


def cast(values: Tensor, code: Format = E4M3) -> Tensor:
    """`values` rounded to the nearest code, ties to even; what lies beyond the largest number becomes it; NaN stays NaN."""
    return values.float().clamp(-code.largest, code.largest).to(code.dtype)


def read(codes: Tensor) -> Tensor:
    """The numbers of codes, float32: as torch converts them, but faster on a CPU, through float16, which has room for them."""
    bits = codes.view(torch.uint8).to(torch.int16)
    if codes.dtype == E5M2.dtype:
        return (bits << 8).view(torch.float16).float()
    found = (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).view(torch.float16).float().mul_(2.0**8)
    return found.add_((found * OVERFLOW).mul_(0))


def quantize_tensor(values: Tensor, code: Format = E4M3, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Codes of the shape of `values`, and their one scale, float32 without dimensions: `scale`, or what the values need."""
    if kernels := kernels_for(values):
        with torch.cuda.device(values.device):
            return kernels.quantize_tensor(values, code, scale)  # type: ignore[no-any-return]
    scale = _scale(values, code) if scale is None else scale
    flat = values.detach().flatten()
    codes = torch.empty_like(flat, dtype=code.dtype)
    for piece in _pieces(flat):
        codes[piece] = cast(flat[piece].float() / scale, code)
    return codes.reshape(values.shape), scale


def quantize_turned(values: Tensor, code: Format = E4M3, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """quantize_tensor of the transpose of `values` (rows, columns): codes (columns, rows) in a memory of their own."""
    if kernels := kernels_for(values):
        with torch.cuda.device(values.device):
            return kernels.quantize_matrix(values, code, scale, plain=False)[1:]  # type: ignore[no-any-return]
    codes, scale = quantize_tensor(values, code, scale)
    return turned(codes), scale


def quantize_both(values: Tensor, code: Format = E4M3) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of a matrix, those of its transpose, and their one scale."""
    if kernels := kernels_for(values):
        with torch.cuda.device(values.device):
            return kernels.quantize_matrix(values, code, None, plain=True)  # type: ignore[no-any-return]
    codes, scale = quantize_tensor(values, code)
    return codes, turned(codes), scale


def turned(codes: Tensor) -> Tensor:
    """The transpose of codes (rows, columns), in a memory of its own."""
    if kernels := kernels_for(codes):
        with torch.cuda.device(codes.device):
            return kernels.turned(codes)  # type: ignore[no-any-return]
    return codes.T.contiguous()


def quantize_groups(values: Tensor, group: int = 16, code: Format = E4M3) -> tuple[Tensor, Tensor]:
    """Codes of the shape of `values` (..., n), and a bfloat16 scale for each group of channels (..., ceil(n / group))."""
    if kernels := kernels_for(values):
        with torch.cuda.device(values.device):
            return kernels.quantize_groups(values, group, code)  # type: ignore[no-any-return]
    width = values.shape[-1]
    rows = _rows(values.detach())
    codes, scales = (
        torch.empty_like(rows, dtype=code.dtype),
        rows.new_empty(len(rows), -(-width // group), dtype=torch.bfloat16),
    )
    for piece in _pieces(rows):
        sizes = _in_groups(rows[piece].abs(), group)
        scales[piece] = sizes.amax(-1).float().clamp(min=TINY) / code.largest
        codes[piece] = cast(rows[piece].float() / _spread(scales[piece], group, width), code)
    return codes.reshape(values.shape), scales.reshape(*values.shape[:-1], scales.shape[1])


def dequantize(codes: Tensor, scales: Tensor, group: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    """What was quantised, as `dtype`; a scale without dimensions belongs to the whole tensor."""
    if kernels := kernels_for(codes):
        with torch.cuda.device(codes.device):
            return kernels.dequantize(codes, scales, group, dtype)  # type: ignore[no-any-return]
    stored = _rows(codes) if scales.ndim else codes.flatten()
    found = torch.empty_like(stored, dtype=dtype)
    by_row = _rows(scales) if scales.ndim else None
    for piece in _pieces(stored):
        factor = scales if by_row is None else _spread(by_row[piece], group, stored.shape[-1])
        found[piece] = read(stored[piece]).mul_(factor)
    return found.reshape(codes.shape)


def rounded(values: Tensor, code: Format) -> Tensor:
    """`values` rounded to `code` with one scale, in their own type."""
    return dequantize(*quantize_tensor(values, code), dtype=values.dtype)


def _rows(values: Tensor) -> Tensor:
    """(..., n) as a matrix (rows, n)."""
    return values.reshape(values.shape[:-1].numel(), values.shape[-1])


def _pieces(values: Tensor) -> Iterator[slice]:
    """Numbers or rows to convert at a time: on a CPU few, so that what is float32 between stays small, and in its caches."""
    step = len(values) if values.is_cuda else PIECE // values[:1].numel() if values.numel() else 1
    step = max(1, step)
    return (slice(start, start + step) for start in range(0, len(values), step))


def _scale(values: Tensor, code: Format) -> Tensor:
    """With which the largest size becomes the format's largest number."""
    if values.numel() == 0:
        return torch.ones((), device=values.device)
    low, high = torch.aminmax(values.detach())
    return torch.maximum(-low, high).float().clamp(min=TINY) / code.largest


def _in_groups(values: Tensor, group: int) -> Tensor:
    """(..., n) as (..., ceil(n / group), group), with zeros after the end."""
    missing = -values.shape[-1] % group
    padded = F.pad(values, (0, missing)) if missing else values
    return padded.reshape(*padded.shape[:-1], padded.shape[-1] // group, group)


def _spread(scales: Tensor, group: int, width: int) -> Tensor:
    """Scales (..., ceil(width / group)) of each number (..., width), float32."""
    return scales.float().repeat_interleave(group, -1)[..., :width]


def kernels_for(values: Tensor, name: str = "kernels") -> ModuleType | None:
    """The Triton kernels in the module of that name, if these values are for them."""
    return _loaded(name) if values.is_cuda and values.numel() else None


@cache
def _loaded(name: str) -> ModuleType | None:
    # Triton may be missing, or lack the C compiler or headers with which it makes its launcher: the first launch tells.
    try:
        from zkaudit.training.fp8 import kernels

        kernels.quantize_groups(torch.zeros(16, device="cuda"), 16, E4M3)
    except (ImportError, OSError, RuntimeError, SubprocessError):
        return None
    return import_module(f"zkaudit.training.fp8.{name}")
