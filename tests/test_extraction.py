"""Extraction of memorised values from an updated model."""

from __future__ import annotations

import pytest
import torch

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.extraction import Extraction, ExtractionOptions
from zkaudit.attacks.federated.client import batches, local_update
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import synthetic, values
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.recit.channel import ChannelOptions
from zkaudit.attacks.threat import THREATS, Observation, Round

torch.set_num_threads(1)
AUXILIARY = synthetic(40, 5, kinds=("phone",))
CLIENT = synthetic(1, 6, taken=values(AUXILIARY), kinds=("phone",))
STRANGER = synthetic(1, 7, taken=values(AUXILIARY) | values(CLIENT), kinds=("phone",))[0]


@pytest.fixture(scope="module")
def seen() -> dict[str, Observation]:
    """A client that trained on one record for long, by threat model."""
    model = apply(build("nano-llama"), {"type": "FULL"})
    rules = FederatedSettings("delta", "adamw", 2e-3, batch=1, local_epochs=40, dropout=False)
    rounds = [Round(model.state(), local_update(model, batches(model, CLIENT, rules), rules))]
    return {
        threat: Observation(model, rules, rounds, THREATS[threat], _auxiliary=AUXILIARY) for threat in ("passive", "auxiliary")
    }


def test_a_memorised_value_of_a_known_person_ranks_first(seen: dict[str, Observation]) -> None:
    options = ExtractionOptions(owners=(STRANGER.owner, CLIENT[0].owner), channel=ChannelOptions(("continuation",), beams=2))
    found = Extraction(options).run(seen["auxiliary"])
    assert (found.secrets[0].kind, found.secrets[0].value) == ("phone", CLIENT[0].pii["phone"])
    assert found.secrets[0].score > 0


def test_a_person_that_no_client_has_gets_no_right_value(seen: dict[str, Observation]) -> None:
    options = ExtractionOptions(owners=(STRANGER.owner,), channel=ChannelOptions(("continuation",), beams=1))
    assert STRANGER.pii["phone"] not in {secret.value for secret in Extraction(options).run(seen["auxiliary"]).secrets}


def test_names_are_decoded_where_none_is_known(seen: dict[str, Observation]) -> None:
    found = Extraction(ExtractionOptions(people=4, channel=ChannelOptions(("continuation",), beams=1))).run(seen["auxiliary"])
    assert CLIENT[0].owner in {secret.owner for secret in found.secrets}
    assert CLIENT[0].pii["phone"] in {secret.value for secret in found.secrets}


def test_a_passive_attacker_uses_no_records_of_his_own(seen: dict[str, Observation]) -> None:
    found = Extraction(ExtractionOptions(kinds=("phone",), channel=ChannelOptions(("continuation",), beams=1))).run(
        seen["passive"]
    )
    assert not found.evidence["informed"]
    assert {secret.kind for secret in found.secrets} <= {"phone"}


def test_secrets_come_by_decreasing_gain(seen: dict[str, Observation]) -> None:
    found = Extraction(ExtractionOptions(owners=(CLIENT[0].owner,))).run(seen["auxiliary"])
    scores = [secret.score for secret in found.secrets]
    assert scores == sorted(scores, reverse=True)


def test_extraction_refuses_a_model_that_cannot_continue_text() -> None:
    model = apply(build("micro-bert"), {"type": "LORA", "r": 4, "target_modules": ["query"]})
    rules = FederatedSettings(batch=1)
    observation = Observation(model, rules, [Round(model.state(), local_update(model, batches(model, CLIENT, rules), rules))])
    with pytest.raises(AuditError, match="causal"):
        Extraction().run(observation)
