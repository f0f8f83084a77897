"""The exact trainer: stochastic gradient descent on a ReLU network in integers, nothing rounded but the activations.

With f, g, w fractional bits of activations, gradients and weights, and layers j = 0..L-1:
    Z_j    = [A_j, 2^f] W_j = 2^w Z'_j + R_j - 2^(w-1)      0 <= R_j < 2^w;  the last row of W_j is the bias
    A_j+1  = max(Z'_j, 0)                                   j < L-1
    G_L-1  = the loss's gradient at Z'_L-1                  loss.py
    G_j+1 W_j+1^T = 2^w GA'_j + RG_j - 2^(w-1)              without the bias row
    G_j    = GA'_j where Z'_j >= 0, else 0
    W_j   <- W_j - c_t [A_j, 2^f]^T G_j
Everything is an integer whose range is checked, so the result depends on neither machine nor threads. docs/proof-system.md
says why the ranges are what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zkaudit.training.config import Settings
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint import exact, loss
from zkaudit.training.trace import stored_type

HIDDEN_RANGE = 1 << 16  # -2^16 <= Z' < 2^16 in hidden layers
SIGNED_RANGE = 1 << 15  # -2^15 <= v < 2^15 for the last layer's Z' and for GA'
WEIGHT_MARGIN = 3  # start weights lie below 2^(w + 3)

Arrays = dict[str, NDArray[np.generic]]
Sink = Callable[[Arrays, Sequence[Tensor]], None]


def train(
    start: Sequence[Tensor],
    x: Tensor,
    y: Tensor,
    batches: NDArray[np.int64],
    settings: Settings,
    sink: Sink | None = None,
    first_step: int = 0,
) -> list[Tensor]:
    """Train from `start`, the weights before `first_step`; returns the weights after the last step, int64.

    start: int64 (d_j + 1, d_{j+1}) a layer, the bias row last. x: int64 (rows, d_0), scaled by 2^f. y: int64 (rows, outputs),
    one-hot, scaled by 2^f for the square loss. batches: rows of each step of the whole run, (steps, batch).
    `sink` gets, after each step, that step's arrays by their names in the trace (docs/trace-format.md) and the updated weights,
    both valid during the call only. TrainingError names step, layer and value when a number leaves its range.
    """
    if first_step == 0:
        check_start(start, settings)
    inputs, weights = x.to(torch.float64), [matrix.to(torch.float64) for matrix in start]
    largest = [exact.magnitude(matrix) for matrix in weights]
    for t in range(first_step, len(batches)):
        step = _Step(t, weights, largest, settings, len(batches))
        rows = torch.from_numpy(np.ascontiguousarray(batches[t]))
        arrays = step.run(inputs[rows], y[rows])
        if sink is not None:
            sink({"batch": batches[t], **{name: _narrowed(name, value, settings) for name, value in arrays.items()}}, weights)
    return [matrix.to(torch.int64) for matrix in weights]


def check_start(start: Sequence[Tensor], settings: Settings) -> None:
    """TrainingError unless every start weight lies within the range that the proof commits to."""
    bits = settings.fixed_point.weight_bits
    for j, matrix in enumerate(start):
        if exact.magnitude(matrix) >= 1 << (bits + WEIGHT_MARGIN):
            largest = exact.magnitude(matrix) / 2**bits
            raise TrainingError(
                f"layer {j + 1} of {len(start)}: a start weight is as large as {largest:.4g}; they must lie below "
                f"{1 << WEIGHT_MARGIN}, so scale the start weights down"
            )


class _Step:
    """One step: forward, backward and update of `weights` and their `largest` sizes in place; collects the trace's arrays."""

    def __init__(self, number: int, weights: list[Tensor], largest: list[int], settings: Settings, steps: int) -> None:
        self.number, self.weights, self.largest, self.settings, self.steps = number, weights, largest, settings, steps
        self.bits = settings.fixed_point
        self.arrays: dict[str, Tensor] = {}

    def run(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        activations = self._forward(inputs)
        gradient = self._loss_gradient(self.arrays[f"z{len(self.weights) - 1}"], targets).to(torch.float64)
        for j in reversed(range(len(self.weights))):
            below = self._backward(j, gradient) if j else gradient
            self._update(j, activations[j], gradient)
            gradient = below
        return self.arrays

    def _forward(self, inputs: Tensor) -> list[Tensor]:
        """Each layer's input with its column of ones, float64 (n, d_j + 1)."""
        activations, last = [], len(self.weights) - 1
        one = inputs.new_full((len(inputs), 1), 1 << self.bits.activation_bits)
        for j in range(last + 1):
            activations.append(torch.cat([inputs, one], dim=1))
            z = self._rescaled(f"z{j}", f"r{j}", j, activations[j], self.weights[j])
            limit = SIGNED_RANGE if j == last else HIDDEN_RANGE
            self._require_range("output" if j == last else "pre-activation", j, z, limit, self.bits.activation_bits)
            inputs = z.clamp(min=0).to(torch.float64)
        return activations

    def _loss_gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.settings.loss == "square":
            return loss.square_gradient(outputs, targets, self.bits)
        distance, last = loss.distances(outputs), len(self.weights) - 1
        limit = 1 << loss.EXPONENTIAL_BITS
        self._require_range("distance between outputs", last, distance, limit, self.bits.activation_bits)
        gradient, self.arrays["p"], self.arrays["rho"] = loss.cross_entropy_gradient(distance, targets, self.bits)
        return gradient

    def _backward(self, j: int, gradient: Tensor) -> Tensor:
        """The gradient at layer j - 1's pre-activations, float64, given the one at layer j's."""
        received = self._rescaled(f"ga{j - 1}", f"rg{j - 1}", j, gradient, self.weights[j][:-1].T)
        self._require_range("gradient", j - 1, received, SIGNED_RANGE, self.bits.gradient_bits)
        return received.masked_fill(self.arrays[f"z{j - 1}"] < 0, 0).to(torch.float64)

    def _update(self, j: int, activation: Tensor, gradient: Tensor) -> None:
        try:
            rate = self.settings.rates[self.number]
            self.largest[j] = exact.subtract_product(self.weights[j], self.largest[j], activation.T, gradient, rate)
        except TrainingError as error:
            raise TrainingError(f"{self._place(j)}: {error}; use a lower learning_rate or fewer weight_bits") from None

    def _rescaled(self, quotient: str, remainder: str, j: int, left: Tensor, right: Tensor) -> Tensor:
        try:
            product = exact.rescaled_product(left, right, self.largest[j], self.bits.weight_bits)
        except TrainingError as error:
            raise TrainingError(f"{self._place(j)}: {error}; use a lower learning_rate or fewer weight_bits") from None
        self.arrays[quotient], self.arrays[remainder] = product
        return product[0]

    def _require_range(self, what: str, j: int, values: Tensor, limit: int, fraction: int) -> None:
        low, high = (int(bound) for bound in torch.aminmax(values))
        if low < -limit or high >= limit:
            value = low if -low > high else high
            parameter = "gradient_bits" if what == "gradient" else "activation_bits"
            raise TrainingError(
                f"{self._place(j)}: the {what} {value} (which stands for {value / 2**fraction:.6g}) lies outside "
                f"[{-limit}, {limit - 1}]; use a lower learning_rate or fewer {parameter}"
            )

    def _place(self, j: int) -> str:
        return f"step {self.number + 1} of {self.steps}, layer {j + 1} of {len(self.weights)}"


def _narrowed(name: str, values: Tensor, settings: Settings) -> NDArray[np.generic]:
    """The array in the type that the trace stores it in."""
    return np.asarray(values.numpy()).astype(stored_type(name, settings.fixed_point.weight_bits))
