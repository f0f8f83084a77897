"""A callback for transformers' Trainer that writes down what a client of a federation would send, for an audit of it.

Add it to a Trainer as it is; nothing of the training changes. For each update there are two files in `folder`, the trainable
tensors at its start and the update itself: `load_round` reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.saved import difference, save_weights
from zkaudit.attacks.update import KINDS, Kind, Update, save


class UpdateCapture(TrainerCallback):  # type: ignore[misc]
    """Captures gradients of the first `steps` optimizer steps, or the delta of the whole training.

    A gradient is taken right before the optimizer's step: summed over accumulation, averaged over processes, and clipped, as
    the Trainer clips by default (max_grad_norm = 1). With float16 and no clipping it still has the loss scale. The Trainer
    weighs an accumulation's batches by their tokens, not equally; for causal models it divides by all labels, the first of each
    record included though nothing predicts it: records of n tokens give (n - 1)/n of the mean loss's gradient. `updates` holds
    the paths of what was written.
    """

    def __init__(self, folder: Path, kind: Kind = "gradient", steps: int = 1) -> None:
        if kind not in KINDS:
            raise AuditError(f"a captured update is a gradient or a delta, not {kind!r}")
        if steps < 1:
            raise AuditError(f"{steps} steps cannot be captured; it must be at least 1")
        self.folder = folder
        self.kind = kind
        self.steps = steps
        self.updates: list[Path] = []
        self._start: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.kind == "delta":
            self._start = _values(kwargs["model"])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.kind != "gradient" or len(self.updates) >= self.steps:
            return
        trained = _trained(kwargs["model"])
        gradient = {name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for name, p in trained.items()}
        self._write(state, f"gradient-{state.global_step}", _values(kwargs["model"]), Update("gradient", gradient))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.kind == "delta":
            update = difference(self._start, _values(kwargs["model"]))
            self._write(state, "delta", self._start, update)

    def _write(self, state: Any, name: str, start: dict[str, Tensor], update: Update) -> None:
        path = self.folder / f"{name}.safetensors"
        self.updates.append(path)
        if state.is_world_process_zero:
            save_weights(start, self.folder / f"{name}-start.safetensors")
            save(update, path)


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _values(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _trained(module).items()}
