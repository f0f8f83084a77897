"""What a computation in chunks of a sequence shares: the chunks, the sums of their gradients, and the precision it runs in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from zkaudit.training.errors import TrainingError


def chunks(length: int, size: int) -> list[tuple[int, int]]:
    """(start, end) of each chunk of `size` positions; the last may be shorter."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def first_derivatives_only() -> None:
    """Called in a backward pass: refuse create_graph, since a chunk's graph is gone once it is used."""
    if torch.is_grad_enabled():
        raise TrainingError("StreamBP computes first derivatives only: call backward without create_graph")


class Sums:
    """Gradients in `tensors`, summed over chunks in float32 or wider, so that bfloat16 loses nothing by chunks."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self._sums: list[Tensor | None] = [None] * len(tensors)

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add one chunk's gradients, in the order of `tensors`; None stands for zero."""
        for place, gradient in enumerate(gradients):
            if gradient is None:
                continue
            total = self._sums[place]
            if total is None:
                wide = torch.promote_types(gradient.dtype, torch.float32)
                total = self._sums[place] = torch.zeros_like(self.tensors[place], dtype=wide)
            total += gradient

    def totals(self) -> list[Tensor | None]:
        """The sums in the tensors' own types; None where no chunk had a gradient."""
        return [
            total if total is None else total.to(tensor.dtype) for total, tensor in zip(self._sums, self.tensors, strict=True)
        ]


class Precision:
    """The autocast state at construction, which a backward pass enters again.

    Autocast's cache of cast weights is off: a cast made without gradients must not be met by a pass that needs them.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.enabled = torch.is_autocast_enabled(device)
        self._dtype = torch.get_autocast_dtype(device)

    @contextmanager
    def entered(self) -> Iterator[None]:
        with torch.autocast(self._device, self._dtype, self.enabled, cache_enabled=False):
            yield
