"""The same run in float64, with the same method: what fixed point is compared with where the method is not plain SGD.

Nothing is rounded but FP8's casts and stored moments; bases, exact moments and adapters are what the papers' formulas say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zkaudit.training.config import Settings
from zkaudit.training.data import Dataset
from zkaudit.training.fixedpoint import fp8
from zkaudit.training.fixedpoint.adapters import merged
from zkaudit.training.fixedpoint.expansion import stored
from zkaudit.training.fixedpoint.network import accuracy, from_matrices
from zkaudit.training.provable import DECAY_BITS, GaLore
from zkaudit.zk.circuit import dither


def method_twin(
    start: Sequence[Tensor],
    frozen: Sequence[Tensor],
    dataset: Dataset,
    batches: NDArray[np.int64],
    settings: Settings,
    bases: Sequence[Sequence[Tensor]] = (),
) -> float:
    """Test accuracy after the same steps from the same start weights, on the same batches, with the same learning rates.

    bases: for GaLore with a random basis, each period's of each layer, with unit columns.
    """
    unit = 2.0**-settings.fixed_point.weight_bits
    trained = [matrix.to(torch.float64) * unit for matrix in start]
    base = [matrix.to(torch.float64) * unit for matrix in frozen]
    x, y = torch.from_numpy(dataset.x_train), torch.from_numpy(dataset.y_train)
    wanted = torch.nn.functional.one_hot(y, dataset.classes).to(torch.float64)
    state = [_Subspace(settings.galore, j, settings) for j in range(len(trained))] if settings.galore else []
    for t, (rows, rate) in enumerate(zip(batches, settings.learning_rates, strict=True)):
        chosen = torch.from_numpy(np.ascontiguousarray(rows))
        layers = merged(base, trained, settings.lora) if settings.lora else trained
        for j, a, g in _products(layers, x[chosen], wanted[chosen], settings):
            d = a.T @ g / len(rows)
            if settings.lora:
                _update_adapter(trained, j, d, settings, rate)
            elif settings.galore:
                trained[j] = trained[j] - rate * state[j].update(t, d, bases[t // settings.galore.gap][j] if bases else None)
            else:
                trained[j] = trained[j] - rate * d
    layers = merged(base, trained, settings.lora) if settings.lora else trained
    return accuracy(from_matrices(layers), dataset.x_test, dataset.y_test)


def _products(layers: Sequence[Tensor], x: Tensor, wanted: Tensor, settings: Settings) -> list[tuple[int, Tensor, Tensor]]:
    """Each layer's inputs with their column of ones, and the gradients at its outputs, summed over the batch."""
    method, inputs, activations, passes = settings.fp8, x, [], []
    for j, matrix in enumerate(layers):
        activations.append(torch.cat([inputs, torch.ones(len(x), 1, dtype=x.dtype)], dim=1))
        z = activations[j] @ matrix
        passes.append(z >= 0)  # of what was not cast yet: a small activation is cast to zero and has a gradient
        inputs = z.clamp(min=0)
        if method and j < len(layers) - 1:
            inputs = fp8.cast_activation(method, j, inputs, 0)
    gradient = z - wanted if settings.loss == "square" else z.softmax(dim=1) - wanted
    found = []
    for j in reversed(range(len(layers))):
        found.append((j, activations[j], gradient))
        if j:
            received = gradient @ layers[j][:-1].T
            if method:
                received = fp8.cast_gradient(method, j - 1, received, 0)
            gradient = received * passes[j - 1]
    return found


def _update_adapter(trained: list[Tensor], j: int, d: Tensor, settings: Settings, rate: float) -> None:
    """One step on layer j's two matrices, if it has them; d: the gradient of its weights, bias row last."""
    assert settings.lora
    numbers = {layer: 2 * i for i, (layer, _) in enumerate(settings.lora.adapters)}
    if j not in numbers:
        return
    m, second = numbers[j], settings.lora.factor / settings.lora.divisor
    first_matrix, second_matrix = trained[m], trained[m + 1]
    trained[m] = first_matrix - rate * d[:-1] @ second_matrix.T
    trained[m + 1] = second_matrix - rate * second * first_matrix.T @ d[:-1]


class _Subspace:
    """GaLore's basis and moments of a layer."""

    def __init__(self, method: GaLore, j: int, settings: Settings) -> None:
        self.method, self.rank, self.is_left = method, method.ranks[j], method.sides[j] == "left"
        self.basis, self.first, self.second = torch.zeros(0), torch.zeros(()), torch.zeros(())
        bits = settings.fixed_point.activation_bits + settings.fixed_point.gradient_bits + method.basis_bits - method.shift
        self.unit, self.layer = 2.0**-bits / settings.batch, j  # of the exact trainer's projected gradients
        self.epsilon = method.epsilon * self.unit

    def update(self, t: int, d: Tensor, basis: Tensor | None) -> Tensor:
        if t % self.method.gap == 0:
            left, _, right = torch.linalg.svd(d, full_matrices=False)
            vectors = left[:, : self.rank] if self.is_left else right[: self.rank].T
            self.basis = vectors if basis is None else basis
        projected = self.basis.T @ d if self.is_left else (d @ self.basis).T
        if self.method.optimizer == "adam":
            beta1, beta2 = (beta / 2**DECAY_BITS for beta in (self.method.beta1, self.method.beta2))
            self.first = beta1 * self.first + (1 - beta1) * projected
            self.second = beta2 * self.second + (1 - beta2) * projected**2
            projected = self.first / (self.second.sqrt() + self.epsilon)
            if self.method.first_exponents:
                self._store(t)
        return self.basis @ projected if self.is_left else (self.basis @ projected).T

    def _store(self, t: int) -> None:
        first, second, factor = (
            self.method.first_exponents[self.layer],
            self.method.second_exponents[self.layer],
            dither.factor(t),
        )
        self.first = stored(factor * self.first, "first", first, self.unit)
        self.second = stored(factor * self.second.sqrt(), "second", second, self.unit) ** 2
