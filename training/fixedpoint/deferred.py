"""Steps that look at no number before their end, so that a GPU works through a step without waiting for the host.

How a product is split depends on how large its operands are. `Step` looks; here bounds are known beforehand:
    |A_0| <= the largest input or 2^f,  A_j <= 2^16,  |G_L-1| <= loss.largest_gradient,  |G_j| <= 2^15,
    |W_j| <= what was seen after the step before.
They follow from the ranges of the numbers before, which the step's end checks, all at once. So every number up to the first
one out of range is exact; if there is one, it is seen, and what came after it does not matter; if there is none, all are exact.
Nothing of a step is handed on before. A step that fails, or whose bounds prove too little, is done again by `Step`, from the
same weights: it decides, and its messages are what the user reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zkaudit.training.config import Settings
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint import exact, loss
from zkaudit.training.fixedpoint.rescale import words
from zkaudit.training.fixedpoint.step import HIDDEN_RANGE, SIGNED_RANGE, Arrays, Step
from zkaudit.training.trace import stored_type


def deferred_steps(
    numbers: range, weights: list[Tensor], x: Tensor, y: Tensor, batches: NDArray[np.int64], settings: Settings
) -> Iterator[tuple[Arrays, list[Tensor]]]:
    """Each step's arrays and the weights after it, both valid until the next is asked for.

    The next step is under way on the device when one is handed out, so that the host writes while the device computes.
    """
    largest, sizes = [exact.magnitude(matrix) for matrix in weights], (exact.magnitude(x), exact.magnitude(y))
    done: tuple[Arrays, list[Tensor]] | None = None
    for t in numbers:
        rows = torch.from_numpy(np.ascontiguousarray(batches[t])).to(x.device)
        inputs, targets = x[rows], y[rows]
        step = DeferredStep(t, weights, largest, settings, len(batches), *sizes)
        parcel = _attempted(step, inputs, targets)
        if done:
            yield done
        if parcel and step.passes(seen := parcel.seen()):
            weights, largest = step.weights, step.largest_after(seen)
        else:
            careful = Step(t, weights, largest, settings, len(batches))
            parcel = Parcel(careful.run(inputs, targets), [], settings)
        done = {"batch": batches[t], **parcel.arrays()}, weights
    if done:
        yield done


class DeferredStep(Step):
    """A step whose ranges are checked by `passes`, given what `seen` holds; it leaves the weights that it was given alone."""

    def __init__(
        self,
        number: int,
        weights: list[Tensor],
        largest: list[int],
        settings: Settings,
        steps: int,
        input_size: int,
        target_size: int,
    ) -> None:
        super().__init__(number, list(weights), largest, settings, steps)
        hidden = [HIDDEN_RANGE] * self.last
        self.activation_sizes = [max(input_size, 1 << self.bits.activation_bits), *hidden]
        self.gradient_sizes = [SIGNED_RANGE] * self.last + [
            loss.largest_gradient(settings.loss, target_size, SIGNED_RANGE, self.bits)
        ]
        self.seen: list[Tensor] = []  # smallest and largest number of each array that is checked, int64, on the device
        self.allowed: list[tuple[int, int]] = []

    def run(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        arrays = super().run(inputs, targets)
        for matrix in self.weights:
            self._see(matrix, 1 - exact.EXACT, exact.EXACT - 1)
        return arrays

    def passes(self, seen: list[int]) -> bool:
        """Whether every number lies in its range; seen: the numbers that `self.seen` held."""
        bounds = zip(seen[::2], seen[1::2], self.allowed, strict=True)
        return all(lowest <= low and high <= highest for low, high, (lowest, highest) in bounds)

    def largest_after(self, seen: list[int]) -> list[int]:
        """The size of the largest weight of each layer after the step."""
        ends = seen[-2 * len(self.weights) :]
        return [max(-low, high) for low, high in zip(ends[::2], ends[1::2], strict=True)]

    def _multiply(self, j: int, left: Tensor, right: Tensor, forward: bool) -> tuple[Tensor, Tensor]:
        size = (self.activation_sizes if forward else self.gradient_sizes)[j]
        return exact.bounded_product(left, size, right, self.largest[j], self.bits.weight_bits)

    def _subtract(self, j: int, left: Tensor, right: Tensor, rate: int) -> None:
        product = len(right) * self.activation_sizes[j] * self.gradient_sizes[j]
        self.weights[j] = exact.bounded_update(self.weights[j], self.largest[j], left, right, product, rate)

    def _require_range(self, what: str, j: int, values: Tensor, limit: int, fraction: int) -> None:
        self._see(values, -limit, limit - 1)

    def _see(self, values: Tensor, lowest: int, highest: int) -> None:
        self.seen += (bound.to(torch.int64) for bound in torch.aminmax(values))
        self.allowed.append((lowest, highest))


class Parcel:
    """A step's numbers on their way to the host: narrowed to the types of the trace on the device, and one copy for all."""

    def __init__(self, arrays: dict[str, Tensor], seen: list[Tensor], settings: Settings) -> None:
        self._looks = len(seen)
        self._content = {name: (stored_type(name, settings.fixed_point.weight_bits), a.shape) for name, a in arrays.items()}
        parts = [words(torch.stack(seen), 4)] if seen else []
        parts += [words(arrays[name], np.dtype(kind).itemsize // 2) for name, (kind, _) in self._content.items()]
        # Not waited for: torch copies into page-locked memory here.
        self._words = torch.cat([part.flatten() for part in parts]).to("cpu", non_blocking=True)
        self._device = parts[0].device

    def seen(self) -> list[int]:
        """What was to be looked at, once it is here."""
        return self._arrived()[: 4 * self._looks].view("<i8").tolist()  # type: ignore[no-any-return]

    def arrays(self) -> Arrays:
        """The arrays, once they are here."""
        words, begin, arrays = self._arrived(), 4 * self._looks, {}
        for name, (kind, shape) in self._content.items():
            end = begin + shape.numel() * np.dtype(kind).itemsize // 2
            arrays[name] = words[begin:end].view(kind).reshape(shape)
            begin = end
        return arrays

    def _arrived(self) -> NDArray[Any]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._words.numpy()


def _attempted(step: DeferredStep, inputs: Tensor, targets: Tensor) -> Parcel | None:
    """The step's numbers, or None where its bounds prove too little for it to be tried."""
    try:
        return Parcel(step.run(inputs, targets), step.seen, step.settings)
    except TrainingError:
        return None
