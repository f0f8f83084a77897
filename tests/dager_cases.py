"""Small batches that DAGER attacks in tests, and how its findings are scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import peft
import torch

from zkaudit.attacks.attack import Recovery
from zkaudit.attacks.dager import DagerOptions
from zkaudit.attacks.federated.client import batches, local_update
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.model import Batch, PublicModel
from zkaudit.attacks.threat import Observation, Round

PUBLISHED = DagerOptions("published")
Prepare = Callable[[PublicModel], PublicModel]


@dataclass(frozen=True)
class Case:
    """What an attack sees, and what it should find: a causal model's update says nothing of a record's last token."""

    observation: Observation
    batches: list[Batch]

    @property
    def truth(self) -> list[list[int]]:
        hidden = int(self.observation.model.task == "causal_lm")
        rows = [row for batch in self.batches for row in zip(batch.input_ids, batch.attention_mask, strict=True)]
        return [ids[: int(mask.sum()) - hidden].tolist() for ids, mask in rows]

    def f1(self, recovery: Recovery) -> float:
        """Of the claimed set of tokens."""
        assert recovery.tokens is not None
        true = {token for ids in self.truth for token in ids}
        claimed = set(recovery.tokens.ids[: recovery.tokens.claimed])
        return 2 * len(true & claimed) / (len(true) + len(claimed))

    def exact(self, recovery: Recovery) -> float:
        """Share of records found whole."""
        return sum(ids in [list(found) for found in recovery.sequences] for ids in self.truth) / len(self.truth)


def whole(model: PublicModel) -> PublicModel:
    model.module.requires_grad_(True)
    return model


def lora(rank: int, targets: list[str], started: bool = True) -> Prepare:
    """LoRA; `started`: after some training, so that B is not zero."""

    def prepare(model: PublicModel) -> PublicModel:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            wrapped = peft.get_peft_model(model.module, peft.LoraConfig(r=rank, target_modules=targets))
            for name, parameter in wrapped.named_parameters():
                if started and "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.02)
        return PublicModel(wrapped.eval(), model.tokenizer, model.task)

    return prepare


def observed(model: PublicModel, settings: FederatedSettings, seed: int = 7) -> Case:
    data = batches(model, synthetic(settings.records, seed), settings)
    return Case(Observation(model, settings, [Round(model.state(), local_update(model, data, settings))]), data)


def case(name: str, batch: int, longest: int, prepare: Prepare = whole, seed: int = 7, **more) -> Case:
    settings = FederatedSettings(batch=batch, longest=longest, dropout=False, **more)
    task = "sequence_classification" if "bert" in name else None
    return observed(prepare(build(name, task=task)), settings, seed)


@cache
def gpt2(precision: str = "float32") -> Case:
    """91 token positions in a width of 128."""
    return case("nano-gpt2", 4, 24, precision=precision)


@cache
def llama() -> Case:
    return case("nano-llama", 4, 24)
