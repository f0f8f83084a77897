"""Record pursuit: whole records come back although tokens outnumber the rank of the update."""

from __future__ import annotations

import peft
import pytest
import torch

from zkaudit.attacks.attack import Recovery, silent
from zkaudit.attacks.battery import scorer_of
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import batches, local_update
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab import models
from zkaudit.attacks.lab.records import Record, synthetic
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.record_pursuit import RecordPursuit, _Alphabet, _Tree
from zkaudit.attacks.threat import Observation, Round

RANK = 8  # of each of q, k and v: K = 24


@pytest.fixture(scope="module")
def writer() -> PublicModel:
    """A model that has learnt to write records, those of other people."""
    base = models.build("nano-llama")
    models.train_language(base, [record.text for record in synthetic(500, 77)], steps=120, batch=8)
    return with_adapters(base, ["q_proj", "k_proj", "v_proj"])


def with_adapters(base: PublicModel, targets: list[str], **options: object) -> PublicModel:
    config = peft.LoraConfig(r=RANK, target_modules=targets, task_type="CAUSAL_LM", **options)
    model = PublicModel(peft.get_peft_model(base.module, config), base.tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            if "lora_B" in name:
                parameter.normal_(0, 0.02, generator=generator)
    return model


def observation(model: PublicModel, records: list[Record]) -> Observation:
    settings = FederatedSettings(batch=len(records), longest=40, dropout=False)
    update = local_update(model, batches(model, records, settings), settings)
    return Observation(model, settings, [Round(model.state(), update)])


def test_most_records_longer_than_the_rank_come_back_word_for_word(writer: PublicModel) -> None:
    exact = []
    for seed in range(1, 9):
        record = synthetic(6, seed)[seed % 6]
        recovery = RecordPursuit().run(observation(writer, [record]))
        assert len(writer.tokenizer(record.text)["input_ids"]) > 3 * RANK >= recovery.evidence["rank"]
        score = scorer_of(writer, [record], 40).score(recovery)
        exact.append(score.value("exact_match") == 1.0)
        if recovery.evidence["unexplained_by_texts"] < 1e-5:  # an attacker knows without the truth that it has succeeded
            assert exact[-1]
            assert score.value("pii_exact") == 1.0
    assert sum(exact) >= 5


def test_another_record_s_update_does_not_give_this_record(writer: PublicModel) -> None:
    ours, other = synthetic(2, 5)
    recovery = RecordPursuit().run(observation(writer, [other]))
    assert scorer_of(writer, [ours], 40).score(recovery).value("exact_match") == 0.0


def test_no_more_texts_than_records(writer: PublicModel) -> None:
    recovery = RecordPursuit().run(observation(writer, synthetic(3, 6)))
    assert len(recovery.sequences) <= 3
    assert len({tuple(text) for text in recovery.sequences}) == len(recovery.sequences)


def test_records_need_a_module_that_sees_texts() -> None:
    model = with_adapters(models.build("nano-llama"), ["q_proj"], layers_to_transform=[0])
    with pytest.raises(AuditError, match="behind the first block"):
        RecordPursuit().run(observation(model, synthetic(1, 0)))


def test_no_more_texts_than_records_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three texts branch off one of two, and the other ends: four stand where there are three records."""
    steps = iter([[[1], [2]], [[1, 1], [1, 2], [1, 3]], []])
    tree = _Tree.__new__(_Tree)
    tree.longest, tree.records, tree.parts = 9, 3, []
    monkeypatch.setattr(_Tree, "_extend", lambda *_: next(steps))
    monkeypatch.setattr(_Tree, "left", 1.0)
    alphabet = _Alphabet(Recovery("", evidence={"picks": [(1, -1), (2, -1), (3, -1)], "claimed_picks": 3}))
    assert tree.grow(alphabet, silent) == [[1, 1], [1, 2], [1, 3]]
