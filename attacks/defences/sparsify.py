"""Top-k: of each tensor only a fraction of the entries, the largest, is sent; the others arrive as zero."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zkaudit.attacks.defences.defence import Defence, Kind, arguments, number


def largest(value: Tensor, fraction: float) -> Tensor:
    """The tensor with all but its ceil(fraction n) largest entries, by magnitude, set to zero."""
    flat = value.flatten()
    kept = flat.abs().topk(math.ceil(fraction * flat.numel())).indices
    return torch.zeros_like(flat).index_copy(0, kept, flat[kept]).reshape(value.shape)


def _make(text: str, given: Sequence[str]) -> Defence:
    arguments(text, given, 1, 1)
    fraction = number(text, given[0], "fraction kept", 0, 1)
    return Defence(text, lambda tensors, _: {name: largest(value, fraction) for name, value in tensors.items()})


KINDS = (
    Kind(
        "top_k",
        "top_k:0.1",
        "only this fraction of each tensor's entries, the largest, is sent",
        "the directions of largest singular values stay: rank candidates against a capped rank",
        _make,
    ),
)
