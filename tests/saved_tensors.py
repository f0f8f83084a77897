"""What autograd saves, for tests of memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def saved_by(run: Callable[[], object]) -> list[Tensor]:
    """Every tensor that autograd saves while `run` runs."""
    found: list[Tensor] = []
    with saved_tensors_hooks(lambda tensor: found.append(tensor) or tensor, lambda tensor: tensor):
        kept = run()
    del kept
    return found
