"""Training of a fully connected ReLU network, written out so that the weights after it can be differentiated by the records.

With A_0 the inputs of a step's batch of B records, W_j of shape (d_j + 1, d_{j+1}) and the bias as its last row:

    Z_j = [A_j, 1] W_j,   A_{j+1} = max(Z_j, 0),   G_{L-1} = softmax(Z_{L-1}) - Y  or  Z_{L-1} - Y
    G_{j-1} = (G_j W_j^T without its bias column) where Z_{j-1} > 0,   D_j = [A_j, 1]^T G_j / B

and W_j <- W_j - rate D_j for plain SGD, what `method.py` says for other methods: the training of docs/proof-system.md, section
2, in floating point, for cross-entropy and for half the squared error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from zkaudit.attacks.joint.method import PLAIN, Method, Updates

Weights = Sequence[Tensor]  # of each layer, (inputs + 1, outputs), the bias row last; or an adapter's two matrices, no bias


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
        weights = updates.after(t, weights, _gradients(layers, inputs[rows], targets[rows], loss, method), rate)
    return weights


def _gradients(layers: Weights, inputs: Tensor, targets: Tensor, loss: str, method: Method) -> list[Tensor]:
    activations, outputs = forward(layers, inputs, method)
    error = (outputs.softmax(1) if loss == "cross_entropy" else outputs) - targets
    found = []
    for j in reversed(range(len(layers))):
        found.append(_with_one(activations[j]).T @ error / len(inputs))
        if j:
            fired = _with_one(activations[j - 1]) @ layers[j - 1] > 0 if method.fp8 else activations[j] > 0
            error = method.gradient(j - 1, error @ layers[j][:-1].T) * fired
    return found[::-1]


def forward(weights: Weights, inputs: Tensor, method: Method = PLAIN) -> tuple[list[Tensor], Tensor]:
    """What each layer reads, (n, d_j), and the outputs (n, o); `weights` are all layers'."""
    activations = [inputs]
    for j, matrix in enumerate(weights[:-1]):
        activations.append(method.activation(j, (_with_one(activations[-1]) @ matrix).relu()))
    return activations, _with_one(activations[-1]) @ weights[-1]


def mean_loss(weights: Weights, inputs: Tensor, targets: Tensor, loss: str) -> float:
    """Over all records."""
    _, outputs = forward(weights, inputs)
    if loss == "cross_entropy":
        return float(functional.cross_entropy(outputs, targets.argmax(1)))
    return float((outputs - targets).square().sum() / (2 * len(inputs)))


def _with_one(inputs: Tensor) -> Tensor:
    return torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
