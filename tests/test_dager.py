"""DAGER: exact where the algebra says so, best effort and labelled beyond, and never told the truth."""

from __future__ import annotations

import pytest
import torch
from dager_cases import PUBLISHED, case, gpt2, llama, lora, observed, whole

from zkaudit.attacks.dager import Dager, DagerOptions
from zkaudit.attacks.dager.observed import gradient
from zkaudit.attacks.dager.tokens import given
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import local_update
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.threat import Observation, Round


@pytest.mark.parametrize("options", [DagerOptions(), PUBLISHED], ids=lambda o: o.setting)
def test_batch_with_fewer_tokens_than_the_width_is_recovered(options: DagerOptions) -> None:
    recovery = Dager(options).run(gpt2().observation)
    assert gpt2().f1(recovery) >= 0.99
    assert gpt2().exact(recovery) == 1.0
    assert not recovery.evidence["degraded"]
    assert len(recovery.sequences) == 4


def test_padding_is_not_claimed() -> None:
    recovery = Dager().run(gpt2().observation)
    assert any((batch.attention_mask == 0).any() for batch in gpt2().batches)
    assert recovery.tokens is not None
    assert gpt2().observation.model.tokenizer.pad_token_id not in recovery.tokens.ids[: recovery.tokens.claimed]


def test_model_without_positions_is_recovered_from_one_list_of_candidates() -> None:
    recovery = Dager().run(llama().observation)
    assert len(recovery.evidence["counts"]["survivors"]) == 1
    assert llama().f1(recovery) >= 0.99
    assert llama().exact(recovery) == 1.0


def test_query_alone_does_not_show_a_causal_models_first_token() -> None:
    """Attention of the first position is 1 whatever q is: DAGER's published rules lose such records, stacked taps do not."""
    recovery = Dager(PUBLISHED).run(llama().observation)
    assert llama().exact(recovery) == 0.0
    assert recovery.tokens is not None
    claimed = recovery.tokens.ids[: recovery.tokens.claimed]
    later = {token for ids in llama().truth for token in ids[1:]}
    assert all(ids[0] not in claimed for ids in llama().truth if ids[0] not in later)


def test_lora_with_no_more_tokens_than_its_stacked_rank_is_recovered() -> None:
    some = case("nano-llama", 2, 20, lora(16, ["q_proj", "k_proj", "v_proj"]))
    assert sum(map(len, some.truth)) <= 48
    recovery = Dager().run(some.observation)
    assert some.f1(recovery) == 1.0
    assert some.exact(recovery) == 1.0


def test_first_round_of_lora_is_not_blind() -> None:
    """While B is zero the gradient of A is too, and that of B spans A x."""
    some = case("nano-llama", 1, 14, lora(16, ["q_proj", "k_proj", "v_proj"], started=False))
    recovery = Dager().run(some.observation)
    assert recovery.evidence["token stage"]["tap"] == "LoRA B"
    assert some.f1(recovery) == 1.0
    assert some.exact(recovery) == 1.0


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_encoder_is_recovered_up_to_eight_tokens(batch: int) -> None:
    some = case("micro-bert", batch, 8)
    recovery = Dager().run(some.observation)
    assert some.f1(recovery) == 1.0
    assert some.exact(recovery) == 1.0


def test_encoders_last_layer_shows_nine_directions_a_record_and_earlier_modules_more() -> None:
    """Of the last layer only the first position is used: q shows one direction, k and v one for each of four heads."""
    some = case("micro-bert", 1, 16)
    rows = torch.cat(
        [
            some.observation.rounds[0].update.tensors[f"bert.encoder.layer.1.attention.self.{name}.weight"].double()
            for name in ("query", "key", "value")
        ]
    )
    singular = torch.linalg.svdvals(rows)
    assert int((singular > 1e-6 * singular[0]).sum()) == 9
    recovery = Dager().run(some.observation)
    assert ".layer.0." in recovery.evidence["sentence stage"]["site"]
    assert some.exact(recovery) == 1.0


def test_encoders_second_kind_of_segment_is_found() -> None:
    model = whole(build("micro-bert", task="sequence_classification"))
    with given(model, token_type_ids=torch.ones(1, 1, dtype=torch.long)):
        some = observed(model, FederatedSettings(batch=1, longest=8, dropout=False))
    assert Dager().run(some.observation).evidence["passed"] == [False]
    recovery = Dager(DagerOptions(token_types=2)).run(some.observation)
    assert recovery.evidence["passed"] == [True]
    assert some.exact(recovery) == 1.0


def test_delta_of_one_sgd_step_is_a_gradient_after_its_weight_decay() -> None:
    some = case("nano-gpt2", 2, 16, sends="delta", weight_decay=0.1)
    plain = case("nano-gpt2", 2, 16)
    was, now = plain.observation.rounds[0], some.observation.rounds[0]
    name = "transformer.h.0.attn.c_attn.weight"
    expected = was.update.tensors[name].double()
    seen = gradient(now, some.observation.federated)[name]
    assert float((seen - expected).norm() / expected.norm()) < 1e-3
    assert some.exact(Dager().run(some.observation)) == 1.0


def test_more_tokens_than_the_width_are_best_effort() -> None:
    some = case("nano-gpt2", 8, 30)
    assert sum(map(len, some.truth)) > 128
    recovery = Dager().run(some.observation)
    assert recovery.evidence["degraded"]
    assert some.exact(recovery) == 0.0
    assert not any(recovery.evidence["passed"])
    published = Dager(PUBLISHED).run(some.observation)
    assert published.evidence["degraded"]
    assert some.f1(published) < 0.1 < some.f1(recovery)


def test_more_tokens_than_lora_can_tell_apart_are_ranked_and_said_to_be_degraded() -> None:
    some = case("nano-llama", 4, 24, lora(16, ["q_proj", "k_proj", "v_proj"]))
    assert sum(map(len, some.truth)) > 48
    recovery = Dager().run(some.observation)
    assert recovery.evidence["degraded"]
    assert some.exact(recovery) == 0.0
    assert some.f1(recovery) > 0.5


def test_thresholds_fail_in_low_precision_and_calibrated_tests_do_not() -> None:
    some = gpt2("bfloat16")
    assert some.f1(Dager(PUBLISHED).run(some.observation)) < 0.1
    assert some.f1(Dager().run(some.observation)) >= 0.95


def test_rounds_on_one_batch_add_their_ranks() -> None:
    some = case("nano-llama", 1, 20, lora(8, ["q_proj"]))
    model, first = some.observation.model, some.observation.rounds[0]
    moved = {name: value + 0.02 * torch.randn_like(value) * ("lora_B" in name) for name, value in first.start.items()}
    with model.holding(moved):
        second = Round(moved, local_update(model, some.batches, some.observation.federated))
    settings = FederatedSettings(batch=1, longest=20, dropout=False, rounds=2, same_batch=True)
    alone = Dager().run(some.observation).evidence["token stage"]
    both = Dager().run(Observation(model, settings, [first, second])).evidence["token stage"]
    assert (alone["rank"], alone["rounds"]) == (8, 1)
    assert (both["rank"], both["rounds"]) == (16, 2)


def test_rounds_on_other_records_are_attacked_one_by_one() -> None:
    one, two = case("nano-gpt2", 2, 12), case("nano-gpt2", 2, 12, seed=8)
    settings = FederatedSettings(batch=2, longest=12, dropout=False, rounds=2)
    rounds = [*one.observation.rounds, *two.observation.rounds]
    recovery = Dager().run(Observation(one.observation.model, settings, rounds))
    assert one.exact(recovery) == two.exact(recovery) == 1.0


def test_nothing_is_recovered_from_other_records() -> None:
    recovery = Dager().run(case("nano-gpt2", 4, 24, seed=8).observation)
    assert gpt2().exact(recovery) == 0.0


def test_without_a_view_of_single_tokens_the_whole_vocabulary_is_tried() -> None:
    some = case("nano-gpt2", 1, 8, lora(32, ["c_fc"]))
    recovery = Dager().run(some.observation)
    assert "token stage" not in recovery.evidence
    assert some.f1(recovery) == 1.0
    assert some.exact(recovery) == 1.0


def test_first_layer_alone_gives_tokens_without_order() -> None:
    some = case("nano-llama", 1, 12, lora(16, ["layers.0.self_attn.v_proj"]))
    recovery = Dager().run(some.observation)
    assert recovery.sequences == []
    assert some.f1(recovery) == 1.0


def test_update_that_shows_nothing_is_refused() -> None:
    some = gpt2().observation
    zero = {name: torch.zeros_like(value) for name, value in some.rounds[0].update.tensors.items()}
    empty = Round(some.rounds[0].start, type(some.rounds[0].update)("gradient", zero))
    with pytest.raises(AuditError, match="no span"):
        Dager().run(Observation(some.model, some.federated, [empty]))
