"""Pursuit: complete far beyond the rank of what it sees, silent where there is nothing to see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from defended import LORA, adapted
from observations import GPT2, STILL, Seen, claims, noise, precision, recall, recall_at_n, seen
from scipy import stats
from torch import Tensor

from zkaudit.attacks.attack import Recovery
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.evidence import gather, rows_of
from zkaudit.attacks.federated.rounds import simulate
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.sites import Dependence
from zkaudit.attacks.span_test import SpanTest
from zkaudit.attacks.sparse import PursuitOptions, compressed, log_p_values, pursue

K = 24  # of LoRA, rank 8, on q, k and v
WIDTH = 128


def pursued(one: Seen) -> Recovery:
    return Pursuit().run(one.observation)


@pytest.mark.parametrize("count", [3, 12, K])
def test_within_the_rank_it_claims_what_the_span_test_claims(count: int) -> None:
    one = seen(count)
    assert claims(pursued(one)) == claims(SpanTest().run(one.observation)) == one.tokens


@pytest.mark.parametrize("factor", [2, 4])
def test_beyond_the_rank_it_is_complete_where_the_span_test_is_not(factor: int) -> None:
    one = seen(factor * K)
    ours, theirs = pursued(one), SpanTest().run(one.observation)
    assert claims(ours) == one.tokens
    assert recall(one, theirs) < 0.9


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_complete_up_to_four_fifths_of_the_width(seed: int) -> None:
    one = seen(int(0.8 * WIDTH), seed=seed)
    assert claims(pursued(one)) == one.tokens


@pytest.mark.parametrize("seed", [0, 1])
def test_up_to_nine_tenths_of_the_width_it_ranks_the_tokens_before_all_others(seed: int) -> None:
    one = seen(int(0.9 * WIDTH), seed=seed)
    found = pursued(one)
    assert recall_at_n(one, found) == precision(one, found) == 1.0


def test_three_rows_are_enough_for_eight_times_as_many_tokens() -> None:
    one = seen(24, adapted({**LORA, "r": 1, "lora_alpha": 2}))
    assert claims(pursued(one)) == one.tokens


def test_beyond_the_width_it_claims_few_wrong_tokens() -> None:
    one = seen(180)
    found = pursued(one)
    assert recall(one, found) < 0.9
    assert precision(one, found) >= 0.9


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "fp8_e4m3", "fp8_e5m2"])
def test_low_precision_does_not_hide_two_thirds_more_tokens_than_rank(kind: str) -> None:
    one = seen(40, settings=replace(STILL, precision=kind))
    found = pursued(one)
    assert recall(one, found) >= 0.95
    assert precision(one, found) >= 0.95


def test_random_rows_give_no_claims_more_often_than_stated() -> None:
    one = seen(96)
    claimed = [len(claims(pursued(noise(one, seed)))) for seed in range(12)]
    # At most 2 x 0.05 of all updates should have any: that 5 or more of 12 do has a probability of 0.004.
    assert sum(count > 0 for count in claimed) <= stats.binom.isf(0.005, 12, 0.1)
    assert max(claimed) <= 4


def scaled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: 1e-3 * value for name, value in tensors.items()}


def rotated(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor times an orthogonal matrix from the left, which keeps row spaces."""
    generator = torch.Generator().manual_seed(5)
    result = {}
    for name, value in tensors.items():
        turn, _ = torch.linalg.qr(torch.randn(len(value), len(value), generator=generator, dtype=torch.float64))
        result[name] = (turn @ value.double()).float()
    return result


@pytest.mark.parametrize("change", [scaled, rotated])
def test_rows_scaled_or_mixed_change_nothing(change: object) -> None:
    one = seen(60)
    other = pursued(one.changed(change(dict(one.tensors))))  # type: ignore[operator]
    assert claims(other) == claims(pursued(one)) == one.tokens


def test_recovery_is_deterministic() -> None:
    one = seen(50, adapted(GPT2, name="nano-gpt2"))
    first, second = pursued(one), pursued(one)
    assert first.tokens == second.tokens
    assert first.evidence == second.evidence


def test_while_b_is_zero_rows_of_b_are_read() -> None:
    one = seen(6, apply(build("nano-llama"), LORA))
    assert all(not value.any() for name, value in one.tensors.items() if "lora_A" in name)
    assert {piece.group.taps[0].kind for piece in gather(one.observation)} == {"LoRA B"}
    assert claims(pursued(one)) == one.tokens


def test_a_position_gets_no_more_tokens_than_there_are_records() -> None:
    one = seen(40, adapted(GPT2, name="nano-gpt2"))
    positions = [position for _, position in pursued(one).evidence["picks"]]
    assert min(positions) >= 0
    assert len(set(positions)) == len(positions)  # one record


def test_no_candidate_is_taken_twice() -> None:
    picks = pursued(seen(180)).evidence["picks"]
    assert len(set(picks)) == len(picks)


def test_planted_rows_are_found_among_random_vectors() -> None:
    """The bare algorithm, against the truth that made the rows: 40 of 2000 vectors, mixed into 8 rows."""
    generator = torch.Generator().manual_seed(3)
    atoms = torch.nn.functional.normalize(torch.randn(2000, 96, generator=generator), dim=1)
    true = torch.randperm(2000, generator=generator)[:40]
    rows = torch.randn(8, 40, generator=generator) @ atoms[true]
    everywhere, sample = torch.full((2000,), -1), torch.arange(1000)
    picks = pursue([(atoms, rows)], everywhere, 60, 60, sample, 2000, PursuitOptions())
    assert set(picks.order[: picks.claimed]) == set(true.tolist())


def test_an_ignorant_limit_costs_nothing() -> None:
    """Settings allow many more tokens than there are."""
    one = seen(60)
    loose = replace(one.observation, federated=replace(one.observation.federated, longest=200))
    assert claims(Pursuit().run(loose)) == one.tokens


def test_two_rounds_on_the_same_records_show_more_than_one() -> None:
    one = seen(90, adapted(GPT2, name="nano-gpt2"))
    both = seen(90, adapted(GPT2, name="nano-gpt2"), replace(STILL, rounds=2, same_batch=True, learning_rate=0.5))
    assert recall_at_n(both, pursued(both)) > recall_at_n(one, pursued(one))


def test_without_a_tap_on_tokens_it_says_so() -> None:
    one = seen(6, apply(build("nano-llama"), {"type": "IA3"}))
    with pytest.raises(AuditError, match="sees single tokens"):
        pursued(one)


def test_weight_decay_in_a_step_is_public_and_hides_nothing() -> None:
    decayed = replace(STILL, sends="delta", learning_rate=0.1, weight_decay=0.1)
    one = seen(40, settings=decayed)
    assert claims(pursued(one)) == one.tokens


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Random unit vectors."""
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize(("candidates", "at_place"), [(40, 2), (12, 99)])
def test_a_pursuit_ends_where_no_candidate_may_be_taken_any_more(candidates: int, at_place: int) -> None:
    """All stand at one place that is full, or all are taken."""
    places = torch.zeros(candidates, dtype=torch.long)
    parts = [(drawn(candidates, 64), drawn(3, 64, seed=1))]
    picks = pursue(parts, places, 20, at_place, torch.arange(candidates), candidates, PursuitOptions())
    assert len(picks.order) == len(set(picks.order)) == min(candidates, at_place)


def test_rows_that_fill_what_candidates_span_tell_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(400, 64, generator=generator)
    atoms = torch.nn.functional.normalize(atoms - atoms.mean(1, keepdim=True), dim=1)  # as behind a LayerNorm: 63 dimensions
    rows = torch.randn(200, 100, generator=generator) @ atoms[:100]
    places = torch.full((400,), -1)
    picks = pursue([(atoms, compressed(rows))], places, 100, -1, torch.arange(400), 400, PursuitOptions())
    assert picks.false_hits[0] >= 1
    assert picks.claimed == 0 or picks.false_hits[picks.claimed - 1] < 0.05
    score = torch.full((5,), 1 - 1e-7)
    assert (log_p_values(score, 63.0, torch.full((50,), 1 - 1e-7), 64) == 0).all()


def test_pieces_of_noise_taken_together_bring_no_claims() -> None:
    """The product of six p-values is far smaller than the p-value of all six."""
    claimed = 0
    for seed in range(6):
        parts = [(drawn(2000, 32, seed=100 * seed + i), drawn(4, 32, seed=100 * seed + 50 + i)) for i in range(6)]
        picks = pursue(parts, torch.full((2000,), -1), 3, 3, torch.arange(1000, 2000), 2000, PursuitOptions())
        claimed += picks.claimed
    assert claimed <= 1


@pytest.mark.parametrize(("config", "stacked"), [(LORA, 3), ({"type": "FULL"}, 1)])
def test_only_rounds_whose_inputs_are_the_same_are_stacked(config: dict[str, object], stacked: int) -> None:
    """The first layer's inputs are the same in every round, unless the embedding is trained too."""
    rules = replace(STILL, longest=12, rounds=3, same_batch=True, learning_rate=1.0, warm_up_steps=1)
    run = simulate(apply(build("nano-llama"), config), [synthetic(1, 2)], rules, public=synthetic(1, 3))
    alone = replace(run.observation(), rounds=run.rounds[-1:])
    whole, last = (rows_of(one, Dependence.TOKEN)[0].rows for one in (run.observation(), alone))
    assert len(whole) == stacked * len(last)


def test_candidates_go_through_the_weights_of_the_round_that_is_attacked() -> None:
    rules = replace(STILL, longest=12, rounds=3, learning_rate=20.0)
    run = simulate(apply(build("nano-llama"), {"type": "FULL"}), [synthetic(3, 2)], rules)
    held = {int(token) for token in run.batches[-1][0].input_ids[0, :-1]}
    found = Pursuit().run(run.observation())  # the model holds the first round's start
    assert found.tokens is not None
    assert held == set(found.tokens.ids[: len(held)])
