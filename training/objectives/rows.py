"""Batches of a source that is read and a target that has the loss, for an encoder and decoder or for a decoder alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Pair(NamedTuple):
    """What a model of text to text reads and is to write."""

    source: str
    target: str


def batch_of(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], pad: int, causal: bool = False
) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels (N, length), padded on the right; labels are -100 where there is no loss.

    For an encoder and decoder input_ids are the sources and labels the targets. `causal` puts source and target in one row,
    for a decoder that shifts labels itself, with loss on the target alone.
    """
    pairs = list(zip(sources, targets, strict=True))
    rows = [[*source, *target] for source, target in pairs] if causal else sources
    labels = [[*[-100] * len(source), *target] for source, target in pairs] if causal else targets
    return {
        "input_ids": padded(rows, pad),
        "attention_mask": padded([[1] * len(row) for row in rows], 0),
        "labels": padded(labels, -100),
    }


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """(N, longest), filled on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
