"""Perplexity filter: keep the records that a trained model finds likely.

    score(record) = exp(mean of -log p(token | before)) over the scored tokens;   keep the lowest `keep` of all

As in POINTS, Liu et al. 2024, arXiv 2409.04828, who score captions given image and prompt with a trained vision-language model
and keep 20%, one million of five. `scored` marks which tokens count, so that a prompt before them does not.

What is likely is not always good. Text that repeats itself is the most likely of all, so two rules stand beside the filter:
texts in which more than `repeated` of the word n-grams came before are dropped, and so is the lowest `low_cut` of the rest,
before the lowest `keep` of it.
Shuffled words cost little under a model of few characters and stay in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.filters.ranking import Kept, fixed_point, part_of, ranked
from zkaudit.training.method import Method

METHOD = Method(
    name="perplexity-filter",
    title="Perplexity filter",
    paper="Liu et al. 2024 (POINTS), arXiv 2409.04828",
    where="zkaudit.training.filters.perplexity.perplexity_filter",
    changes=("data", "speed"),
    effect="One million of five million captions, those of lowest perplexity, train as well as all of them or better.",
    library="transformers' models give the losses; the choice and its rules are ours",
    provable="The choice follows from committed scores; the scores are a forward pass for each record, which is not proved.",
    server_sees="Gradients of fewer records. Perplexity itself tells members from others: do not publish scores of records.",
    use="""
from zkaudit.training.filters.perplexity import causal_perplexity, perplexity_filter

scores = torch.cat([causal_perplexity(model, **batch) for batch in loader])
kept = perplexity_filter(scores.tolist(), texts=texts)
dataset = [dataset[i] for i in kept.ids]  # kept.digest() belongs to the run's record
""",
    avoid="pools with much boilerplate, which is likely text, and records unlike what the scoring model was trained on",
    binding="replayable",
)


@dataclass(frozen=True)
class PerplexityOptions:
    """Shares of what the rule on repetition leaves. `repeated`: the largest share of word n-grams
    (`ngram` words) that may have come before in a text."""

    keep: float = 0.2
    low_cut: float = 0.0
    repeated: float = 0.3
    ngram: int = 3

    def __post_init__(self) -> None:
        if not (self.keep > 0 and self.low_cut >= 0 and self.keep + self.low_cut <= 1):
            raise TrainingError(f"keep = {self.keep} and low_cut = {self.low_cut} must be parts of 1, keep above 0")
        if not 0 <= self.repeated <= 1 or self.ngram < 1:
            raise TrainingError(f"repeated = {self.repeated} must be a share and ngram = {self.ngram} at least 1")


def perplexity_filter(
    scores: ArrayLike, options: PerplexityOptions = PerplexityOptions(), texts: Sequence[str] | None = None
) -> Kept:
    """Records (n,) of low perplexity; ties go to the lower id. With `texts`, those that repeat themselves are left out first.

    TrainingError if no record is left, or for scores that are not finite."""
    rounded = fixed_point(scores)
    if texts is not None and len(texts) != len(rounded):
        raise TrainingError(f"there are {len(texts)} texts for {len(rounded)} scores")
    left = [i for i in range(len(rounded)) if texts is None or repeated_share(texts[i], options.ngram) <= options.repeated]
    if not left:
        raise TrainingError("every text repeats itself more than the filter allows: raise `repeated`")
    order = np.array(left)[ranked(rounded[left], highest=False)]
    low, share = part_of(len(left), options.low_cut), part_of(len(left), options.keep)
    kept = order[low : low + max(1, share)]
    return Kept(tuple(sorted(kept.tolist())), rounded, int(rounded[kept[-1]]))


def repeated_share(text: str, ngram: int) -> float:
    """The part of a text's word n-grams that occurred in it before; 0 for texts shorter than one."""
    words = text.lower().split()
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def causal_perplexity(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, scored: Tensor | None = None
) -> Tensor:
    """Perplexities (n,), float64, of token rows (n, length) under a causal model of transformers, in eval mode.

    Padding (mask 0) and tokens where `scored` is 0 do not count; the first token is never predicted. TrainingError for a row
    in which nothing counts."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    counted = (mask if scored is None else mask * scored)[:, 1:].to(torch.bool) & mask[:, :-1].to(torch.bool)
    if (empty := ~counted.any(1)).any():
        raise TrainingError(f"row {int(empty.int().argmax())} has no token to score")
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=input_ids, attention_mask=mask).logits[:, :-1].double()
    model.train(was_training)
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")
    return torch.exp((losses * counted).sum(1) / counted.sum(1))


class CharacterModel:
    """An n-gram model of characters with additive smoothing, the scorer for pools where no trained model is at hand.

    p(c | the last order - 1 characters) = (count + a) / (total + a v), v different characters and one for all unseen."""

    def __init__(self, texts: Sequence[str], order: int = 4, smoothing: float = 0.05) -> None:
        if not texts or order < 1 or smoothing <= 0:
            raise TrainingError("a character model needs texts, an order of at least 1 and a smoothing above 0")
        self.order, self.smoothing = order, smoothing
        self.characters = set().union(*map(set, texts))
        self._grams: Counter[str] = Counter()
        self._contexts: Counter[str] = Counter()
        for text in texts:
            for before, gram in self._pieces(text):
                self._contexts[before] += 1
                self._grams[gram] += 1

    def perplexity(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Per character, (n,); 1 for an empty text."""
        return np.array([self._perplexity(text) for text in texts])

    def _perplexity(self, text: str) -> float:
        a, v = self.smoothing, len(self.characters) + 1
        pieces = self._pieces(text)
        logs = [math.log((self._grams[gram] + a) / (self._contexts[before] + a * v)) for before, gram in pieces]
        return math.exp(-sum(logs) / len(logs)) if logs else 1.0

    def _pieces(self, text: str) -> list[tuple[str, str]]:
        padded = "\0" * (self.order - 1) + text
        grams: Any = (padded[i : i + self.order] for i in range(len(text)))
        return [(gram[:-1], gram) for gram in grams]
