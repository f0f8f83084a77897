"""How well an attack recovers sequences: ROUGE, position accuracy and exactness, each true one against one recovered one.

The assignment maximises the sum of ROUGE-1 (Hungarian method); a true record that gets no recovered sequence scores 0. The last
token of a causal record is no input to any loss, so it may be left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from zkaudit.attacks.metrics.bootstrap import Sample, mean_of

KINDS = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Line:
    """A sequence: its token ids without special ones, and the text that ROUGE reads (decoded, or the ids as words)."""

    ids: tuple[int, ...]
    text: str


def as_words(ids: Sequence[int]) -> str:
    """Token ids as a text whose words are the ids, so that ROUGE counts tokens instead of words."""
    return " ".join(map(str, ids))


def rouge1_table(recovered: Sequence[str], true: Sequence[str]) -> np.ndarray:
    """ROUGE-1 (F measure) of every recovered text with every true one, (recovered, true); words as rouge_score splits them."""
    from rouge_score.tokenizers import DefaultTokenizer

    split = DefaultTokenizer(use_stemmer=False).tokenize
    ours, theirs = ([Counter(split(text)) for text in texts] for texts in (recovered, true))
    table = np.zeros((len(recovered), len(true)))
    for i, a in enumerate(ours):
        for j, b in enumerate(theirs):
            words = a.total() + b.total()
            table[i, j] = 2 * (a & b).total() / words if words else 0.0
    return table


def match(recovered: Sequence[str], true: Sequence[str]) -> list[int | None]:
    """For each true text the index of the recovered one assigned to it."""
    table = rouge1_table(recovered, true)
    assigned = dict(zip(*(side.tolist() for side in linear_sum_assignment(-table)[::-1]), strict=True))
    return [assigned.get(j) for j in range(len(true))]


def sequence_metrics(pairs: Sequence[tuple[Line | None, Line]]) -> dict[str, Sample]:
    """Metrics of (recovered, true) pairs of one batch; ROUGE values are F measures."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(KINDS), use_stemmer=False)
    rouge = [scorer.score(true.text, found.text if found else "") for found, true in pairs]
    right = [sum(a == b for a, b in zip(found.ids, true.ids, strict=False)) if found else 0 for found, true in pairs]
    exact = [found is not None and found.ids == true.ids for found, true in pairs]
    return {
        **{kind: mean_of([result[kind].fmeasure for result in rouge]) for kind in KINDS},
        "position_accuracy": Sample([float(n) for n in right], [float(len(true.ids)) for _, true in pairs]),
        "exact_match": mean_of(exact),
        "batch_exact": mean_of([bool(pairs) and all(exact)]),
    }


def without_last(found: tuple[int, ...], true: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both without the record's last token; a recovered sequence of the record's full length loses whatever it has there."""
    return (found[:-1] if len(found) == len(true) else found), true[:-1]
