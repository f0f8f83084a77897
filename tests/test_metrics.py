"""Metrics of leakage against scikit-learn, scipy, rouge_score and plain definitions."""

import json
import random
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import bootstrap
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from zkaudit.attacks.attack import Ranking, Recovery, Secret
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.lab.records import Record, synthetic
from zkaudit.attacks.lab.tokenizer import tokenizer
from zkaudit.attacks.metrics import (
    Sample,
    Score,
    ScoreOptions,
    Scorer,
    combine,
    difference,
    gain,
    interval,
    match,
    mean_of,
    rouge1_table,
    similarity,
    stands_in,
    stands_in_normalised,
    token_metrics,
    value_metrics,
)
from zkaudit.attacks.metrics.pii import similarity_within

V = 40
words = st.lists(st.sampled_from(["ada", "bob", "call", "card", "5", "7", "phone", "the", "of"]), max_size=8).map(" ".join)


@st.composite
def rankings(draw):
    ids = draw(st.permutations(range(V)))[: draw(st.integers(0, V))]
    scores = sorted((draw(st.integers(0, 6)) / 2 for _ in ids), reverse=True)
    return Ranking(ids, scores, draw(st.integers(0, len(ids))))


subsets = st.sets(st.integers(0, V - 1), min_size=1, max_size=V - 1)


@pytest.fixture(scope="module")
def own_tokenizer():
    return tokenizer(2000)


@pytest.fixture(scope="module")
def records():
    return synthetic(6, seed=5)


@pytest.fixture(scope="module")
def scorer(own_tokenizer, records):
    return Scorer(own_tokenizer, records, encoded(own_tokenizer, records), len(own_tokenizer))


def encoded(tokenizer, records):
    return [tokenizer(record.text)["input_ids"] for record in records]


def perfect(tokenizer, records):
    ids = encoded(tokenizer, records)
    true = sorted({token for row in ids for token in row})
    secrets = [Secret(kind, value, record.owner) for record in records for kind, value in record.pii.items()]
    return Recovery("perfect", Ranking(true, [1.0] * len(true), len(true)), ids, secrets)


@examples(max_examples=40)
@given(rankings(), subsets)
def test_auc_is_sklearns_with_left_out_tokens_tied_last(ranking, true):
    scores = np.full(V, -1.0)
    scores[list(ranking.ids)] = ranking.scores
    labels = np.isin(np.arange(V), list(true))
    assert roc_auc_score(labels, scores) == pytest.approx(token_metrics(ranking, true, V)["auc"].value)


@examples(max_examples=40)
@given(rankings(), subsets)
def test_set_metrics_are_sklearns(ranking, true):
    labels, claimed = (np.isin(np.arange(V), list(chosen)) for chosen in (true, ranking.ids[: ranking.claimed]))
    found = token_metrics(ranking, true, V)
    assert precision_score(labels, claimed, zero_division=0) == pytest.approx(found["token_precision"].value)
    assert recall_score(labels, claimed) == pytest.approx(found["token_recall"].value)
    assert f1_score(labels, claimed) == pytest.approx(found["token_f1"].value)


@given(st.permutations(range(V)), subsets)
def test_recall_at_n_counts_the_first_n_of_a_ranking_without_ties(ids, true):
    ranking = Ranking(ids, [float(V - place) for place in range(V)], 0)
    expected = len(true & set(ids[: len(true)])) / len(true)
    assert token_metrics(ranking, true, V)["recall_at_n"].value == pytest.approx(expected)


@given(subsets)
def test_a_ranking_that_says_nothing_has_chance_recall_and_auc(true):
    found = token_metrics(Ranking(range(V), [0.0] * V, 0), true, V)
    assert found["recall_at_n"].value == pytest.approx(found["token_chance"].value)
    assert found["auc"].value == pytest.approx(0.5)


@examples(max_examples=40)
@given(rankings(), subsets)
def test_special_tokens_change_nothing(ranking, true):
    special = {V, V + 1}
    noisy = Ranking([V, *ranking.ids, V + 1], [9.0, *ranking.scores, -9.0], ranking.claimed + 1)
    plain, other = token_metrics(ranking, true, V), token_metrics(noisy, true | {V}, V + 2, special)
    assert {name: sample.value for name, sample in plain.items()} == {name: sample.value for name, sample in other.items()}


def test_no_true_token_is_an_error():
    with pytest.raises(AuditError, match="empty or not below"):
        token_metrics(Ranking([], [], 0), {3}, V, {3})


@given(st.lists(words, max_size=4), st.lists(words, min_size=1, max_size=4))
def test_the_table_is_rouge_scores(recovered, true):
    scorer = RougeScorer(["rouge1"])
    expected = [[scorer.score(t, r)["rouge1"].fmeasure for t in true] for r in recovered]
    assert np.reshape(expected, (len(recovered), len(true))) == pytest.approx(rouge1_table(recovered, true))


@given(st.lists(words, min_size=1, max_size=4))
def test_no_assignment_beats_the_hungarian(true):
    recovered = [*true[1:], "ada call 5"]
    table = rouge1_table(recovered, true)
    best = max(sum(table[i, j] for j, i in enumerate(order)) for order in permutations(range(len(true))))
    assert best == pytest.approx(sum(table[i, j] for j, i in enumerate(match(recovered, true))))


def levenshtein(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1, levenshtein(a[1:], b[1:]) + (a[0] != b[0]))


short = st.text("ab1", max_size=5)


@given(short, short)
def test_similarity_is_levenshteins_definition(a, b):
    assert 1 - levenshtein(a, b) / max(len(a), len(b), 1) == pytest.approx(similarity(a, b))


@examples(max_examples=40)
@given(st.text("ab1", min_size=1, max_size=4), short)
def test_similarity_within_is_that_of_the_nearest_substring(value, text):
    parts = [text[i:j] for i in range(len(text) + 1) for j in range(i, len(text) + 1)]
    assert 1 - min(levenshtein(value, part) for part in parts) / len(value) == pytest.approx(similarity_within(value, text))


def test_a_value_inside_a_longer_one_does_not_count():
    assert stands_in("555-1234", "call 555-1234.")
    assert not stands_in("555-1234", "call 1555-1234")
    assert not stands_in("bob@x.org", "jimbob@x.org")


def test_digits_count_through_other_separators_but_not_across_numbers():
    assert stands_in_normalised("phone", "555-123-4567", "on (555) 123 4567 now")
    assert not stands_in_normalised("phone", "555-123-4567", "on 555-123 and then 4567")


def test_linkage_needs_the_right_owner():
    truth = [("Ada Byron", "555-123-4567")]
    right = [Secret("phone", "5551234567", "ada  byron")]
    wrong = [Secret("phone", "5551234567", "Bob Cole")]
    assert value_metrics("phone", truth, right, [])["linkage"].value == 1
    found = value_metrics("phone", truth, wrong, [])
    assert (found["normalised"].value, found["exact"].value, found["linkage"].value, found["digits"].value) == (1, 0, 0, 0)


def test_an_owners_second_guess_does_not_link():
    guesses = [Secret("phone", "555", "Ada", 0.1), Secret("phone", "777", "Ada", 0.9)]
    assert value_metrics("phone", [("Ada", "555")], guesses, [])["linkage"].value == 0


def test_digits_are_compared_place_by_place():
    found = value_metrics("phone", [("Ada", "555-123-4567")], [], ["Ada has 555-123-4999."])
    assert found["digits"].value == pytest.approx(0.7)
    assert found["similarity"].value == pytest.approx(9 / 12)


def test_listing_guesses_costs_precision():
    guesses = [Secret("phone", f"{n:03}") for n in range(100)]
    found = value_metrics("phone", [("Ada", "007")], guesses, [])
    assert (found["exact"].value, found["precision"].value) == (1, 0.01)


def test_perfect_recovery_is_1_everywhere(scorer, own_tokenizer, records):
    result = scorer.score(perfect(own_tokenizer, records)).to_dict()
    assert {kind: table.pop("records") for kind, table in result["pii"].items()} == result["counts"]["pii"]
    chance = result["metrics"].pop("token_chance")
    assert chance["value"] < 0.1
    every = [result["metrics"], *result["pii"].values()]
    assert {name: value for table in every for name, value in table.items() if value != {"value": 1, "low": 1, "high": 1}} == {}


def test_an_empty_recovery_is_0_everywhere_and_auc_one_half(scorer):
    result = scorer.score(Recovery("nothing")).to_dict()
    del result["metrics"]["token_chance"]
    assert result["metrics"].pop("auc")["value"] == 0.5
    every = [result["metrics"], *({k: v for k, v in table.items() if k != "records"} for table in result["pii"].values())]
    assert {value["value"] for table in every for value in table.values()} == {0}


@examples(max_examples=10)
@given(st.randoms(use_true_random=False))
def test_the_order_of_sequences_and_secrets_does_not_matter(scorer, own_tokenizer, records, order: random.Random):
    recovery = perfect(own_tokenizer, records)
    sequences = [row[: len(row) - number] for number, row in enumerate(recovery.sequences)]
    secrets = list(recovery.secrets[2:])
    before = scorer.score(Recovery("a", None, sequences, secrets)).to_dict()
    order.shuffle(sequences)
    order.shuffle(secrets)
    after = scorer.score(Recovery("a", None, sequences, secrets)).to_dict()
    for name, value in before["metrics"].items():
        assert value["value"] == pytest.approx(after["metrics"][name]["value"]), name
    assert before["pii"] == after["pii"]


def test_special_tokens_in_sequences_are_ignored(scorer, own_tokenizer, records):
    recovery = perfect(own_tokenizer, records)
    pad, end = own_tokenizer.pad_token_id, own_tokenizer.eos_token_id
    padded = Recovery("a", None, [[*row, end, pad, pad] for row in recovery.sequences])
    assert scorer.score(padded).value("batch_exact") == 1


@pytest.mark.parametrize("leave_out_last", [False, True])
def test_the_last_token_counts_unless_it_is_left_out(own_tokenizer, records, leave_out_last):
    ids = encoded(own_tokenizer, records)
    scorer = Scorer(own_tokenizer, records, ids, len(own_tokenizer), ScoreOptions(leave_out_last=leave_out_last))
    shorter = scorer.score(Recovery("a", None, [row[:-1] for row in ids]))
    assert shorter.value("exact_match") == leave_out_last
    other_end = scorer.score(Recovery("a", None, [[*row[:-1], 999] for row in ids]))
    assert other_end.value("exact_match") == leave_out_last
    longer = scorer.score(Recovery("a", None, [[*row, 999] for row in ids]))
    assert longer.value("exact_match") == 0


def test_a_wrong_token_costs_one_position_and_one_record(scorer, own_tokenizer, records):
    ids = encoded(own_tokenizer, records)
    ids[0] = [*ids[0]]
    ids[0][3] = (ids[0][3] + 1) % 500 + 50
    score = scorer.score(Recovery("a", None, ids))
    assert score.value("position_accuracy") == pytest.approx(1 - 1 / sum(map(len, ids)))
    assert (score.value("exact_match"), score.value("batch_exact")) == (pytest.approx(5 / 6), 0)


def test_a_record_needs_its_context_and_its_values(own_tokenizer):
    record = Record("Ada Byron left the phone number 555-123-4567 for questions.", "Ada Byron", {"phone": "555-123-4567"})
    scorer = Scorer(own_tokenizer, [record], encoded(own_tokenizer, [record]), len(own_tokenizer))

    def won(text, secrets=()):
        return scorer.score(Recovery("a", None, own_tokenizer([text])["input_ids"] if text else [], secrets)).value(
            "record_success"
        )

    assert won(record.text) == 1
    assert won(record.text.replace("4567", "4568")) == 0
    assert won("555-123-4567") == 0
    assert won(record.text.replace("555-123-4567", "it"), [Secret("phone", "555 123 4567", "Ada Byron")]) == 1
    assert won(record.text.replace("555-123-4567", "it"), [Secret("phone", "555 123 4567", "Bob Cole")]) == 0


def test_a_value_that_was_cut_off_is_no_truth(own_tokenizer, records):
    short = [row[:6] for row in encoded(own_tokenizer, records)]
    score = Scorer(own_tokenizer, records, short, len(own_tokenizer)).score(perfect(own_tokenizer, records))
    assert sum(score.counts["pii"].values()) < sum(len(record.pii) for record in records)


def test_scores_are_json_without_the_distance_of_single_tokens(scorer, own_tokenizer, records):
    true = sorted({token for row in encoded(own_tokenizer, records) for token in row})
    distances = np.ones(len(own_tokenizer))
    distances[true] = 0.05
    evidence = {
        "distances": {"edges": [0.0, 0.5, 1.0], "vocabulary": [1, 2]},
        "distance_by_token": distances.tolist(),
        "rank": 3,
    }
    found = json.loads(json.dumps(scorer.score(Recovery("a", evidence=evidence)).to_dict()))["evidence"]
    assert found == {"distances": {"edges": [0.0, 0.5, 1.0], "vocabulary": [1, 2], "true": [len(true), 0]}, "rank": 3}


def test_a_score_survives_json(scorer, own_tokenizer, records):
    score = scorer.score(perfect(own_tokenizer, records[:3]))
    assert Score.from_json(json.loads(json.dumps(score.to_json()))).to_dict() == score.to_dict()


def test_a_record_without_a_sequence_is_matched_with_nothing(scorer, own_tokenizer, records):
    found = scorer.matched(Recovery("a", None, encoded(own_tokenizer, records)[:2]))
    assert found == [(record.text, record.text if number < 2 else "") for number, record in enumerate(records)]
    assert scorer.matched(Recovery("a")) == []


@given(st.lists(st.floats(0, 1), min_size=8, max_size=30), st.integers(0, 3))
def test_an_interval_holds_the_value_and_is_the_same_for_the_same_seed(values, seed):
    found = interval(mean_of(values), seed)
    assert min(values) - 1e-9 <= found.low <= found.value <= found.high <= max(values) + 1e-9
    assert found == interval(mean_of(values), seed)


def test_the_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).random(40)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2).confidence_interval
    ours = interval(mean_of(values), draws=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(3)
    found = [interval(mean_of(generator.random(30) < 0.4), seed) for seed in range(300)]
    assert 0.88 <= np.mean([i.low <= 0.4 <= i.high for i in found]) <= 0.98


def test_pairing_narrows_a_difference_of_batches_that_move_together():
    base = np.random.default_rng(0).random(20)
    ours, control = mean_of(base + 0.1), mean_of(base)
    paired, unpaired = difference(ours, control, True), difference(ours, control, False)
    assert paired.high - paired.low < 1e-9 < unpaired.high - unpaired.low
    assert paired.value == pytest.approx(0.1)


def test_a_combined_value_is_pooled_over_batches_and_its_interval_is_over_batches(own_tokenizer):
    first, second = synthetic(4, seed=1, kinds=("phone",)), synthetic(4, seed=2, kinds=("phone",))
    won, lost = (Scorer(own_tokenizer, r, encoded(own_tokenizer, r), len(own_tokenizer)) for r in (first, second))
    result = combine([won.score(perfect(own_tokenizer, first)), lost.score(Recovery("a"))])
    assert result["metrics"]["exact_match"] == {"value": 0.5, "low": 0.0, "high": 1.0}
    assert result["pii"]["phone"]["exact"]["value"] == 0.5
    assert result["counts"]["records"] == 8


def test_gain_is_the_difference_to_the_control(scorer, own_tokenizer, records):
    ours, control = scorer.score(perfect(own_tokenizer, records)), scorer.score(Recovery("control"))
    found = gain(ours, control)
    assert found["metrics"]["rouge1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["metrics"]["auc"]["value"] == 0.5
    assert all(value["value"] == 0 for value in gain(ours, ours)["metrics"].values())


def test_scores_and_controls_must_be_as_many(scorer):
    nothing = scorer.score(Recovery("a"))
    with pytest.raises(AuditError, match="as many controls"):
        gain([nothing, nothing], nothing)


def test_a_sample_without_wholes_is_0():
    assert interval(Sample([], [])).to_dict() == {"value": 0, "low": 0, "high": 0}
