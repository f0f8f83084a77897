"""BETR: ranks against scipy's, the published rule for how much to keep, and what best rank keeps."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from zkaudit.training.errors import TrainingError
from zkaudit.training.filters.betr import Betr, BetrOptions, keep_rate, score_by_rank

SUBJECTS = {
    "sea": "ship harbour sail anchor tide captain wave island crew deck storm whale",
    "kitchen": "oven flour sugar butter knife onion pepper boil simmer plate dough salt",
    "court": "judge jury verdict appeal lawyer witness statute clause plea trial bail oath",
    "garden": "seed soil rose prune hedge lawn spade weed bloom compost tulip shade",
}


def written(subject: str, count: int, seed: int, words: int = 12) -> list[str]:
    random = np.random.default_rng([seed, *subject.encode()])
    return [" ".join(random.choice(SUBJECTS[subject].split(), words)) for _ in range(count)]


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 12))
@settings(max_examples=40)
def test_scores_are_made_of_ranks_by_cosine(seed: int, targets: int, documents: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(targets, 8)), random.normal(size=(documents, 8))
    cosines = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    ranks = np.array([rankdata(-row, method="ordinal") for row in cosines])
    assert score_by_rank(a, b).tolist() == (-ranks.min(0)).tolist()
    assert score_by_rank(a, b, "reciprocal") == pytest.approx((documents / ranks).mean(0))
    assert score_by_rank(a, b, "log") == pytest.approx(-np.log2(ranks).mean(0))
    assert score_by_rank(scipy.sparse.csr_array(a), scipy.sparse.csr_array(b)).tolist() == (-ranks.min(0)).tolist()


def test_equal_cosines_rank_by_id() -> None:
    assert score_by_rank(np.eye(2)[:1], np.array([[0.0, 1], [2, 0], [5, 0], [1, 0]])).tolist() == [-4, -1, -2, -3]


def test_a_document_only_a_rare_target_wants_is_kept_by_best_rank_alone() -> None:
    """Nineteen targets ask for the first axis, one for the second: averages forget it."""
    targets = np.array([[1.0, 0, 0]] * 19 + [[0, 1.0, 0]])
    documents = np.array([[1, 0.1 * i, 0] for i in range(5)] + [[0, 1, 0]] + [[0.05, 0, 1]] * 14)
    tops = {rule: set(np.argsort(-score_by_rank(targets, documents, rule), kind="stable")[:5]) for rule in ("best", "log")}
    assert 5 in tops["best"]
    assert 5 not in tops["log"]


def test_how_much_to_keep_is_as_published() -> None:
    assert [100 * keep_rate(flops) for flops in (1e21, 1e22, 1e23)] == pytest.approx([7.1, 12.6, 22.5], abs=0.05)
    assert keep_rate(1e40) == 1.0


def test_the_pool_s_documents_on_the_targets_subjects_are_kept() -> None:
    sample = [text for subject in SUBJECTS for text in written(subject, 50, 1)]
    pool = [text for subject in SUBJECTS for text in written(subject, 50, 2)]
    targets = {"sailing": written("sea", 30, 3), "law": written("court", 8, 3)}
    betr = Betr(targets, sample, "7", BetrOptions(top=0.5, keep=0.5))
    kept = betr.select(pool).ids
    assert len(kept) == 100
    assert sum(i // 50 in (0, 2) for i in kept) >= 97
    assert betr.select(pool).digest() == Betr(targets, sample, "7", BetrOptions(top=0.5, keep=0.5)).select(pool).digest()


def test_benchmarks_have_equally_many_examples() -> None:
    targets = {"sailing": written("sea", 30, 3), "law": written("court", 8, 3)}
    betr = Betr(targets, [*written("sea", 20, 1), *written("garden", 20, 1)], "7")
    assert [sum(text in examples for text in betr.targets) for examples in targets.values()] == [8, 8]


def test_the_share_is_of_tokens() -> None:
    sample, pool = [*written("sea", 20, 1), *written("garden", 20, 1)], [*written("sea", 10, 2), *written("garden", 10, 2)]
    betr = Betr({"sailing": written("sea", 10, 3)}, sample, "7", BetrOptions(top=0.5, keep=0.25))
    assert len(betr.select(pool, [3] * 10 + [1] * 10).ids) == 3


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: BetrOptions(top=1.0), "top = 1.0"),
        (lambda: BetrOptions(rule="mean"), "rule = 'mean'"),
        (lambda: Betr({}, ["a b"], "7"), "'none at all' has 0"),
        (lambda: Betr({"x": ["a"]}, ["a b"], "7", BetrOptions(examples=2)), "2 examples of each benchmark"),
        (lambda: keep_rate(0.0), "flops = 0.0"),
        (lambda: score_by_rank(np.zeros((0, 2)), np.ones((1, 2))), "not 0 and 1"),
    ],
)
def test_bad_input_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
