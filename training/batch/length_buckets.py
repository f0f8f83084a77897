"""Dataset decomposition: documents cut into pieces of 2^k tokens, batches of one length each, short ones first in each cycle.

A document of n tokens, its end mark among them, gives off pieces greedily: the largest 2^k with low <= k <= high that fits; of
one longer than 2^high, k is drawn with odds 2^(high - k), or is `high`. A piece holds 2^k + 1 tokens, so that the targets are
the inputs moved by one; tails below 2^low are lost. A batch takes `tokens` / 2^k pieces of one bucket, so that every step has
as many tokens, and no piece attends to another document. Within a cycle, buckets are drawn by their tokens times the
curriculum's odds until they are empty (zk/sampling.py).

Pouransari et al., "Dataset Decomposition: Faster LLM Training with Variable Sequence Length Curriculum", 2024,
arXiv:2405.13226. Defaults are theirs: lengths 256 to 8192, odds 32:16:8:4:2:1, 8 cycles, 64 x 8192 tokens a batch."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from zkaudit.training.batch.sampler import RecordedSampler
from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.replay import Rule, Run, SamplerRule, made
from zkaudit.training.steps import derive_seed
from zkaudit.zk.errors import BadInput
from zkaudit.zk.sampling import LengthBuckets

METHOD = Method(
    name="length-buckets",
    title="Dataset decomposition: buckets of like lengths, short first",
    paper="Pouransari et al. 2024, arXiv:2405.13226",
    where="zkaudit.training.batch.length_buckets.LengthBucketSampler",
    changes=("speed", "batch", "schedule"),
    effect="A 1B model of context 8192 at the cost of one of 2048; a target accuracy in a third of the time.",
    library="The released scripts patch open_lm; decomposition and sampler are ours, in integers.",
    provable="Exact training may draw buckets of one batch size; proofs show it (docs/step-records.md). Lengths are declared.",
    server_sees="Gradients of whole pieces of single documents of one length; the length shows in shapes and positions.",
    use=(
        "from zkaudit.training.batch.length_buckets import Decomposition, LengthBucketSampler, Pieces\n"
        "\n"
        'cut = Decomposition([len(d) for d in documents], low=8, high=13, run_seed="public")\n'
        "print(cut.kept)  # the share of tokens that is in a piece\n"
        'sampler = LengthBucketSampler(cut.lengths, tokens=64 * 8192, run_seed="public", steps=1000)\n'
        "loader = DataLoader(Pieces(documents, cut), batch_sampler=sampler)  # (batch, 2^k + 1) token ids"
    ),
    avoid="Short texts that must stay whole, where what they lose in tails is much: pack them instead (`packing`).",
    binding="replayable",
)

ODDS = (32, 16, 8, 4, 2, 1)

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """2^exponent + 1 tokens of a document, from `start` on."""

    document: int
    start: int
    exponent: int


class Decomposition:
    """Pieces of documents of these numbers of tokens, end marks counted.

    With a `run_seed`, lengths within documents longer than 2^high are drawn, as published; without, they are the longest.
    """

    def __init__(self, tokens: Sequence[int], low: int = 8, high: int = 13, run_seed: str | None = None) -> None:
        if not 0 <= low <= high <= 40:
            raise TrainingError(f"low = {low} and high = {high} must be logarithms with 0 <= low <= high <= 40")
        self.pieces = tuple(
            piece for document, length in enumerate(tokens) for piece in _pieces(document, length, low, high, run_seed)
        )
        if not self.pieces:
            raise TrainingError(f"no document has the {(1 << low) + 1} tokens of the shortest piece")
        self.total = sum(tokens)

    @property
    def lengths(self) -> Integers:
        """2^k of each piece: the column "length" of a run's records."""
        return np.array([1 << piece.exponent for piece in self.pieces], np.int64)

    @property
    def documents(self) -> Integers:
        """Of each piece: the column "record", by which an audit tells whose piece it is."""
        return np.array([piece.document for piece in self.pieces], np.int64)

    @property
    def kept(self) -> float:
        """The share of all tokens that some piece holds."""
        return float((self.lengths + 1).sum()) / self.total


class Pieces(Dataset[Tensor]):
    """Pieces by number: token ids (2^k + 1,), of documents that are sequences of token ids."""

    def __init__(self, documents: Sequence[Sequence[int]], decomposition: Decomposition) -> None:
        self.documents, self.pieces = documents, decomposition.pieces

    def __getitem__(self, number: int) -> Tensor:
        piece = self.pieces[number]
        return torch.as_tensor(self.documents[piece.document][piece.start : piece.start + (1 << piece.exponent) + 1])

    def __len__(self) -> int:
        return len(self.pieces)


class LengthBucketSampler(RecordedSampler):
    """Batches of `tokens` tokens, all pieces of one length; see RecordedSampler.

    lengths: 2^k of each piece. odds: of the buckets in use, from the shortest; the default takes as many of ODDS as there are,
    from the left. TrainingError for lengths that are no powers of two, or above `tokens`.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Integers,
        tokens: int = 64 * 8192,
        odds: Sequence[int] | None = None,
        cycles: int = 8,
        *,
        run_seed: str,
        steps: int,
    ) -> None:
        super().__init__(run_seed, steps)
        sizes = np.asarray(lengths, np.int64)
        if strange := [int(length) for length in np.unique(sizes) if length < 1 or length & (length - 1) or length > tokens]:
            raise TrainingError(f"a length is {strange[0]}: lengths must be powers of two, of at most {tokens} tokens a batch")
        exponents = [int(length).bit_length() - 1 for length in np.unique(sizes)]
        if odds is None:
            if len(exponents) > len(ODDS):
                raise TrainingError(f"there are {len(exponents)} lengths: give odds for each, from the shortest on")
            odds = ODDS[: len(exponents)]
        try:
            self.plan = LengthBuckets(self.seed, sizes, {k: tokens >> k for k in exponents}, odds, cycles)
        except BadInput as error:
            raise TrainingError(str(error)) from None

    def stream(self, first: int) -> Iterator[dict[str, Any]]:
        for cycle, k, rows in self.plan.steps(first, 1 << 62):
            yield {"ids": tuple(rows.tolist()), "epoch": cycle, "seq_len": 1 << k, "n_tokens": len(rows) << k}


def _pieces(document: int, length: int, low: int, high: int, run_seed: str | None) -> Iterator[Piece]:
    """Greedy from the front. A piece takes one token more than its length, which is the last one's target."""
    start, draw = 0, 0
    while (left := length - start) > 1 and (k := (left - 1).bit_length() - 1) >= low:
        if k > high:
            k = high if run_seed is None else _drawn(low, high, run_seed, document, draw)
            draw += 1
        yield Piece(document, start, k)
        start += (1 << k) + 1


def _drawn(low: int, high: int, run_seed: str, document: int, draw: int) -> int:
    """k with odds 2^(high - k), from 64 bits of the document's own stream."""
    seed = derive_seed(run_seed, "length-buckets document", document).to_bytes(8, "little")
    word = int.from_bytes(hashlib.shake_256(seed + draw.to_bytes(8, "little")).digest(8), "little")
    ends = list(accumulate(1 << (high - k) for k in range(low, high + 1)))
    return low + bisect_right(ends, word * ends[-1] >> 64)


def rule(run: Run, options: Mapping[str, Any]) -> Rule:
    """{"tokens": 524288, "odds": [32, 16, 8, 4, 2, 1], "cycles": 8}, with a column "length"."""

    def make(tokens: int, odds: list[int], cycles: int) -> LengthBucketSampler:
        lengths = run.column("length")
        return LengthBucketSampler(lengths, tokens, odds, cycles, run_seed=run.header.run_seed, steps=1)

    return SamplerRule(made(make, "length-buckets", options))
