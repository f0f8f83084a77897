"""The span test, token sets and controls: p-values that mean what they say, and nothing read where nothing was sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from defended import LORA, ONE_RECORD, adapted
from observations import Seen, claims, noise, precision, recall, recall_at_n, seen
from scipy import stats

from zkaudit.attacks.controls import LanguageModelOnly, RandomTokens
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.rounds import simulate
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.record_pursuit import RecordPursuit
from zkaudit.attacks.span_test import SpanTest, StaticSpanTest
from zkaudit.attacks.spans import beta_p_values, fisher, subspace
from zkaudit.attacks.token_set import TokenSet

K = 24  # of LoRA, rank 8, on q, k and v


def test_beta_p_values_are_those_of_a_simulation() -> None:
    """Of 200,000 random directions in 12 dimensions, by their distance to a space of 5."""
    generator = torch.Generator().manual_seed(0)
    space = subspace(torch.randn(5, 12, generator=generator))
    distances = space.distances(torch.randn(200_000, 12, generator=generator)).sort().values
    for share in (0.001, 0.01, 0.1, 0.5):
        at = distances[int(share * len(distances)) - 1]
        expected = float(beta_p_values(at[None], 12, 5)[0])
        assert share == pytest.approx(expected, abs=5 * (share * (1 - share) / len(distances)) ** 0.5)


def test_beta_p_values_are_those_of_an_f_test() -> None:
    """The squared tangent of the angle, over degrees of freedom, has an F distribution."""
    distances = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    tangent = (distances**2 / (1 - distances**2)).numpy()
    expected = stats.f.cdf(tangent * 5 / 7, 7, 5)
    np.testing.assert_allclose(beta_p_values(distances, 12, 5).numpy(), expected, rtol=1e-9)


def test_a_space_that_is_everything_or_nothing_is_no_evidence() -> None:
    some = torch.tensor([0.0, 0.5])
    assert beta_p_values(some, 8, 8).tolist() == beta_p_values(some, 8, 0).tolist() == [1.0, 1.0]


def test_p_values_of_tokens_that_are_not_there_are_uniform() -> None:
    """Kolmogorov and Smirnov's test, over independent updates of random rows."""
    one = seen(K)
    p = []
    for seed in range(5):
        recovery = SpanTest().run(noise(one, seed).observation)
        assert recovery.tokens is not None
        p += np.exp(-np.array(recovery.tokens.scores)).tolist()[::10]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_random_rows_give_no_claims_more_often_than_stated() -> None:
    one = seen(K)
    claimed = [len(claims(SpanTest().run(noise(one, seed).observation))) for seed in range(20)]
    # The rate stated is 0.05: that 6 or more of 20 updates have any claim has a probability below 0.001.
    assert sum(count > 0 for count in claimed) <= stats.binom.isf(0.001, 20, 0.05)


def test_the_share_of_wrong_claims_is_as_stated() -> None:
    wrong = [1 - precision(one, SpanTest().run(one.observation)) for one in (seen(2 * K, seed=seed) for seed in range(6))]
    assert float(np.mean(wrong)) <= 0.05


@pytest.mark.parametrize("count", [4, K])
def test_up_to_the_rank_exactly_the_tokens_are_claimed(count: int) -> None:
    one = seen(count)
    for attack in (SpanTest(), StaticSpanTest()):
        assert claims(attack.run(one.observation)) == one.tokens


@pytest.mark.parametrize("count", [2 * K, 4 * K])
def test_beyond_the_rank_nothing_lies_in_the_span_but_tokens_lean_towards_it(count: int) -> None:
    one = seen(count)
    assert not claims(StaticSpanTest().run(one.observation))
    ranked = recall_at_n(one, SpanTest().run(one.observation))
    assert 5 * count / one.observation.model.vocabulary < ranked < 1


def test_rows_scaled_or_mixed_change_nothing() -> None:
    one = seen(K)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    mixed = {n: (300 * turn @ v.double()).float() if "lora_A" in n else v for n, v in one.tensors.items()}
    assert claims(SpanTest().run(one.changed(mixed).observation)) == claims(SpanTest().run(one.observation)) == one.tokens


def test_recovery_is_deterministic() -> None:
    one = seen(2 * K)
    first, second = (SpanTest().run(one.observation) for _ in range(2))
    assert first.tokens == second.tokens
    assert first.evidence == second.evidence


def test_while_b_is_zero_rows_of_b_tell_tokens_up_to_their_rank_less_two() -> None:
    def v_alone(count: int) -> Seen:
        return seen(count, apply(build("nano-llama"), {**LORA, "r": 16, "target_modules": ["v_proj"]}))

    within, beyond = v_alone(14), v_alone(20)
    assert claims(SpanTest().run(within.observation)) == within.tokens
    assert not claims(SpanTest().run(beyond.observation))


def test_the_query_of_a_first_position_leaves_no_trace() -> None:
    """It meets one key, so the softmax is constant: a record's first token shows in the values alone."""
    queries = seen(20, adapted({**LORA, "r": 32, "target_modules": ["q_proj"]}))
    values = seen(20, adapted({**LORA, "r": 32, "target_modules": ["v_proj"]}))
    assert len(queries.tokens - claims(SpanTest().run(queries.observation))) == 1
    assert claims(SpanTest().run(values.observation)) == values.tokens


def test_the_histogram_holds_every_candidate_and_the_null_is_a_density() -> None:
    one = seen(K)
    distances = SpanTest().run(one.observation).evidence["distances"]
    assert sum(distances["vocabulary"]) == one.observation.model.vocabulary
    assert sum(distances["null"]) == pytest.approx(1.0)


EMBEDDINGS = {"saved": {"modules_to_save": ["embed_tokens"]}, "LoRA": {"target_modules": ["q_proj", "embed_tokens"]}}


@pytest.mark.parametrize("kind", list(EMBEDDINGS))
@pytest.mark.parametrize("count", [5, 60, 160])
def test_a_trained_embedding_names_the_tokens_at_any_size(kind: str, count: int) -> None:
    one = seen(count, adapted({**LORA, **EMBEDDINGS[kind]}))
    assert claims(TokenSet().run(one.observation)) == one.tokens


def test_a_token_set_needs_a_row_for_each_token() -> None:
    with pytest.raises(AuditError, match="row for each token"):
        TokenSet().run(seen(5).observation)


@pytest.mark.parametrize("control", [LanguageModelOnly(), RandomTokens()])
def test_controls_do_not_see_the_update(control: LanguageModelOnly | RandomTokens) -> None:
    one = seen(K)
    other = one.changed({name: -value + 1 for name, value in one.tensors.items()})
    first, second = control.run(one.observation), control.run(other.observation)
    assert first.tokens == second.tokens
    assert first.sequences == second.sequences


def test_a_random_ranking_is_a_permutation_that_claims_nothing() -> None:
    one = seen(K)
    recovery = RandomTokens(3).run(one.observation)
    assert recovery.tokens is not None
    assert sorted(recovery.tokens.ids) == list(range(one.observation.model.vocabulary))
    assert not claims(recovery)
    assert recall(one, recovery) == 0


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_joined_p_values_are_fishers(pieces: int) -> None:
    p = torch.rand(pieces, 40, generator=torch.Generator().manual_seed(pieces), dtype=torch.float64)
    expected = [stats.combine_pvalues(column).pvalue for column in p.T.numpy()]
    np.testing.assert_allclose(fisher(list(p.log())).exp().numpy(), expected, rtol=1e-9)


def test_joined_p_values_keep_their_order_where_they_underflow() -> None:
    far = torch.tensor([-900.0, -901.0, 0.0], dtype=torch.float64)
    joined = fisher([far, far, far])
    assert joined[1] < joined[0] < -2600
    assert joined[2] == 0


@pytest.mark.parametrize(
    "config", [{"type": "FULL"}, {**LORA, "target_modules": ["embed_tokens"]}, {**LORA, "trainable_token_indices": [7, 8, 9]}]
)
def test_weight_decay_adds_no_token_to_the_set(config: dict[str, Any]) -> None:
    model = apply(build("nano-llama"), config)
    rules = replace(ONE_RECORD, sends="delta", learning_rate=0.1, weight_decay=0.01)
    run = simulate(model, [synthetic(1, 4)], rules)
    held = set(run.batches[0][0].input_ids[0, :-1].tolist())  # the last one has no error
    claimed = TokenSet().run(run.observation()).tokens
    assert claimed is not None
    assert set(claimed.ids[: claimed.claimed]) == (set() if "trainable_token_indices" in config else held)


@pytest.mark.parametrize("attack", [SpanTest(), StaticSpanTest(), TokenSet(), Pursuit(), RecordPursuit()])
def test_without_a_round_there_is_nothing_to_attack(attack: Any) -> None:
    one = seen(5, adapted({**LORA, **EMBEDDINGS["saved"]}))
    with pytest.raises(AuditError, match="no update"):
        attack.run(replace(one.observation, rounds=[]))
