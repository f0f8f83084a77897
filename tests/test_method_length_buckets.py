"""Dataset decomposition: pieces cover documents from the front, batches have one length and as many tokens each."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from zkaudit.training.batch.length_buckets import Decomposition, LengthBucketSampler, Pieces
from zkaudit.training.errors import TrainingError
from zkaudit.training.replay import replay
from zkaudit.training.step_file import StepWriter
from zkaudit.training.steps import StepRecord

documents = st.lists(st.integers(0, 5000), min_size=1, max_size=20)


def published(length: int, low: int, high: int) -> list[tuple[int, int]]:
    """Start and exponent of each piece, by the released rule without drawing: the logarithm of what is left but one token."""
    found, start = [], 0
    while length - start > 1:
        k = min(int(np.log2(length - start - 1)), high)
        if k < low:
            break
        found.append((start, k))
        start += 2**k + 1
    return found


@given(documents, st.integers(0, 4), st.integers(0, 5))
def test_pieces_are_the_published_ones(lengths: list[int], low: int, more: int) -> None:
    expected = [(d, start, k) for d, length in enumerate(lengths) for start, k in published(length, low, low + more)]
    if not expected:
        with pytest.raises(TrainingError, match="no document has"):
            Decomposition(lengths, low, low + more)
        return
    cut = Decomposition(lengths, low, low + more)
    assert [(piece.document, piece.start, piece.exponent) for piece in cut.pieces] == expected


@given(documents.filter(lambda lengths: max(lengths) > 4), st.text(st.characters(codec="ascii"), max_size=3))
def test_drawn_pieces_cover_documents_from_the_front_without_a_gap(lengths: list[int], seed: str) -> None:
    cut = Decomposition(lengths, 2, 5, seed)
    for document, length in enumerate(lengths):
        ends = [0]
        for piece in cut.pieces:
            if piece.document == document:
                assert piece.start == ends[-1]
                ends.append(piece.start + 2**piece.exponent + 1)
        assert length - ends[-1] in range(2**2 + 1)  # the tail that is lost
    assert cut.kept == sum(2**piece.exponent + 1 for piece in cut.pieces) / sum(lengths)


def test_drawn_lengths_have_odds_that_halve() -> None:
    """Of a document long enough that almost all draws are free: k with odds 2^(high - k)."""
    exponents = np.array([piece.exponent for piece in Decomposition([400_000], 2, 5, "a").pieces])
    counts = np.bincount(exponents, minlength=6)[2:]
    assert counts / counts.sum() == pytest.approx(np.array([8, 4, 2, 1]) / 15, abs=0.01)


def test_a_piece_holds_its_targets() -> None:
    cut = Decomposition([12, 5], low=1, high=3)
    pieces = Pieces([list(range(12)), list(range(100, 105))], cut)
    assert [pieces[i].tolist() for i in range(len(pieces))] == [list(range(9)), [9, 10, 11], [100, 101, 102, 103, 104]]


def test_every_batch_has_one_length_and_as_many_tokens() -> None:
    texts = [list(range(length)) for length in (40, 90, 17, 33, 250, 66, 130, 9)]
    cut = Decomposition([len(text) for text in texts], low=2, high=5, run_seed="a")
    sampler = LengthBucketSampler(cut.lengths, tokens=32, cycles=2, run_seed="a", steps=30)
    batches = list(DataLoader(Pieces(texts, cut), batch_sampler=sampler))
    assert len(batches) == 30
    for batch in batches:
        rows, length = batch.shape
        assert rows * (length - 1) == 32
        assert torch.equal(batch - batch[:, :1], torch.arange(length).expand(rows, -1))  # single documents, in order


@given(st.lists(st.sampled_from([4, 8, 16]), min_size=20, max_size=60), st.integers(0, 30))
def test_any_step_can_be_had_again(lengths: list[int], first: int) -> None:
    try:
        sampler = LengthBucketSampler(lengths, tokens=16, run_seed="a", steps=40)
    except TrainingError:  # no bucket fills a batch
        return
    straight = [sampler.fields(step) for step in range(40)]
    other = LengthBucketSampler(lengths, tokens=16, run_seed="a", steps=40)
    assert [other.fields(step) for step in range(first, 40)] == straight[first:]
    assert other.fields(first) == straight[first]
    for fields in straight:
        assert fields["n_tokens"] == 16
        assert {lengths[row] for row in fields["ids"]} == {fields["seq_len"]}


def test_a_recorded_run_is_replayed_from_its_public_lengths(tmp_path: Path) -> None:
    lengths = np.repeat([4, 8, 16], [12, 8, 4])
    options = {"tokens": 16, "odds": [4, 2, 1], "cycles": 2}
    sampler = LengthBucketSampler(lengths, 16, (4, 2, 1), 2, run_seed="a", steps=20)
    with StepWriter(tmp_path, "a", 24, {"length-buckets": options}, columns={"length": lengths}) as writer:
        for step in range(20):
            writer.write(StepRecord(step, **sampler.fields(step)))
    done = replay(tmp_path)
    assert done.difference is None
    assert {"ids", "epoch", "seq_len", "n_tokens"} <= set(done.recomputed)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Decomposition([9], 5, 4), "low = 5 and high = 4"),
        (lambda: Decomposition([4], 2, 4), "no document has the 5 tokens"),
        (lambda: LengthBucketSampler([4, 6], 16, run_seed="a", steps=1), "a length is 6"),
        (lambda: LengthBucketSampler([4, 32], 16, run_seed="a", steps=1), "a length is 32"),
        (lambda: LengthBucketSampler([4, 4], 16, run_seed="a", steps=1), "no bucket has rows enough"),
        (lambda: LengthBucketSampler([1 << k for k in range(7)], 64, run_seed="a", steps=1), "give odds for each"),
    ],
)
def test_bad_options_are_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()  # type: ignore[operator]
