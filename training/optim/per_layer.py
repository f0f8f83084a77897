"""Steps taken inside the backward pass, parameter by parameter, so that the gradients of a model never exist together.

`with per_layer(optimizer, model): ...` has each parameter stepped, and its gradient freed, as soon as autograd has summed it
(`register_post_accumulate_grad_hook`); `optimizer.step()`, still called after each backward pass, only ends the step. Three
common things need all gradients at once and are refused: a second backward pass before the step (gradient accumulation),
DistributedDataParallel and clipping by global norm. `clip_grad_norm_` finds no gradients there and would return 0 in silence,
so say what you set: give HF's TrainingArguments as `arguments`, or `max_grad_norm`.

With `accumulate=k` the gradients of k backward passes are summed in the subspace instead, U^T (G_1 + ... + G_k), and
`optimizer.step()` steps: exact, as projecting is linear while the basis stands. Kept between passes are R (r numbers a row or
column) for projected parameters and the gradient for plain ones. A step that makes new bases needs the whole sum to find them
and keeps it (`basis_from="sum"`), or takes each basis from the first pass's gradient (`basis_from="first"`): then the sum is
still exact, in a subspace chosen by fewer records. Bases from a seed need no gradient and are always of the second kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.optim.fira import FiraAdamW
from zkaudit.training.optim.galore import GaLoreAdamW
from zkaudit.training.optim.projection import Subspace, precise


@contextmanager
def per_layer(
    optimizer: GaLoreAdamW,
    model: nn.Module | None = None,
    *,
    accumulate: int = 1,
    basis_from: str = "sum",
    arguments: Any = None,
    max_grad_norm: float = 0.0,
) -> Iterator[None]:
    """Hooks on the optimizer's parameters while the context lasts. Raises TrainingError for what it cannot be used with."""
    _refuse(optimizer, model, accumulate, basis_from, arguments, max_grad_norm)
    backward = _StepInBackward(optimizer) if accumulate == 1 else _SumInSubspace(optimizer, accumulate, basis_from == "first")
    handles: list[Any] = [optimizer.register_step_pre_hook(lambda *_: backward.finish())]
    for group in optimizer.param_groups:
        for p in group["params"]:
            handles.append(p.register_post_accumulate_grad_hook(lambda p, group=group: backward.take(p, group)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _StepInBackward:
    def __init__(self, optimizer: GaLoreAdamW) -> None:
        self.optimizer = optimizer
        self.stepped: set[Tensor] = set()

    def take(self, p: Tensor, group: dict[str, Any]) -> None:
        if p in self.stepped:
            raise TrainingError(
                "a second backward pass came before optimizer.step(), and the first one's gradients are already applied: "
                "for gradient accumulation say per_layer(..., accumulate=k); else step after each backward pass"
            )
        with torch.no_grad():
            self.optimizer.step_parameter(p, group)
        self.stepped.add(p)
        p.grad = None

    def finish(self) -> None:
        self.stepped.clear()


class _SumInSubspace:
    def __init__(self, optimizer: GaLoreAdamW, passes: int, from_first: bool) -> None:
        self.optimizer, self.passes, self.from_first = optimizer, passes, from_first
        self.sums: dict[Tensor, tuple[dict[str, Any], Subspace, Tensor]] = {}
        self.taken: dict[Tensor, int] = {}

    def take(self, p: Tensor, group: dict[str, Any]) -> None:
        self.taken[p] = self.taken.get(p, 0) + 1
        if self.taken[p] > self.passes:
            raise TrainingError(f"backward pass {self.taken[p]} came before optimizer.step(), with accumulate={self.passes}")
        if not self.optimizer.is_projected(p, group) or (self._waits_for_sum(p, group) and p not in self.sums):
            return  # its gradient stays where autograd sums it
        gradient = precise(p.grad) if p.grad is not None else torch.zeros_like(p)
        with torch.no_grad():
            if p in self.sums:
                _, subspace, low = self.sums[p]
                low += subspace.down(gradient)
            elif new := self.optimizer.subspace(p, group, gradient):
                self.sums[p] = group, new, new.down(gradient)
        p.grad = None

    def finish(self) -> None:
        with torch.no_grad():
            for p, (group, subspace, low) in self.sums.items():
                self.optimizer.apply(p, group, subspace, low, None)
        self.sums.clear()
        self.taken.clear()

    def _waits_for_sum(self, p: Tensor, group: dict[str, Any]) -> bool:
        return self.optimizer.refreshes_next(p, group) and group["refresh"] != "seed" and not self.from_first


def _refuse(
    optimizer: GaLoreAdamW, model: nn.Module | None, accumulate: int, basis_from: str, arguments: Any, max_grad_norm: float
) -> None:
    if accumulate < 1 or basis_from not in ("sum", "first"):
        raise TrainingError(f"accumulate={accumulate!r}, basis_from={basis_from!r}: wanted 1 or more, and sum or first")
    if accumulate > 1 and isinstance(optimizer, FiraAdamW):
        raise TrainingError(f"accumulate={accumulate} sums in the subspace, and FiraAdamW needs whole gradients")
    world = torch.distributed.get_world_size() if torch.distributed.is_available() and torch.distributed.is_initialized() else 1
    if world > 1 or isinstance(model, nn.parallel.DistributedDataParallel):
        raise TrainingError("per-layer steps come before DistributedDataParallel averages the gradients: train in one process")
    clip = max(max_grad_norm, getattr(arguments, "max_grad_norm", 0.0) or 0.0)
    if clip > 0:
        raise TrainingError(f"max_grad_norm={clip} clips by the norm of all gradients, which are never held: set it to 0")
    if getattr(arguments, "fp16", False):
        raise TrainingError("fp16=True scales the loss, and per-layer steps would see scaled gradients: use bf16")
    passes = getattr(arguments, "gradient_accumulation_steps", accumulate)
    if passes != accumulate:
        raise TrainingError(f"gradient_accumulation_steps={passes} needs per_layer(..., accumulate={passes})")
