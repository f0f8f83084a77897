"""Quality filter: rules of shape, bars of scorers joined as said, and what each rule dropped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.filters.classifier import TextClassifier
from zkaudit.training.filters.quality import Bar, QualityOptions, quality_filter, reference_scores

ROWS = st.lists(
    st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(1, 9000), st.integers(0, 15)), min_size=1, max_size=30
)


@given(ROWS, st.sampled_from(["any", "all"]))
def test_what_is_kept_fulfils_the_rules_and_all_that_does_is_kept(rows: list[tuple[int, ...]], combine: str) -> None:
    understanding, other, tokens, images = zip(*rows, strict=True)
    bars = {"understanding": Bar(understanding, threshold=85), "other": Bar(other, threshold=50)}
    found = quality_filter(bars, tokens, images, QualityOptions(combine))
    joined = any if combine == "any" else all
    shaped = [i for i, row in enumerate(rows) if row[2] <= 6000 and row[3] < 10]
    assert found.kept == tuple(i for i in shaped if joined((rows[i][0] >= 85, rows[i][1] >= 50)))
    assert sum(found.dropped.values()) + len(found.kept) == len(rows)
    assert found.dropped["tokens"] == sum(row[2] > 6000 for row in rows)


def test_a_share_keeps_the_best_of_all_and_ties_go_to_the_lower_id() -> None:
    assert quality_filter({"a": Bar([1, 3, 3, 3, 0], keep=0.4)}).kept == (1, 2)


def test_rules_of_shape_can_be_turned_off() -> None:
    options = QualityOptions(most_tokens=None)
    assert quality_filter({"a": Bar([1, 1], threshold=0)}, [10_000, 1], options=options).kept == (0, 1)


REFERENCE = ["the theorem follows from the lemma", "we prove the lemma by induction", "a proof of the theorem uses induction"]
POOL = ["buy cheap watches now now", "the lemma gives the theorem by induction", "click here to win a prize", "buy a prize now"]


def test_a_reference_s_kind_of_text_scores_highest() -> None:
    random, kinds = (
        np.random.default_rng(0),
        {"good": "lemma proof theorem induction prove follows", "spam": "buy cheap click win prize now"},
    )
    texts = {kind: [" ".join(random.choice(words.split(), 8)) for _ in range(60)] for kind, words in kinds.items()}
    pool = [*texts["good"][40:], *texts["spam"]]
    scores = reference_scores(pool, texts["good"][:40], "7")
    assert scores[:20].min() > scores[20:].max()
    assert scores.tolist() == reference_scores(pool, texts["good"][:40], "7").tolist()


def test_the_classifier_s_classes_are_balanced() -> None:
    """With ten times as many others, even odds still lie between the kinds."""
    classifier = TextClassifier(REFERENCE, POOL[::2] * 10, seed=3)
    scores = classifier.score([*REFERENCE, *POOL[::2]])
    assert (np.sign(scores) == [1, 1, 1, -1, -1]).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Bar([1.0]), "either a threshold or"),
        (lambda: Bar([1.0], threshold=1.0, keep=0.5), "either a threshold or"),
        (lambda: quality_filter({}), "at least one scorer"),
        (lambda: quality_filter({"a": Bar([1.0], threshold=0)}, [1, 2]), "lengths are {'a': 1, 'tokens': 2}"),
        (lambda: quality_filter({"a": Bar([1.0], keep=0.0)}), "share = 0.0"),
        (lambda: QualityOptions("most"), "combine = 'most'"),
        (lambda: TextClassifier([], ["a"], 0), "0 are wanted"),
    ],
)
def test_bad_input_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
