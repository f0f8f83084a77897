"""Packing: first-fit decreasing as defined, within its bound, and packed rows that train on what single sequences would."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.batch.packing import IGNORED, PackedSampler, pack_ffd, packed
from zkaudit.training.errors import TrainingError
from zkaudit.training.replay import replay
from zkaudit.training.step_file import StepWriter
from zkaudit.training.steps import StepRecord

lengths = st.lists(st.integers(1, 20), max_size=40)


@given(lengths)
def test_bins_are_those_of_first_fit_by_falling_length(sizes: list[int]) -> None:
    """Against the definition, bin by bin."""
    bins: list[list[int]] = []
    for number in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        place = next((b for b in bins if sum(sizes[i] for i in b) + sizes[number] <= 20), None)
        if place is None:
            bins.append([number])
        else:
            place.append(number)
    assert pack_ffd(sizes, 20) == bins


def fewest(sizes: list[int], capacity: int) -> int:
    """The least number of bins, by trying every way."""
    found = len(sizes)

    def place(number: int, rooms: tuple[int, ...]) -> None:
        nonlocal found
        if len(rooms) >= found:
            return
        if number == len(sizes):
            found = len(rooms)
            return
        for i in range(len(rooms)):
            if rooms[i] >= sizes[number]:
                place(number + 1, tuple(sorted((*rooms[:i], rooms[i] - sizes[number], *rooms[i + 1 :]))))
        place(number + 1, tuple(sorted((*rooms, capacity - sizes[number]))))

    place(0, ())
    return found


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_there_are_at_most_11_9_of_the_fewest_bins_and_6_9_of_one(sizes: list[int]) -> None:
    assert 9 * len(pack_ffd(sizes, 20)) <= 11 * fewest(sizes, 20) + 6


def test_ties_go_to_the_lower_number() -> None:
    assert pack_ffd([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]


def test_lognormal_lengths_fill_nearly_all() -> None:
    sizes = np.minimum(np.random.default_rng(0).lognormal(np.log(400), 1, 5000).astype(int) + 1, 4096)
    bins = pack_ffd(sizes, 4096)
    assert sizes.sum() / (len(bins) * 4096) >= 0.97


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_packed_row_has_the_loss_and_gradient_of_its_sequences(kind: str, attention: str) -> None:
    from streamed_models import MODELS, WORDS

    torch.manual_seed(0)
    model = MODELS[kind](attn_implementation=attention)
    sequences = [torch.randint(WORDS, (length,)) for length in (5, 9, 3, 7, 2)]
    bins = [[sequences[i] for i in each] for each in pack_ffd([len(s) for s in sequences], 14)]
    assert len(bins) == 2

    def gradient() -> torch.Tensor:
        found = torch.cat([p.grad.flatten() for p in model.parameters()])
        model.zero_grad()
        return found

    single = sum(model(input_ids=s[None], labels=s[None]).loss * (len(s) - 1) for s in sequences)
    single = single / sum(len(s) - 1 for s in sequences)
    single.backward()
    expected = gradient()
    batch = packed(bins, 14)
    loss = model(**batch).loss
    loss.backward()
    torch.testing.assert_close(loss, single, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient(), expected, rtol=1e-4, atol=1e-6)
    joined = dict(batch, attention_mask=torch.ones(2, 14))  # as the released script joins them
    assert abs(float((model(**joined).loss - single).detach())) > 1e-4


def test_a_packed_row_s_parts() -> None:
    batch = packed([[[7, 8, 9], [5, 6]]], 6, pad=1)
    assert batch["input_ids"].tolist() == [[7, 8, 9, 5, 6, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 8, 9, IGNORED, 6, IGNORED]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0]]
    sees = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert (batch["attention_mask"][0, 0] == 0).int().tolist() == sees


@given(lengths.filter(len), st.integers(0, 20))
def test_an_epoch_takes_every_bin_once(sizes: list[int], first: int) -> None:
    sampler = PackedSampler(sizes, 20, 1, run_seed="a", steps=10)
    epoch = [sampler.fields(step) for step in range(2 * len(sampler.bins))]
    assert sorted(row for fields in epoch for row in fields["ids"]) == sorted([*range(len(sizes))] * 2)
    assert all(fields["n_tokens"] == sum(sizes[row] for row in fields["ids"]) <= 20 for fields in epoch)
    first %= len(epoch)
    assert PackedSampler(sizes, 20, 1, run_seed="a", steps=10).fields(first) == epoch[first]


def test_a_recorded_run_is_replayed_with_its_bins(tmp_path: Path) -> None:
    sizes = np.array([5, 9, 3, 7, 2, 8, 8, 1])
    sampler = PackedSampler(sizes, 14, 2, run_seed="a", steps=6)
    with StepWriter(tmp_path, "a", 8, {"packing": {"capacity": 14, "batch": 2}}, columns={"length": sizes}) as writer:
        for step, keys in enumerate(sampler):
            fields = sampler.fields(step)
            assert [number for each in keys for number in each] == list(fields["ids"])
            writer.write(StepRecord(step, **fields))
    done = replay(tmp_path)
    assert done.difference is None
    assert {"ids", "bins"} <= set(done.recomputed)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: pack_ffd([3, 21], 20), "sequence 1 has length 21"),
        (lambda: pack_ffd([0], 20), "sequence 0 has length 0"),
        (lambda: PackedSampler([3], 20, 2, run_seed="a", steps=1), "batch = 2 cannot be drawn from 1 bins"),
        (lambda: packed([[[1, 2, 3]]], 2), "bin 0 holds more"),
    ],
)
def test_what_cannot_be_packed_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()  # type: ignore[operator]
