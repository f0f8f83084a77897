"""SGD of a fully connected ReLU network, written out so that the weights after it can be differentiated by records and labels.

With A_0 the inputs of a step's batch of B records, W_j of shape (d_j + 1, d_{j+1}) and the bias as its last row:

    Z_j = [A_j, 1] W_j,   A_{j+1} = max(Z_j, 0),   G_{L-1} = (softmax(Z_{L-1}) - Y) / B  or  (Z_{L-1} - Y) / B
    G_{j-1} = (G_j W_j^T without its bias column) where Z_{j-1} >= 0,   W_j <- W_j - rate [A_j, 1]^T G_j

which is the training of docs/proof-system.md, section 2, in floating point: for cross-entropy and for half the squared error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

Weights = Sequence[Tensor]  # of each layer, (inputs + 1, outputs), the bias row last


def trained(
    start: Weights, inputs: Tensor, targets: Tensor, batches: Tensor, rates: Sequence[float], loss: str
) -> list[Tensor]:
    """Weights after a step for each row of `batches` (T, B), which holds rows of `inputs` (n, d) and `targets` (n, o)."""
    weights = list(start)
    for rows, rate in zip(batches, rates, strict=True):
        activations, outputs = forward(weights, inputs[rows])
        error = (outputs.softmax(1) if loss == "cross_entropy" else outputs) - targets[rows]
        error = error / len(rows)
        moved = []
        for j in reversed(range(len(weights))):
            moved.append(weights[j] - rate * (_with_one(activations[j]).T @ error))
            if j:
                error = (error @ weights[j][:-1].T) * (activations[j] > 0)
        weights = moved[::-1]
    return weights


def forward(weights: Weights, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    """What each layer reads, (n, d_j), and the outputs (n, o)."""
    activations = [inputs]
    for matrix in weights[:-1]:
        activations.append((_with_one(activations[-1]) @ matrix).relu())
    return activations, _with_one(activations[-1]) @ weights[-1]


def mean_loss(weights: Weights, inputs: Tensor, targets: Tensor, loss: str) -> float:
    """Over all records."""
    _, outputs = forward(weights, inputs)
    if loss == "cross_entropy":
        return float(functional.cross_entropy(outputs, targets.argmax(1)))
    return float((outputs - targets).square().sum() / (2 * len(inputs)))


def _with_one(inputs: Tensor) -> Tensor:
    return torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
