"""What happens after every k-th update of an optimizer: a hook on it that counts, and whose count is saved and loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch.optim import Optimizer

from zkaudit.training.errors import TrainingError


class Periodic(ABC):
    """Works wherever `optimizer.step` is called, HF Trainer too. `state_dict` holds the count of steps."""

    def __init__(self, optimizer: Optimizer, every: int) -> None:
        if every < 1:
            raise TrainingError(f"every is {every}: it must be at least 1")
        self.every, self.steps = every, 0
        self._hook = optimizer.register_step_post_hook(self._after_step)

    @abstractmethod
    def act(self, optimizer: Optimizer) -> None:
        """What is due after the `every`-th step."""

    def remove(self) -> None:
        """Takes the hook off the optimizer."""
        self._hook.remove()

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.steps += 1
        if self.steps % self.every == 0:
            self.act(optimizer)
