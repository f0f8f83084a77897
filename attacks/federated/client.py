"""What an honest client computes in one round. The server sees the returned update (or only a cohort's sum of them)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import Record
from zkaudit.attacks.model import Batch, PublicModel, causal_batch, classification_batch
from zkaudit.attacks.update import Update

# What a defence does to the tensors of an update before they are sent.
Protect = Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]]


def batches(model: PublicModel, records: Sequence[Record], settings: FederatedSettings) -> list[Batch]:
    """Records, in order, as batches; AuditError if there are fewer records than the settings need for one update."""
    if len(records) < settings.records:
        raise AuditError(f"one update takes {settings.records} records; there are {len(records)}")
    chosen = records[: settings.records]
    encoded = [encode(model, record.text, settings.longest) for record in chosen]
    pad = model.tokenizer.pad_token_id
    result = []
    for start in range(0, len(chosen), settings.batch):
        rows = encoded[start : start + settings.batch]
        if model.task == "sequence_classification":
            labels = [record.label for record in chosen[start : start + settings.batch]]
            batch = classification_batch(rows, labels, pad)
        else:
            batch = causal_batch(rows, pad)
        result.append(Batch(*(x.to(model.device) for x in (batch.input_ids, batch.attention_mask, batch.labels))))
    return result


def encode(model: PublicModel, text: str, longest: int) -> list[int]:
    """Token ids of a record as a client feeds them to the model."""
    ids: list[int] = model.tokenizer(text)["input_ids"][:longest]
    return ids


def local_update(
    model: PublicModel,
    data: Sequence[Batch],
    settings: FederatedSettings,
    protect: Protect | None = None,
    seed: int = 0,
) -> Update:
    """One client's round on `data` (one batch for each micro-step); `model` holds the round's start values again afterwards."""
    module = model.module
    start = model.state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module.train(settings.dropout)
        try:
            if settings.sends == "gradient":
                tensors = _gradient(model, data)
            else:
                _train(model, data, settings)
                tensors = {name: value - start[name] for name, value in model.state().items()}
        finally:
            module.eval()
            module.zero_grad(set_to_none=True)
            model.assign(start)
    if protect is not None:
        tensors = protect(tensors, torch.Generator().manual_seed(seed + 1))
    return Update(settings.sends, {name: in_precision(value, settings.precision) for name, value in tensors.items()})


def _gradient(model: PublicModel, data: Sequence[Batch]) -> dict[str, Tensor]:
    model.module.zero_grad(set_to_none=True)
    for batch in data:
        (model.loss(batch) / len(data)).backward()  # type: ignore[no-untyped-call]
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for name, p in model.trainable().items()}


def _train(model: PublicModel, data: Sequence[Batch], settings: FederatedSettings) -> None:
    parameters = list(model.trainable().values())
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    for step in range(settings.local_steps):
        optimizer.zero_grad()
        for batch in data[step * settings.accumulation : (step + 1) * settings.accumulation]:
            (model.loss(batch) / settings.accumulation).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def in_precision(value: Tensor, precision: str) -> Tensor:
    """The tensor as it arrives if it is sent in this precision (8-bit kinds with one scale for each tensor)."""
    if precision == "float64":
        return value.double()
    value = value.float()
    if precision == "float32":
        return value
    if precision in ("bfloat16", "float16"):
        return value.to(getattr(torch, precision)).float()
    largest = {"int8": 127.0, "fp8_e4m3": 448.0, "fp8_e5m2": 57344.0}[precision]
    scale = value.abs().max().clamp_min(1e-30) / largest
    scaled = value / scale
    if precision == "int8":
        return scaled.round() * scale
    return scaled.to(torch.float8_e4m3fn if precision == "fp8_e4m3" else torch.float8_e5m2).float() * scale
