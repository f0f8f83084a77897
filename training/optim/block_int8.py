"""Optimizer states in 8 bits, block by block (Dettmers et al. 2022, arXiv 2110.02861).

A tensor is cut into blocks of 256 numbers; a block is stored as its largest magnitude s (float32) and, for each number x, the
index of the entry of a fixed table of 256 values that is nearest to x / s. The table is the "dynamic tree": seven decades, with
1, 2, 4, ... 64 values in each (twice as many if all are >= 0), so that small numbers keep a relative precision. One number
costs 1 + 4/256 bytes. Blocks of 256 are the paper's.

With `states="int8"` GaLoreAdamW and FiraAdamW keep their moments so (moments.py); without a rank that is plain 8-bit AdamW. A
first moment has the signed table; a second moment the unsigned one, and is never rounded from above 0 to 0: with 0 under Adam's
root, a first moment left from earlier steps would be divided by eps alone."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="block-int8-states",
    title="Block-wise 8-bit optimizer states",
    paper="Dettmers, Lewis, Shleifer, Zettlemoyer 2022, arXiv 2110.02861",
    where="zkaudit.training.optim.galore.GaLoreAdamW",
    changes=("memory",),
    effect="Adam's two moments take a quarter of their float32 bytes at the quality of 32-bit states.",
    library="bitsandbytes has the same table in CUDA kernels; this one is plain torch and runs on every device",
    provable="Rounding to the nearest of 256 values is a lookup in a table; no relation for it is written yet.",
    server_sees="The same as without: states are local, an update differs by their rounding.",
    use=(
        "from zkaudit.training.optim.galore import GaLoreAdamW\n"
        "\n"
        'optimizer = GaLoreAdamW(model.parameters(), lr=1e-3, states="int8")  # without a rank, 8-bit AdamW'
    ),
    avoid="Small models: a moment of fewer than 4096 numbers stays in float32. On a CPU a small model's step takes 30% longer.",
)

BLOCK = 256


def quantize(values: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes (uint8, of the values' shape) and scales (float32, one a block of the flattened values).

    Unsigned values must be >= 0; one above 0 gets a code above 0."""
    flat = values.detach().float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    unit = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    codes = _nearest(unit, signed).to(torch.uint8)
    if not signed:
        codes = codes.maximum((blocks > 0).to(torch.uint8))
    return codes.flatten()[: len(flat)].view(values.shape), scales


def dequantize(codes: Tensor, scales: Tensor, signed: bool, dtype: torch.dtype = torch.float32) -> Tensor:
    """The values that the codes stand for."""
    if len(scales) != -(-codes.numel() // BLOCK):
        raise TrainingError(f"{codes.numel()} codes need {-(-codes.numel() // BLOCK)} scales, not {len(scales)}")
    values = table(signed, codes.device).index_select(0, codes.flatten().int())
    return (values * scales.repeat_interleave(BLOCK)[: codes.numel()]).view(codes.shape).to(dtype)


@functools.cache
def table(signed: bool, device: torch.device | str = "cpu") -> Tensor:
    """The 256 values, ascending, float32: 0, 1, and in decade 10^(i-6) the centres of 2^i (2^(i+1)) equal parts of [0.1, 1]."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1, dtype=torch.float64)
        centres = ((edges[1:] + edges[:-1]) / 2 * 10.0 ** (i - 6)).tolist()
        values += centres + ([-c for c in centres] if signed else [])
    return torch.tensor(sorted(values), dtype=torch.float64).float().to(device)


def _nearest(unit: Tensor, signed: bool) -> Tensor:
    """Index of the table's entry nearest to each number in [-1, 1], of two that are as near the lower one.

    What torch.bucketize finds among the midpoints of entries. Numbers with the same upper 16 bits as float32 have one midpoint
    between them at most, so that one look at those bits and one comparison do: ten times faster on a CPU.
    """
    midpoints, starts = _midpoints(signed, unit.device)
    least = starts.index_select(0, ((unit.view(torch.int32) >> 16) + 2**15).flatten())
    return (least + (midpoints.index_select(0, least) < unit.flatten())).view(unit.shape)


@functools.cache
def _midpoints(signed: bool, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Those between entries, and infinity; and how many lie below all numbers with the upper bits i - 2^15, for each i."""
    values = table(signed, device)
    midpoints = (values[1:] + values[:-1]) / 2
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32, device=device) << 16
    lowest = torch.where(bits < 0, bits | 0xFFFF, bits).view(torch.float32)
    return torch.cat([midpoints, midpoints.new_tensor([torch.inf])]), torch.bucketize(lowest, midpoints, out_int32=True)
