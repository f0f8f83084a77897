"""The step of an optimizer that treats each parameter by itself: GaLore, COAT, LARS, LAMB, SwitchLoRA's AdamW."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer


class ParameterWise(Optimizer):
    """Calls the closure as torch's optimizers do, then `step_parameter` for every parameter that has a gradient."""

    @abstractmethod
    def step_parameter(self, p: Tensor, group: dict[str, Any]) -> None:
        """One step of one parameter with the gradient in `p.grad`."""

    def step_all(self) -> None:
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.step_parameter(p, group)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.step_all()
        return loss
