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
from zkaudit.attacks.evidence import gather
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.pursuit import Pursuit, PursuitOptions, pursue
from zkaudit.attacks.span_test import SpanTest

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
