"""Training in floating point with any method that can be proved, step by step and written out: what comes after can be
differentiated by the records.

With A_0 the inputs of a step's batch of B records, W_j of shape (d_j + 1, d_{j+1}) and the bias as its last row:

    Z_j = [A_j, 1] W_j,   A_{j+1} = max(Z_j, 0),   G_{L-1} = softmax(Z_{L-1}) - Y  or  Z_{L-1} - Y
    G_{j-1} = (G_j W_j^T without its bias column) where Z_{j-1} >= 0,   D_j = [A_j, 1]^T G_j / B

    SGD      W_j <- W_j - c D_j
    FP8      hidden activations and gradients are cast to 8 bits, those of each record by itself; the update is SGD's
    GaLore   W_j <- W_j - c P U,  U = P^T D_j, or Adam's direction of it ("right": the transpose), its moments in 8 bits or not
    LoRA     layers are frozen; A'_j <- A'_j - c D'_j B_j^T,  B_j <- B_j - c s^2 A'_j^T D'_j, D'_j without the bias row

A cast lets gradients through as they come, and a basis is taken for a constant. What each is in integers, and what is proved
of it, is in docs/proof-system.md and docs/proved-methods.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from zkaudit.training.fixedpoint import fp8 as casts
from zkaudit.training.fixedpoint.adapters import merged
from zkaudit.training.fixedpoint.expansion import stored
from zkaudit.training.fixedpoint.projected_step import signs
from zkaudit.training.provable import DECAY_BITS, FP8, GaLore, LoRA
from zkaudit.zk.circuit import dither

TINY = 1e-24  # below the root of Adam's second moment, which has no slope at zero
Weights = Sequence[Tensor]  # of each layer, (inputs + 1, outputs), the bias row last; or an adapter's two matrices, no bias


@dataclass(frozen=True)
class FloatMethod:
    """All None for plain SGD."""

    fp8: FP8 | None = None
    galore: GaLore | None = None
    lora: LoRA | None = None
    product_bits: int = 0  # fractional bits of activations and gradients together
    batch: int = 1
    seed: bytes = b""  # the batch seed, from which random bases are drawn

    @property
    def unit(self) -> float:
        """What 1 of the exact trainer's projected gradients is of the projected mean gradient."""
        assert self.galore
        return 2.0 ** (self.galore.shift - self.product_bits - self.galore.basis_bits) / self.batch

    def epsilon(self, t: int) -> float:
        """GaLore's, in units of the projected mean gradient, less a step's factor where moments are stored in 8 bits."""
        assert self.galore
        return self.galore.epsilon * self.unit / (dither.factor(t) if self.galore.first_exponents else 1.0)

    @property
    def decays(self) -> tuple[float, float]:
        """Of Adam's first and second moment."""
        assert self.galore
        return self.galore.beta1 / 2**DECAY_BITS, self.galore.beta2 / 2**DECAY_BITS

    def layers(self, frozen: Weights, weights: Weights) -> list[Tensor]:
        """The weights of all layers, adapters added."""
        return merged(frozen, weights, self.lora) if self.lora is not None else list(weights)

    def activation(self, j: int, values: Tensor) -> Tensor:
        """What layer j + 1 reads."""
        if self.fp8 is None:
            return values
        return _through(values, casts.cast_activation(self.fp8, j, values.detach(), 0))

    def gradient(self, j: int, values: Tensor) -> Tensor:
        """What comes back to hidden layer j, before its ReLU; of one record, not over the batch."""
        if self.fp8 is None:
            return values
        return _through(values, casts.cast_gradient(self.fp8, j, values.detach(), 0))

    def basis(self, j: int, t: int, gradient: Tensor) -> Tensor:
        """GaLore's basis of layer j in the period that begins at step t, unit columns."""
        assert self.galore
        rank, is_left = self.galore.ranks[j], self.galore.sides[j] == "left"
        if self.galore.basis == "random":
            drawn = signs(self.galore, j, t, gradient.shape[0 if is_left else 1], self.seed)
            return drawn.to(gradient) * 2.0**-self.galore.basis_bits
        left, _, right = torch.linalg.svd(gradient.detach(), full_matrices=False)
        basis: Tensor = left[:, :rank] if is_left else right[:rank].T
        return basis


PLAIN = FloatMethod()


def trained(
    start: Weights,
    inputs: Tensor,
    targets: Tensor,
    batches: Tensor,
    rates: Sequence[float],
    loss: str,
    method: FloatMethod = PLAIN,
    frozen: Weights = (),
) -> list[Tensor]:
    """Weights after a step for each row of `batches` (T, B), which holds rows of `inputs` (n, d) and `targets` (n, o)."""
    weights, updates = list(start), Updates(method)
    for t, (rows, rate) in enumerate(zip(batches, rates, strict=True)):
        layers = method.layers(frozen, weights)
        weights = updates.after(t, weights, mean_gradients(layers, inputs[rows], targets[rows], loss, method), rate)
    return weights


def mean_gradients(layers: Weights, inputs: Tensor, targets: Tensor, loss: str, method: FloatMethod) -> list[Tensor]:
    """D_j of each layer, for `inputs` (B, d_0) and `targets` (B, outputs); `layers` are all layers' weights."""
    products, activations = forward(layers, inputs, method)
    error = (products[-1].softmax(1) if loss == "cross_entropy" else products[-1]) - targets
    found = []
    for j in reversed(range(len(layers))):
        found.append(_with_one(activations[j]).T @ error / len(inputs))
        if j:
            error = method.gradient(j - 1, error @ layers[j][:-1].T) * (products[j - 1] >= 0)
    return found[::-1]


def forward(layers: Weights, inputs: Tensor, method: FloatMethod) -> tuple[list[Tensor], list[Tensor]]:
    """Z_j and A_j of each layer, (B, d_{j+1}) and (B, d_j); the last Z is the network's output."""
    products, activations = list[Tensor](), [inputs]
    for j, matrix in enumerate(layers):
        products.append(_with_one(activations[j]) @ matrix)
        if j < len(layers) - 1:
            activations.append(method.activation(j, products[j].relu()))
    return products, activations


def mean_loss(weights: Weights, inputs: Tensor, targets: Tensor, loss: str) -> float:
    """Over all records, of a network without a method."""
    outputs = forward(weights, inputs, PLAIN)[0][-1]
    if loss == "cross_entropy":
        return float(functional.cross_entropy(outputs, targets.argmax(1)))
    return float((outputs - targets).square().sum() / (2 * len(inputs)))


class Updates:
    """A run's updates of the trained matrices, step by step; it keeps GaLore's bases and moments."""

    def __init__(self, method: FloatMethod) -> None:
        self.method = method
        self.bases: dict[int, Tensor] = {}
        self.moments: dict[int, tuple[Tensor, Tensor]] = {}

    def after(self, t: int, weights: Weights, gradients: Sequence[Tensor], rate: float) -> list[Tensor]:
        """The matrices after step t; gradients: `mean_gradients` of all layers."""
        if self.method.lora is not None:
            return _adapted(self.method.lora, weights, gradients, rate)
        if self.method.galore is not None:
            return [w - rate * self._projected(t, j, d) for j, (w, d) in enumerate(zip(weights, gradients, strict=True))]
        return [w - rate * d for w, d in zip(weights, gradients, strict=True)]

    def _projected(self, t: int, j: int, d: Tensor) -> Tensor:
        method = self.method.galore
        assert method
        if t % method.gap == 0:
            self.bases[j] = self.method.basis(j, t, d)
        basis, is_left = self.bases[j], method.sides[j] == "left"
        direction = basis.T @ d if is_left else (d @ basis).T
        if method.optimizer == "adam":
            direction = self._adam(t, j, direction)
        return basis @ direction if is_left else (basis @ direction).T

    def _adam(self, t: int, j: int, fresh: Tensor) -> Tensor:
        first_decay, second_decay = self.method.decays
        first, second = self.moments.get(j, (torch.zeros_like(fresh), torch.zeros_like(fresh)))
        first = first_decay * first + (1 - first_decay) * fresh
        second = second_decay * second + (1 - second_decay) * fresh**2
        root = (second + TINY).sqrt()
        self.moments[j] = self._stored(j, dither.factor(t) * first, dither.factor(t) * root) or (first, second)
        return first / (root + self.method.epsilon(t))

    def _stored(self, j: int, first: Tensor, root: Tensor) -> tuple[Tensor, Tensor] | None:
        """What the next step begins with where moments are stored in 8 bits."""
        method, unit = self.method.galore, self.method.unit
        assert method
        if not method.first_exponents:
            return None
        read = stored(first.detach(), "first", method.first_exponents[j], unit)
        second = _through(root, stored(root.detach(), "second", method.second_exponents[j], unit))
        return _through(first, read), second**2


def _adapted(lora: LoRA, weights: Weights, gradients: Sequence[Tensor], rate: float) -> list[Tensor]:
    updated = []
    for i, (j, _) in enumerate(lora.adapters):
        first, second, d = weights[2 * i], weights[2 * i + 1], gradients[j][:-1]
        updated += [first - rate * d @ second.T, second - rate * lora.factor / lora.divisor * first.T @ d]
    return updated


def _through(values: Tensor, cast: Tensor) -> Tensor:
    """The cast, whose derivative is taken for one."""
    return values + (cast - values.detach())


def _with_one(inputs: Tensor) -> Tensor:
    return torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
