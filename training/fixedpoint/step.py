"""One step of the exact trainer; trainer.py has its formulas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zkaudit.training.config import Settings
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint import exact, fp8, loss
from zkaudit.training.fixedpoint.rescale import mask, rectify

HIDDEN_RANGE = 1 << 16  # -2^16 <= Z' < 2^16 in hidden layers
SIGNED_RANGE = 1 << 15  # -2^15 <= v < 2^15 for the last layer's Z' and for GA'

Arrays = dict[str, NDArray[np.generic]]  # of one step, in the types of the trace


class Step:
    """One step: forward, backward and update of `weights` and their `largest` sizes in place; collects the trace's arrays.

    It looks at every number where it arises; deferred.py overrides the three methods that do. adapted_step.py and
    projected_step.py override what LoRA and GaLore do otherwise.
    """

    def __init__(self, number: int, weights: list[Tensor], largest: list[int], settings: Settings, steps: int) -> None:
        self.number, self.weights, self.largest, self.settings, self.steps = number, weights, largest, settings, steps
        self.bits, self.last = settings.fixed_point, len(weights) - 1  # of the layers
        self.arrays: dict[str, Tensor] = {}
        self.negative: list[Tensor] = []  # where ReLU lets nothing through, bool, one a hidden layer

    def run(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The arrays by their names in the trace, int64; inputs: float64 (n, d_0), targets: int64 (n, outputs)."""
        activations = self._forward(inputs)
        gradient = self._loss_gradient(self.arrays[f"z{self.last}"], targets).to(torch.float64)
        for j in reversed(range(self.last + 1)):
            below = self._backward(j, gradient) if j else gradient
            self._update(j, activations[j], gradient)
            gradient = below
        return self.arrays

    def _forward(self, inputs: Tensor) -> list[Tensor]:
        """Each layer's input with its column of ones, float64 (n, d_j + 1)."""
        activations = []
        one = inputs.new_full((len(inputs), 1), 1 << self.bits.activation_bits)
        for j in range(self.last + 1):
            activations.append(torch.cat([inputs, one], dim=1))
            z = self._preactivation(j, activations[j])
            limit = SIGNED_RANGE if j == self.last else HIDDEN_RANGE
            self._require_range("output" if j == self.last else "pre-activation", j, z, limit, self.bits.activation_bits)
            if j < self.last:
                inputs, negative = rectify(z)
                self.negative.append(negative)
                if self.settings.fp8 is not None:
                    inputs = fp8.cast_activation(self.settings.fp8, j, inputs, self.bits.activation_bits)
        return activations

    def _preactivation(self, j: int, activation: Tensor) -> Tensor:
        """Z' of layer j, int64, given its input with the column of ones."""
        return self._rescaled(f"z{j}", f"r{j}", j, activation, self.weights[j])

    def _loss_gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.settings.loss == "square":
            return loss.square_gradient(outputs, targets, self.bits)
        distance, limit = loss.distances(outputs), 1 << loss.EXPONENTIAL_BITS
        self._require_range("distance between outputs", self.last, distance, limit, self.bits.activation_bits)
        gradient, self.arrays["p"], self.arrays["rho"] = loss.cross_entropy_gradient(distance, targets, self.bits)
        return gradient

    def _backward(self, j: int, gradient: Tensor) -> Tensor:
        """The gradient at layer j - 1's pre-activations, float64, given the one at layer j's."""
        received = self._received(j, gradient)
        self._require_range("gradient", j - 1, received, SIGNED_RANGE, self.bits.gradient_bits)
        if self.settings.fp8 is not None:
            received = fp8.cast_gradient(self.settings.fp8, j - 1, received, self.bits.gradient_bits)
        return mask(received, self.negative[j - 1])

    def _received(self, j: int, gradient: Tensor) -> Tensor:
        """GA' of layer j - 1, int64, given the gradient at layer j's pre-activations."""
        return self._rescaled(f"ga{j - 1}", f"rg{j - 1}", j, gradient, self.weights[j][:-1].T)

    def _update(self, j: int, activation: Tensor, gradient: Tensor) -> None:
        with self._explained(j):
            self._subtract(j, activation.T, gradient, self.settings.rates[self.number])

    def _rescaled(self, quotient: str, remainder: str, j: int, left: Tensor, right: Tensor) -> Tensor:
        with self._explained(j):
            self.arrays[quotient], self.arrays[remainder] = self._multiply(j, left, right, forward=quotient.startswith("z"))
        return self.arrays[quotient]

    def _multiply(self, j: int, left: Tensor, right: Tensor, forward: bool) -> tuple[Tensor, Tensor]:
        """Quotient and remainder of `left` times layer j's weights; `left` are A_j if `forward`, else G_j."""
        return exact.rescaled_product(left, right, self.largest[j], self.bits.weight_bits)

    def _subtract(self, j: int, left: Tensor, right: Tensor, rate: int) -> None:
        """W_j -= rate * left right; `left` is A_j transposed, `right` is G_j."""
        self.largest[j] = exact.subtract_product(self.weights[j], self.largest[j], left, right, rate)

    def _require_range(self, what: str, j: int, values: Tensor, limit: int, fraction: int) -> None:
        low, high = (int(bound) for bound in torch.aminmax(values))
        if low < -limit or high >= limit:
            value = low if -low > high else high
            parameter = "gradient_bits" if what == "gradient" else "activation_bits"
            raise TrainingError(
                f"{self._place(j)}: the {what} {value} (which stands for {value / 2**fraction:.6g}) lies outside "
                f"[{-limit}, {limit - 1}]; use a lower learning_rate or fewer {parameter}"
            )

    @contextmanager
    def _explained(self, j: int, advice: str = "; use a lower learning_rate or fewer weight_bits") -> Iterator[None]:
        """Errors of what is done inside say where they arose and what to do."""
        try:
            yield
        except TrainingError as error:
            raise TrainingError(f"{self._place(j)}: {error}{advice}") from None

    def _place(self, j: int) -> str:
        return f"step {self.number + 1} of {self.steps}, layer {j + 1} of {self.last + 1}"
