"""Observations of a known size: one record, cut so that a chosen number of different inputs stands behind the update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from defended import adapted
from torch import Tensor

from zkaudit.attacks.attack import Recovery
from zkaudit.attacks.federated.rounds import simulate
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import Record, synthetic
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.threat import Observation, Round
from zkaudit.attacks.update import Update

STILL = FederatedSettings(batch=1, dropout=False)
GPT2 = {"type": "LORA", "r": 16, "target_modules": ["c_attn"]}


@dataclass(frozen=True)
class Seen:
    """An observation and the distinct tokens behind it, without the record's last one, which is no input to any loss."""

    observation: Observation
    tokens: frozenset[int]

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return self.observation.rounds[0].update.tensors

    def changed(self, tensors: Mapping[str, Tensor]) -> Seen:
        """The same with another update."""
        first = self.observation.rounds[0]
        rounds = [Round(first.start, Update(first.update.kind, tensors))]
        return Seen(replace(self.observation, rounds=rounds), self.tokens)


def seen(count: int, model: PublicModel | None = None, settings: FederatedSettings = STILL, seed: int = 0) -> Seen:
    """`count` different tokens (or positions, if the model embeds those); without a model LoRA of rank 8 on q, k and v."""
    model = model or adapted(seed=seed)
    text = " ".join(record.text for record in synthetic(24, 500 + seed))
    ids = model.tokenizer(text)["input_ids"]
    if model.config.model_type == "llama":
        length = next(end for end in range(1, len(ids)) if len(set(ids[:end])) == count)
    else:
        length = count
    settings = replace(settings, longest=length + 1)
    run = simulate(model, [[Record(text)]], settings, seed=seed)
    return Seen(run.observation(), frozenset(ids[:length]))


def recall(one: Seen, recovery: Recovery) -> float:
    """Share of the tokens that are claimed."""
    return len(one.tokens & claims(recovery)) / len(one.tokens)


def precision(one: Seen, recovery: Recovery) -> float:
    """Share of claims that are right; 1 without claims."""
    claimed = claims(recovery)
    return len(one.tokens & claimed) / len(claimed) if claimed else 1.0


def recall_at_n(one: Seen, recovery: Recovery) -> float:
    """Share of the tokens among as many first ones of the ranking."""
    assert recovery.tokens is not None
    return len(one.tokens & set(recovery.tokens.ids[: len(one.tokens)])) / len(one.tokens)


def claims(recovery: Recovery) -> set[int]:
    assert recovery.tokens is not None
    return set(recovery.tokens.ids[: recovery.tokens.claimed])


def noise(one: Seen, seed: int) -> Seen:
    """Gaussian rows in A's gradients and nothing elsewhere: an update that shows no tokens."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Any] = {
        name: torch.randn(value.shape, generator=generator) if "lora_A" in name else torch.zeros_like(value)
        for name, value in one.tensors.items()
    }
    return one.changed(tensors)
