"""Training of a fully connected ReLU network from its start weights, as a server can repeat it, in floating point."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from zkaudit.attacks.joint.method import PLAIN, Method
from zkaudit.training.fixedpoint.float_step import Updates, Weights, forward, mean_gradients


def trained(
    start: Weights,
    inputs: Tensor,
    targets: Tensor,
    batches: Tensor,
    rates: Sequence[float],
    loss: str,
    method: Method = PLAIN,
    frozen: Weights = (),
) -> list[Tensor]:
    """Weights after a step for each row of `batches` (T, B), which holds rows of `inputs` (n, d) and `targets` (n, o)."""
    weights, updates = list(start), Updates(method)
    for t, (rows, rate) in enumerate(zip(batches, rates, strict=True)):
        layers = method.layers(frozen, weights)
        weights = updates.after(t, weights, mean_gradients(layers, inputs[rows], targets[rows], loss, method), rate)
    return weights


def mean_loss(weights: Weights, inputs: Tensor, targets: Tensor, loss: str) -> float:
    """Over all records."""
    outputs = forward(weights, inputs, PLAIN)[0][-1]
    if loss == "cross_entropy":
        return float(functional.cross_entropy(outputs, targets.argmax(1)))
    return float((outputs - targets).square().sum() / (2 * len(inputs)))
