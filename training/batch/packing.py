"""Packing: several short sequences in one of full length, bins filled by first-fit decreasing, none attending to another.

Sequences are taken by falling length, ties by the lower number; each goes into the first bin that has room, or opens one. Never
more than 11/9 of the fewest possible bins, and 6/9 of one (Dosa 2007). A packed row numbers its positions from 0 in each
sequence, masks attention between them and predicts no first token, so that it trains on what single sequences would.

Wang et al., "Open-Qwen2VL", 2025, arXiv:2504.00595, packs images and text to 4096 tokens so. Its released script joins
sequences without a mask; the mask and the positions are ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zkaudit.training.batch.sampler import RecordedSampler
from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.replay import Rule, Run, SamplerRule, made
from zkaudit.zk.sampling import shuffled

METHOD = Method(
    name="packing",
    title="First-fit-decreasing packing",
    paper="Wang, Tian, Yang, Tang, Jia, Yan 2025, arXiv:2504.00595",
    where="zkaudit.training.batch.packing.PackedSampler",
    changes=("speed", "batch"),
    effect="Open-Qwen2VL passes Qwen2-VL on four benchmarks with 0.36% of its tokens, packed, in 442 A100 hours.",
    library="trl packs by best-fit decreasing, for flash attention; bins, mask and positions are ours.",
    provable="Bins follow from public lengths and the order from the public seed; a packed row is an ordinary one.",
    server_sees="Several records in each row: a little harder to tell apart than one record a row. Lengths show in the bins.",
    use=(
        "from zkaudit.training.batch.packing import PackedSampler, packed\n"
        "\n"
        'sampler = PackedSampler([len(s) for s in sequences], 4096, batch=8, run_seed="public", steps=1000)\n'
        "for bins in sampler:  # lists of sequence numbers\n"
        "    model(**packed([[sequences[i] for i in each] for each in bins], 4096)).loss.backward()"
    ),
    avoid="Models that cannot take a mask of two positions (recurrent ones): sequences would run into each other.",
    binding="replayable",
)

IGNORED = -100  # the label of what is not predicted


def pack_ffd(lengths: Sequence[int] | NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Bins of numbers of sequences, each of at most `capacity` in all; within a bin in the order they came in.

    TrainingError for a length below 1 or above the capacity.
    """
    sizes = [int(length) for length in lengths]
    for number, size in enumerate(sizes):
        if not 1 <= size <= capacity:
            raise TrainingError(
                f"sequence {number} has length {size}: from 1 to {capacity} can be packed; cut it or leave it out"
            )
    bins: list[list[int]] = []
    room = _Room(len(sizes), capacity)
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        if (place := room.first(sizes[number])) == len(bins):
            bins.append([])
        bins[place].append(number)
        room.take(place, sizes[number])
    return bins


def packed(
    bins: Sequence[Sequence[Sequence[int] | Tensor]], capacity: int, pad: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """A batch for a causal model of transformers: one row a bin, of the token ids of its sequences.

    input_ids, labels, position_ids (bins, capacity); attention_mask (bins, 1, capacity, capacity) of the model's `dtype`, to be
    added to scores: 0 where a token sees another, in its own sequence and not after itself, the lowest number elsewhere.
    Padding sees itself alone and is not predicted.
    """
    ids = torch.full((len(bins), capacity), pad)
    labels = torch.full((len(bins), capacity), IGNORED)
    positions = torch.zeros((len(bins), capacity), dtype=torch.long)
    sequence = torch.arange(-capacity, 0).repeat(len(bins), 1)  # padding: each place a sequence of its own
    for row, members in enumerate(bins):
        start = 0
        for number, member in enumerate(members):
            tokens = torch.as_tensor(member)
            if (end := start + len(tokens)) > capacity:
                raise TrainingError(f"bin {row} holds more than the {capacity} tokens of a row")
            ids[row, start:end] = labels[row, start:end] = tokens
            labels[row, start] = IGNORED
            positions[row, start:end] = torch.arange(len(tokens))
            sequence[row, start:end] = number
            start = end
    sees = (sequence[:, :, None] == sequence[:, None, :]) & torch.ones(capacity, capacity, dtype=torch.bool).tril()
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "attention_mask": mask[:, None]}


class PackedSampler(RecordedSampler):
    """Batches of `batch` bins, in a fresh order of the bins each epoch; a key is the list of the numbers in a bin."""

    def __init__(
        self, lengths: Sequence[int] | NDArray[np.int64], capacity: int, batch: int, *, run_seed: str, steps: int
    ) -> None:
        super().__init__(run_seed, steps)
        self.lengths, self.capacity, self.batch = [int(length) for length in lengths], capacity, batch
        self.bins = pack_ffd(self.lengths, capacity)
        if not 1 <= batch <= len(self.bins):
            raise TrainingError(f"batch = {batch} cannot be drawn from {len(self.bins)} bins")

    @property
    def filled(self) -> float:
        """The share of places that hold a token."""
        return sum(self.lengths) / (len(self.bins) * self.capacity)

    def stream(self, first: int) -> Iterator[dict[str, Any]]:
        per_epoch = len(self.bins) // self.batch
        for epoch in count(first // per_epoch):
            order = shuffled(b"zkaudit bins", self.seed, epoch, np.arange(len(self.bins))).tolist()
            for place in range(first % per_epoch if epoch == first // per_epoch else 0, per_epoch):
                chosen = [self.bins[number] for number in order[place * self.batch : (place + 1) * self.batch]]
                ids = tuple(number for each in chosen for number in each)
                yield {
                    "ids": ids,
                    "epoch": epoch,
                    "bins": tuple(row for row, each in enumerate(chosen) for _ in each),
                    "seq_len": self.capacity,
                    "n_tokens": sum(self.lengths[number] for number in ids),
                }

    def keys(self, chosen: Mapping[str, Any]) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in range(self.batch)]
        for number, row in zip(chosen["ids"], chosen["bins"], strict=True):
            found[row].append(number)
        return found


class _Room:
    """What is left in each of so many bins: a tree of maxima, in which the first bin with room is found in log n steps."""

    def __init__(self, bins: int, capacity: int) -> None:
        self.leaves = 1 << max(0, bins - 1).bit_length()
        self.most = [capacity] * (2 * self.leaves)

    def first(self, size: int) -> int:
        node = 1
        while node < self.leaves:
            node = 2 * node if self.most[2 * node] >= size else 2 * node + 1
        return node - self.leaves

    def take(self, place: int, size: int) -> None:
        node = place + self.leaves
        self.most[node] -= size
        while node := node // 2:
            self.most[node] = max(self.most[2 * node], self.most[2 * node + 1])


def rule(run: Run, options: Mapping[str, Any]) -> Rule:
    """{"capacity": 4096, "batch": 8}, with a column "length"."""

    def make(capacity: int, batch: int) -> PackedSampler:
        return PackedSampler(run.column("length"), capacity, batch, run_seed=run.header.run_seed, steps=1)

    return SamplerRule(made(make, "packing", options))
