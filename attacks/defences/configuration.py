"""Defences that a federation adopts by configuration: dropout, rank, layers, batch, aggregation, what is trained and shared.

All but `share` leave updates as they are; what changes is how many inputs stand behind one update (n) and how many of them
it can tell apart (K), or what the inputs that it shows depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zkaudit.attacks.defences.defence import Defence, Kind, Peft, arguments, number, whole
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.settings import FederatedSettings

# What transformers calls the layers that map token ids to vectors, and those tied to them.
EMBEDDINGS = ("wte", "wpe", "embed_tokens", "word_embeddings", "position_embeddings", "token_type_embeddings", "lm_head")

_LORA = ("LORA", "DORA", "ADALORA")
_RANK = {"LORA": "r", "DORA": "r", "ADALORA": "target_r", "BOTTLENECK": "size", "PREFIX_TUNING": "num_virtual_tokens"}


def _kind(config: Peft) -> str:
    return str(config.get("type", "LORA")).upper()


def _dropout(text: str, given: Sequence[str]) -> Defence:
    arguments(text, given, 1, 1)
    rate = number(text, given[0], "rate", 0, 0.99)

    def peft(config: Peft, _blocks: int) -> dict[str, Any]:
        return {**config, "lora_dropout": rate} if _kind(config) in _LORA else dict(config)

    return Defence(text, settings=lambda settings: replace(settings, dropout=True), peft=peft)


def _rank(text: str, given: Sequence[str]) -> Defence:
    arguments(text, given, 1, 1)
    rank = whole(text, given[0], "rank")

    def peft(config: Peft, _blocks: int) -> dict[str, Any]:
        kind = _kind(config)
        if kind not in _RANK:
            raise AuditError(f"defence '{text}': {kind} has no rank")
        changed = {**config, _RANK[kind]: rank}
        if "lora_alpha" in config:  # peft scales by alpha / r: keep the scale
            changed["lora_alpha"] = config["lora_alpha"] * rank / config.get(_RANK[kind], 8)
        return changed

    return Defence(text, peft=peft)


def _layers(text: str, given: Sequence[str]) -> Defence:
    """ "later" is the second half; "2-3" and "2" count blocks from 0."""
    arguments(text, given, 1, 1)
    choice = given[0]
    first, _, last = choice.partition("-")
    if choice != "later":
        low, high = whole(text, first, "first layer", 0), whole(text, last or first, "last layer", 0)
        if low > high:
            raise AuditError(f"defence '{text}': the first layer comes after the last")

    def peft(config: Peft, blocks: int) -> dict[str, Any]:
        if _kind(config) not in _LORA:
            raise AuditError(f"defence '{text}': {_kind(config)} cannot be put on some layers only")
        chosen = range((blocks + 1) // 2, blocks) if choice == "later" else range(low, high + 1)
        if not chosen or chosen[-1] >= blocks:
            raise AuditError(f"defence '{text}': the model has {blocks} layers, counted from 0")
        return {**config, "layers_to_transform": list(chosen)}

    return Defence(text, peft=peft)


def _freeze_embeddings(text: str, given: Sequence[str]) -> Defence:
    arguments(text, given, 0, 0)

    def peft(config: Peft, _blocks: int) -> dict[str, Any]:
        kept = {key: value for key, value in config.items() if key != "trainable_token_indices"}
        for key in ("modules_to_save", "target_modules"):
            if kept.get(key) and not isinstance(kept[key], str):  # a string is a pattern over whole names
                kept[key] = [name for name in kept[key] if name.rsplit(".", 1)[-1] not in EMBEDDINGS] or None
        if config.get("target_modules") and not kept["target_modules"]:
            raise AuditError(f"defence '{text}': the adapters are on embeddings only, nothing would be left to train")
        return kept

    return Defence(text, peft=peft)


def _share(text: str, given: Sequence[str]) -> Defence:
    """The tensors that stay at the client arrive as zeros."""
    arguments(text, given, 1, 1)
    if given[0] not in ("a", "b"):
        raise AuditError(f"defence '{text}': '{given[0]}' is not one of a, b")
    kept = "lora_B" if given[0] == "a" else "lora_A"

    def protect(tensors: dict[str, Tensor], _generator: torch.Generator) -> dict[str, Tensor]:
        return {name: torch.zeros_like(value) if f".{kept}." in name else value for name, value in tensors.items()}

    return Defence(text, protect)


def _freeze_a(text: str, given: Sequence[str]) -> Defence:
    arguments(text, given, 0, 0)

    def peft(config: Peft, _blocks: int) -> dict[str, Any]:
        if _kind(config) not in ("LORA", "DORA"):
            raise AuditError(f"defence '{text}': {_kind(config)} has no A")
        return {**config, "freeze_a": True}

    return Defence(text, peft=peft)


def _of_settings(change: Callable[[FederatedSettings, int], FederatedSettings], what: str) -> Callable[..., Defence]:
    def make(text: str, given: Sequence[str]) -> Defence:
        arguments(text, given, 1, 1)
        value = whole(text, given[0], what)
        return Defence(text, settings=lambda settings: change(settings, value))

    return make


def _adamw(text: str, given: Sequence[str]) -> Defence:
    arguments(text, given, 0, 0)
    return Defence(text, settings=lambda settings: replace(settings, sends="delta", optimizer="adamw"))


_MORE = "raises n, the inputs behind one update; K is as before, so ranking degrades slowly"
_ENTRIES: Mapping[str, tuple[str, str, str, Callable[[str, Sequence[str]], Defence]]] = {
    "dropout": (
        "dropout:0.1",
        "train mode, with this lora_dropout on the adapters' inputs",
        "inputs move by a random mask each: thresholds fail, ranking hardly changes",
        _dropout,
    ),
    "rank": (
        "rank:4",
        "adapters of a lower rank (or size, or shorter prefix), which lowers K",
        "more modules on the same input, or more rounds, restore K; soft ranking remains",
        _rank,
    ),
    "layers": (
        "layers:later",
        "adapters on later blocks only (later, 2-3, 2), whose inputs depend on the tokens before",
        "prefixes can be enumerated; what the update memorises is untouched",
        _layers,
    ),
    "freeze_embeddings": (
        "freeze_embeddings",
        "no trained or saved embedding and output head, which list the batch's tokens outright",
        "adapters on other layers leak as before",
        _freeze_embeddings,
    ),
    "share": (
        "share:b",
        "only LoRA's B (or a: only A) is sent, the other stays at the client",
        "B shows span{A x} at full strength from the first round, and the start value of A is public",
        _share,
    ),
    "freeze_a": (
        "freeze_a",
        "LoRA trains B only (FFA-LoRA), so that updates show the inputs' projections to R^r and nothing else",
        "B shows span{A x} at full strength from the first round, and A is public",
        _freeze_a,
    ),
    "batch": (
        "batch:16",
        "more records in a batch",
        _MORE,
        _of_settings(lambda settings, size: replace(settings, batch=size), "batch"),
    ),
    "accumulation": (
        "accumulation:4",
        "more batches to a step",
        _MORE,
        _of_settings(lambda settings, count: replace(settings, accumulation=count), "number of batches"),
    ),
    "local_steps": (
        "local_steps:4",
        "several steps, and only their sum is sent",
        "inputs of the first layer do not move with the steps: their span is as plain as before",
        _of_settings(lambda settings, count: replace(settings, sends="delta", local_steps=count), "number of steps"),
    ),
    "adamw": (
        "adamw",
        "the client sends AdamW's step; the first one is the gradient's sign",
        "signs still rank tokens above chance",
        _adamw,
    ),
    "secure_aggregation": (
        "secure_aggregation:16",
        "the server sees only the sum of this many clients' updates",
        f"{_MORE}; an active server can make other clients' parts vanish",
        _of_settings(lambda settings, clients: replace(settings, cohort=clients), "number of clients"),
    ),
}
KINDS = tuple(Kind(name, *entry) for name, entry in _ENTRIES.items())
