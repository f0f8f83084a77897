"""Perplexity filter: transformers' own loss, the rule of what is kept, and the text it would wrongly keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from streamed_models import gpt2, llama

from zkaudit.training.errors import TrainingError
from zkaudit.training.filters.perplexity import (
    CharacterModel,
    PerplexityOptions,
    causal_perplexity,
    perplexity_filter,
    repeated_share,
)

SCORES = st.lists(st.integers(1, 6).map(float), min_size=1, max_size=30)


@pytest.mark.parametrize("build", [gpt2, llama])
def test_a_row_s_perplexity_is_the_exponential_of_its_loss(build: object) -> None:
    torch.manual_seed(0)
    model = build()
    rows = [torch.randint(0, 40, (1, length)) for length in (5, 9, 12)]
    expected = [math.exp(model.eval()(input_ids=row, labels=row).loss.item()) for row in rows]
    ids, mask = torch.zeros(3, 12, dtype=torch.long), torch.zeros(3, 12, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : row.shape[1]], mask[number, : row.shape[1]] = row[0], 1
    model.train()
    assert causal_perplexity(model, ids, mask).tolist() == pytest.approx(expected, rel=1e-5)
    assert model.training


def test_tokens_of_a_prompt_do_not_count() -> None:
    torch.manual_seed(0)
    model, ids = gpt2(), torch.randint(0, 40, (2, 10))
    scored = torch.ones_like(ids)
    scored[:, :4] = 0
    expected = [math.exp(model.eval()(input_ids=row[None], labels=torch.where(s > 0, row, -100)[None]).loss.item())
                for row, s in zip(ids, scored, strict=True)]  # fmt: skip
    assert causal_perplexity(model, ids, scored=scored).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_row_without_a_token_to_score_is_named() -> None:
    ids, mask = torch.zeros(2, 4, dtype=torch.long), torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    with pytest.raises(TrainingError, match="row 1 has no token"):
        causal_perplexity(gpt2(), ids, mask)


@given(SCORES, st.integers(5, 100), st.integers(0, 40))
def test_the_lowest_are_kept_above_the_cut_and_ties_go_to_the_lower_id(scores: list[float], keep: int, low: int) -> None:
    keep = min(keep, 100 - low)
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    cut, count = len(scores) * low // 100, max(1, len(scores) * keep // 100)
    expected = tuple(sorted(order[cut : cut + count]))
    assert perplexity_filter(scores, PerplexityOptions(keep / 100, low / 100)).ids == expected


def test_boilerplate_is_the_likeliest_text_and_the_rule_drops_it() -> None:
    text = "the parser reads a line and returns the number of words that it found in the file before the end of the buffer"
    clean = [text, "a file holds lines and the parser returns what it read from the buffer before the number ends the line"]
    boilerplate = "read the line " * 12
    scores = CharacterModel([*clean, boilerplate]).perplexity([*clean, boilerplate])
    assert scores.argmin() == 2
    assert perplexity_filter(scores, PerplexityOptions(keep=0.4)).ids == (2,)
    assert 2 not in perplexity_filter(scores, PerplexityOptions(keep=0.5), [*clean, boilerplate]).ids


def test_the_repeated_share_counts_word_ngrams_seen_before() -> None:
    assert repeated_share("a b a b a b", 2) == pytest.approx(3 / 5)
    assert repeated_share("a b c", 2) == 0
    assert repeated_share("one", 3) == 0


def test_the_character_model_is_a_distribution() -> None:
    model = CharacterModel(["abcab", "bca"], order=3, smoothing=0.1)
    for context in ("", "ab", "zz"):
        total = 0.0
        for character in [*sorted(model.characters), "unseen"]:
            both = model.perplexity([context + character[0] if character != "unseen" else context + "#"])[0]
            alone = model.perplexity([context])[0] ** len(context) if context else 1.0
            total += alone / both ** (len(context) + 1)
        assert total == pytest.approx(1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PerplexityOptions(keep=0.9, low_cut=0.2), "keep = 0.9"),
        (lambda: PerplexityOptions(ngram=0), "ngram = 0"),
        (lambda: perplexity_filter([1.0], texts=[]), "0 texts for 1 scores"),
        (lambda: perplexity_filter([1.0], texts=["a a a a a a a"]), "repeats itself"),
        (lambda: perplexity_filter([1.0, np.nan]), "record 1 has the score nan"),
        (lambda: CharacterModel([]), "needs texts"),
    ],
)
def test_bad_input_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
