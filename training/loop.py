"""One plain loop for every method: optimizer, schedule and contexts go in, losses and what a server would see come out.

    losses = train(model, batches, GaLoreAdamW(low_rank_groups(model, rank=64)), contexts=[StreamBP(model)],
                   update=Path("out/update.safetensors"))

The update is the end minus the start of every trainable tensor. With the start beside it (update-start.safetensors) it is what
`zkaudit audit --update` and `attacks.federated.saved.load_round` read, so whatever a method does to an update is attacked as it
is. Both files tell of the training data; they are written readable by their owner only.

With `records=Records(writer, sampler.fields)` each update is written down as a step record, which `zkaudit replay` checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as encoded
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from zkaudit.training.errors import TrainingError
from zkaudit.training.private_file import write_whole
from zkaudit.training.step_file import StepWriter
from zkaudit.training.steps import StepRecord

Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Records:
    """Where the loop writes a record of each update, and what it must be told for it. The writer stays open for its owner.

    chosen: fields of the record of step t, its ids at least, such as `sampler.fields` or `lambda step: sampler.last`; asked
    once, after the update and before the next batch is taken. objective: its name. The loop adds the learning rate of the
    optimizer's first group and, of batches with `input_ids`, their length and tokens.

    Steps are numbered on from the writer's: to go on after a stop, give `train` the batches from there (a loaded sampler's).
    """

    writer: StepWriter
    chosen: Callable[[int], Mapping[str, Any]]
    objective: str = ""


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
    records: Records | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train on every batch in turn; returns the loss of each step, the mean over its `accumulation` batches.

    contexts: entered around the training, such as StreamBP or compress_activations. largest_norm: clip the gradient to it.
    update: where to write end minus start. records: where to write each step down. TrainingError for a loss that is not finite,
    naming the step, and for a number of batches that leaves an accumulation unfinished: no update is written then, and records
    are those of the steps that were made. TrainingError too for a record of another number of rows.
    """
    if accumulation < 1:
        raise TrainingError(f"accumulation is {accumulation}; it must be at least 1")
    start = _trainable(model) if update is not None else {}
    losses: list[float] = []
    parts: list[float] = []
    taken: list[Mapping[str, Tensor]] = []  # batches of this step, for its record
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
            if records is not None:
                taken.append(batch)
            if len(parts) < accumulation:
                continue
            if largest_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), largest_norm)
            rate = float(optimizer.param_groups[0].get("lr", 0.0))  # before the schedule moves it
            optimizer.step()
            if records is not None:
                records.writer.write(_record(records, rate, taken))
                taken.clear()
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


def _record(records: Records, rate: float, taken: Sequence[Mapping[str, Tensor]]) -> StepRecord:
    step = records.writer.step
    found: dict[str, Any] = {"step": step, "learning_rate": rate, "objective_id": records.objective}
    tokens = [batch for batch in taken if "input_ids" in batch and batch["input_ids"].dim() == 2]
    if len(tokens) == len(taken):
        found["seq_len"] = max(batch["input_ids"].shape[1] for batch in tokens)
        found["n_tokens"] = sum(
            int((b["attention_mask"] != 0).sum()) if "attention_mask" in b else b["input_ids"].numel() for b in tokens
        )
    record = StepRecord(**found | dict(records.chosen(step)))
    if record.step != step:
        raise TrainingError(f"step {step} was made, but its fields are of step {record.step}: use no loader workers")
    rows = sum(next((len(value) for value in batch.values() if value.dim()), 0) for batch in taken)
    named = {max(record.bins) + 1} if record.bins else {len(record.ids), len(record.candidate_ids)}
    if rows not in named:
        raise TrainingError(f"the batches of step {step} have {rows} rows, but its record is of {max(named)}")
    return record


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _write(path: Path, start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> None:
    delta = {name: (value - start[name]).cpu().contiguous() for name, value in end.items()}
    before = {name: value.cpu().contiguous() for name, value in start.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.with_name(f"{path.stem}-start{path.suffix}"), encoded(before, {"kind": "weights"}))
    write_whole(path, encoded(delta, {"kind": "delta"}))
