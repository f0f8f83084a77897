"""The same run in float32: what fixed point is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from zkaudit.training.config import Settings
from zkaudit.training.data import Dataset
from zkaudit.training.fixedpoint.network import accuracy, dequantise


def float_twin(start: Sequence[Tensor], dataset: Dataset, batches: NDArray[np.int64], settings: Settings) -> float:
    """Test accuracy after the same steps from the same start weights, on the same batches, with the same learning rates."""
    network = dequantise(start, settings.fixed_point).to(torch.float32)
    x = torch.from_numpy(dataset.x_train).to(torch.float32)
    y = torch.from_numpy(dataset.y_train)
    parameters = list(network.parameters())
    for rows, rate in zip(batches, settings.learning_rates, strict=True):
        chosen = torch.from_numpy(np.ascontiguousarray(rows))
        gradients = torch.autograd.grad(_loss(network, x[chosen], y[chosen], settings.loss), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=rate)
    return accuracy(network, dataset.x_test, dataset.y_test)


def _loss(network: nn.Sequential, x: Tensor, y: Tensor, loss: str) -> Tensor:
    outputs: Tensor = network(x)
    if loss == "cross_entropy":
        return functional.cross_entropy(outputs, y)
    wanted = functional.one_hot(y, outputs.shape[1]).to(outputs.dtype)
    return (outputs - wanted).square().sum() / (2 * len(x))
