"""One plain loop for every method: optimizer, schedule and contexts go in, losses and what a server would see come out.

    losses = train(model, batches, GaLoreAdamW(low_rank_groups(model, rank=64)), contexts=[StreamBP(model)],
                   update=Path("out/update.safetensors"))

The update is the end minus the start of every trainable tensor. With the start beside it (update-start.safetensors) it is what
`zkaudit audit --update` and `attacks.federated.saved.load_round` read, so whatever a method does to an update is attacked as it
is. Both files tell of the training data; they are written readable by their owner only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as encoded
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from zkaudit.training.errors import TrainingError
from zkaudit.training.private_file import write_whole

Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


def model_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """What transformers' models return as `loss` when a batch holds labels."""
    loss: Tensor = model(**batch).loss
    return loss


def train(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    optimizer: Optimizer,
    scheduler: LRScheduler | None = None,
    *,
    loss: Loss = model_loss,
    contexts: Sequence[AbstractContextManager[Any]] = (),
    accumulation: int = 1,
    largest_norm: float | None = None,
    update: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train on every batch in turn; returns the loss of each step, the mean over its `accumulation` batches.

    contexts: entered around the training, such as StreamBP or compress_activations. largest_norm: clip the gradient to it.
    update: where to write end minus start. TrainingError for a loss that is not finite, naming the step, and for a number of
    batches that leaves an accumulation unfinished; nothing is written then.
    """
    if accumulation < 1:
        raise TrainingError(f"accumulation is {accumulation}; it must be at least 1")
    start = _trainable(model) if update is not None else {}
    losses: list[float] = []
    parts: list[float] = []
    model.train()
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        optimizer.zero_grad()
        for batch in batches:
            value = loss(model, batch)
            if not torch.isfinite(value):
                raise TrainingError(
                    f"the loss of step {len(losses)} is {float(value.detach())}: lower the learning rate, or look at its batch"
                )
            (value / accumulation).backward()  # type: ignore[no-untyped-call]
            parts.append(float(value.detach()))
            if len(parts) < accumulation:
                continue
            if largest_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), largest_norm)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            optimizer.zero_grad()
            losses.append(sum(parts) / accumulation)
            parts.clear()
            if progress is not None:
                progress(len(losses), losses[-1])
    if parts:
        raise TrainingError(
            f"{len(parts)} batches are left over: their number must be a multiple of accumulation, {accumulation}"
        )
    if update is not None:
        _write(update, start, _trainable(model))
    return losses


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _write(path: Path, start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> None:
    delta = {name: (value - start[name]).cpu().contiguous() for name, value in end.items()}
    before = {name: value.cpu().contiguous() for name, value in start.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.with_name(f"{path.stem}-start{path.suffix}"), encoded(before, {"kind": "weights"}))
    write_whole(path, encoded(delta, {"kind": "delta"}))
