"""UL2: exact counts, uniform cuts, masks that can be undone, rows that a model can be trained on."""

import random
from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from streamed_models import gpt2
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

from zkaudit.training.errors import TrainingError
from zkaudit.training.loop import train
from zkaudit.training.objectives.ul2 import TABLE, UL2, Denoised, Denoiser, UL2Options, collate, invert, mask, noise_spans

SENTINELS = range(900, 700, -1)
OPTIONS = UL2Options(SENTINELS, eos=1, modes={"R": 2, "X": 3, "S": 4})


def lengths(denoiser: Denoiser, length: int) -> tuple[int, int, int, int]:
    spans = noise_spans(length, denoiser, random.Random(0))
    inputs, targets = mask(range(10, 10 + length), spans, SENTINELS)
    return sum(end - start for start, end in spans), len(spans), len(inputs), len(targets)


def test_the_papers_table_at_512_tokens() -> None:
    assert [lengths(denoiser, 512) for denoiser in TABLE] == [
        (77, 26, 461, 103),
        (77, 10, 445, 87),
        (256, 85, 341, 341),
        (256, 32, 288, 288),
        (77, 1, 436, 78),
        (256, 4, 260, 260),
        (128, 1, 385, 129),
    ]


@given(length=st.integers(2, 200), number=st.integers(0, len(TABLE) - 1), seed=st.integers(0, 2**64 - 1))
def test_masking_can_be_undone_and_its_rate_is_exact(length: int, number: int, seed: int) -> None:
    tokens = [10 + i % 50 for i in range(length)]
    spans = noise_spans(length, TABLE[number], random.Random(seed))
    inputs, targets = mask(tokens, spans, SENTINELS)
    assert invert(inputs, targets, SENTINELS) == tokens
    noise, count = TABLE[number].counts(length)
    assert sum(end - start for start, end in spans) == noise
    assert len(spans) == count
    assert len(inputs) + len(targets) == length + 2 * count
    assert spans[0][0] > 0  # what is kept comes first


def test_every_cut_is_equally_likely() -> None:
    """10 tokens, 5 of them noise in 2 spans: 4 x 4 ways."""
    draws = random.Random(5)
    found = Counter(tuple(noise_spans(10, Denoiser("X", 0.5, 2.5), draws)) for _ in range(8000))
    ways = {((k, k + n), (5 + n, 10)) for (k,) in combinations(range(1, 5), 1) for (n,) in combinations(range(1, 5), 1)}
    assert set(found) == ways
    assert chisquare(list(found.values())).pvalue > 0.001


def test_a_prefix_denoiser_removes_the_end() -> None:
    assert noise_spans(40, Denoiser("S", 0.25), random.Random(1)) == [(30, 40)]


def test_records_depend_on_the_seed_and_their_number_alone() -> None:
    text = list(range(10, 70))
    straight = [UL2(OPTIONS, "a")(text, number) for number in range(20)]
    assert straight == [UL2(OPTIONS, "a")(text, number) for number in range(20)]
    assert straight != [UL2(OPTIONS, "b")(text, number) for number in range(20)]
    assert len({tuple(record.inputs) for record in straight}) > 8


def test_denoisers_are_taken_as_often_as_their_weights_say() -> None:
    weights = (1.0, 0.0, 2.0, 1.0, 0.0, 1.0, 3.0)
    ul2 = UL2(UL2Options(SENTINELS, 1, OPTIONS.modes, weights=weights), "a")
    found = Counter(ul2(range(10, 42), number).denoiser for number in range(4000))
    used = [number for number, weight in enumerate(weights) if weight]
    assert set(found) == set(used)
    assert chisquare([found[n] for n in used], [500 * weights[n] for n in used]).pvalue > 0.001


def test_a_record_starts_with_its_mode_and_ends() -> None:
    ul2 = UL2(OPTIONS, "a")
    for number in range(30):
        record = ul2(range(10, 42), number)
        assert record.inputs[0] == OPTIONS.modes[TABLE[record.denoiser].mode]
        assert record.inputs[-1] == record.targets[-1] == 1
        assert invert(record.inputs[1:-1], record.targets[:-1], SENTINELS) == list(range(10, 42))


def test_a_batch_trains_transformers_t5() -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=901, **sizes, decoder_start_token_id=0))
    ul2 = UL2(OPTIONS, "a")
    batch = collate([ul2(range(10, 20 + number), number) for number in range(5)], pad=0)
    out = model(**batch)
    expected = F.cross_entropy(out.logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
    torch.testing.assert_close(out.loss, expected)
    alone = [model(**collate([ul2(range(10, 20 + number), number)], pad=0)) for number in range(5)]
    for row, single in enumerate(alone):  # padding changes nothing
        width = single.logits.shape[1]
        torch.testing.assert_close(out.logits[row, :width], single.logits[0], atol=1e-4, rtol=1e-4)


def test_the_plain_loop_trains_an_encoder_and_a_decoder_on_its_rows() -> None:
    ul2 = UL2(UL2Options(range(60, 40, -1), eos=1, modes={"R": 2, "X": 3, "S": 4}), "a")
    texts = [[10 + (start + i) % 8 for i in range(24)] for start in range(8)]
    for causal, model in ((False, t5()), (True, gpt2(vocab_size=64))):
        rows = [[ul2(text, 8 * step + number) for number, text in enumerate(texts)] for step in range(40)]
        batches = [collate(row, pad=0, causal=causal) for row in rows]
        losses = train(model, batches, torch.optim.AdamW(model.parameters(), 0.01))
        assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    return T5ForConditionalGeneration(T5Config(vocab_size=64, **sizes, decoder_start_token_id=0))


def test_a_decoders_row_has_its_loss_on_the_targets() -> None:
    record = Denoised([2, 10, 900, 1], [900, 11, 12, 1], 0, [(1, 3)], 0)
    batch = collate([record, Denoised([4, 900, 1], [900, 7, 1], 6, [(0, 1)], 0)], pad=0, causal=True)
    assert batch["input_ids"].tolist() == [[2, 10, 900, 1, 900, 11, 12, 1], [4, 900, 1, 900, 7, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100] * 4 + [900, 11, 12, 1], [-100] * 3 + [900, 7, 1, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1] * 8, [1] * 6 + [0] * 2]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: UL2(OPTIONS, "a")([10], 3), "record 3 has 1 tokens"),
        (lambda: UL2(OPTIONS, "a")([10, 850, 11], 3), "holds token 850"),
        (lambda: mask(range(10, 20), [(1, 2), (3, 4)], [900]), "2 spans need as many sentinels"),
        (lambda: invert([5, 900], [899, 6], SENTINELS), "do not have the same sentinels"),
        (lambda: UL2Options(SENTINELS, 1, {"R": 2}), "no token for mode 'S'"),
        (lambda: UL2Options([900, 1], 1, OPTIONS.modes), "must be different tokens"),
        (lambda: UL2Options(SENTINELS, 1, OPTIONS.modes, weights=(1.0,)), "must be 7 numbers"),
        (lambda: UL2Options(SENTINELS, 1, OPTIONS.modes, denoisers=()), "at least one denoiser"),
        (lambda: Denoiser("R", 1.0, 3), "rate = 1.0"),
        (lambda: Denoiser("R", 0.1, 0.5), "span = 0.5"),
    ],
)
def test_what_cannot_be_used_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
