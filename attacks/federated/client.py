"""What an honest client computes in one round. The server sees the returned update (or only a cohort's sum of them).

Training is the plain loop: no clipping (a defence may do that), and no calls to a PEFT method's own schedule, so AdaLoRA keeps
the ranks that it starts with (`update_and_allocate` is never called). Methods' regularisers are part of the loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.device import seeded
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import Record
from zkaudit.attacks.model import IGNORED, Batch, PublicModel, causal_batch, classification_batch
from zkaudit.attacks.update import Update

# What a defence does to the tensors of an update before they are sent.
Protect = Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]]

MASKED = 0.15  # of the tokens, in masked language modelling (Devlin et al. 2019, section 3.1)


def batches(model: PublicModel, records: Sequence[Record], settings: FederatedSettings, seed: int = 0) -> list[Batch]:
    """Records, in order, as batches; AuditError if there are fewer records than the settings need for one update.

    `seed` is the client's own: for a masked language model it decides which tokens are masked.
    """
    if len(records) < settings.records:
        raise AuditError(f"one update takes {settings.records} records; there are {len(records)}")
    chosen = records[: settings.records]
    encoded = [encode(model, record.text, settings.longest) for record in chosen]
    pad = model.tokenizer.pad_token_id
    generator = torch.Generator().manual_seed(seed)
    result = []
    for start in range(0, len(chosen), settings.batch):
        rows = encoded[start : start + settings.batch]
        if model.task == "sequence_classification":
            labels = [record.label for record in chosen[start : start + settings.batch]]
            batch = classification_batch(rows, labels, pad)
        else:
            batch = causal_batch(rows, pad)
        if model.task == "masked_lm":
            batch = masked(batch, model.tokenizer.mask_token_id, generator)
        result.append(batch.to(model.device))
    return result


def masked(batch: Batch, mask_token: int, generator: torch.Generator) -> Batch:
    """15 % of each record's tokens, at least one, replaced by the mask token; labels stand only there.

    All of them are masked, BERT's share of kept and random tokens is left out: so no masked token ever enters the model.
    """
    order = (
        torch.rand(batch.input_ids.shape, generator=generator).masked_fill(batch.attention_mask == 0, 2.0).argsort(1).argsort(1)
    )
    count = (batch.attention_mask.sum(1, keepdim=True) * MASKED).round().clamp(min=1)
    hidden = (order < count) & (batch.attention_mask == 1)
    ids = batch.input_ids.masked_fill(hidden, mask_token)
    return Batch(ids, batch.attention_mask, batch.input_ids.masked_fill(~hidden, IGNORED))


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
    progress: Progress = silent,
) -> Update:
    """One client's round on `data` (one batch for each micro-step); `model` holds the round's start values again afterwards.

    A gradient is the mean over `data`. A delta takes local_steps * accumulation batches: AuditError if there are others.
    """
    return one_round(
        model,
        settings,
        lambda: _gradient(model, data, progress),
        lambda: _train(model, data, settings, progress),
        protect,
        seed,
    )


def one_round(
    model: PublicModel,
    settings: FederatedSettings,
    gradient: Callable[[], dict[str, Tensor]],
    train: Callable[[], None],
    protect: Protect | None,
    seed: int,
) -> Update:
    """What is sent of `gradient`, or of how far `train` moves the model, which holds its start values again afterwards."""
    module, start, training = model.module, model.state(), model.module.training
    with seeded(seed, model.device):
        module.train(settings.dropout)
        try:
            if settings.sends == "gradient":
                tensors = gradient()
            else:
                train()
                tensors = {name: value - start[name] for name, value in model.state().items()}
        finally:
            module.train(training)
            module.zero_grad(set_to_none=True)
            model.assign(start)
    if protect is not None:
        tensors = protect(tensors, torch.Generator().manual_seed(seed + 1))
    return Update(settings.sends, {name: in_precision(value, settings.precision) for name, value in tensors.items()})


def private_seed(*parts: object) -> int:
    """A seed of its own for each use, say (the simulation's seed, round, client)."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "little")


def make_optimizer(parameters: Iterable[nn.Parameter], settings: FederatedSettings) -> torch.optim.Optimizer:
    """torch's optimizer of the settings, fresh: a client keeps no moments from one round to the next."""
    kind = torch.optim.SGD if settings.optimizer == "sgd" else torch.optim.AdamW
    return kind(list(parameters), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _gradient(model: PublicModel, data: Sequence[Batch], progress: Progress) -> dict[str, Tensor]:
    model.module.zero_grad(set_to_none=True)
    for number, batch in enumerate(data):
        (model.loss(batch) / len(data)).backward()  # type: ignore[no-untyped-call]
        progress("a client's gradient", (number + 1) / len(data))
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for name, p in model.trainable().items()}


def _train(model: PublicModel, data: Sequence[Batch], settings: FederatedSettings, progress: Progress) -> None:
    needed = settings.local_steps * settings.accumulation
    if len(data) != needed:
        raise AuditError(f"a client's local training takes {needed} batches; there are {len(data)}")
    optimizer = make_optimizer(model.trainable().values(), settings)
    for step in range(settings.steps):
        if settings.schedule == "linear":
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * (1 - step / settings.steps)
        optimizer.zero_grad()
        first = step % settings.local_steps * settings.accumulation
        for batch in data[first : first + settings.accumulation]:
            (model.loss(batch) / settings.accumulation).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress("a client's local training", (step + 1) / settings.steps)


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
