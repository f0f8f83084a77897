"""Networks of `Linear` and `ReLU` in torch, and the integer matrices that they are in the trainer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zkaudit.training.config import FixedPoint
from zkaudit.training.errors import TrainingError

LARGEST_START = 8  # start weights lie below it


def initial_network(widths: Sequence[int], seed: int | None = None) -> nn.Sequential:
    """A float64 network with torch's default distribution, uniform in +-1/sqrt(inputs); without a seed, from the system."""
    random = np.random.default_rng(seed)
    network = _network(widths)
    for layer in linear_layers(network):
        limit = layer.in_features**-0.5
        for parameter in (layer.weight, layer.bias):
            parameter.data.copy_(torch.from_numpy(random.uniform(-limit, limit, tuple(parameter.shape))))
    return network


def quantise(network: nn.Sequential, bits: FixedPoint) -> list[Tensor]:
    """Weights times 2^weight_bits, rounded: int64 (inputs + 1, outputs) a layer, the bias row last.

    TrainingError unless the network is Linear layers with ReLU in between and its weights are finite.
    """
    matrices = []
    for j, layer in enumerate(linear_layers(network)):
        matrix = torch.cat([layer.weight.detach().T, layer.bias.detach()[None]]).to("cpu", torch.float64)
        if not torch.isfinite(matrix).all():
            raise TrainingError(f"layer {j + 1} of the start model holds weights that are not finite numbers")
        if (largest := float(matrix.abs().max())) >= LARGEST_START:
            raise TrainingError(f"layer {j + 1} of the start model holds a weight of size {largest:.4g}; below 8 is needed")
        matrices.append(torch.round(matrix * 2.0**bits.weight_bits).to(torch.int64))
    return matrices


def dequantise(weights: Sequence[Tensor], bits: FixedPoint) -> nn.Sequential:
    """The float64 network with exactly these weights."""
    return from_matrices([matrix.to(torch.float64) * 2.0**-bits.weight_bits for matrix in weights])


def from_matrices(weights: Sequence[Tensor]) -> nn.Sequential:
    """The float64 network with these weights, (inputs + 1, outputs) a layer, the bias row last."""
    network = _network([weights[0].shape[0] - 1, *(matrix.shape[1] for matrix in weights)])
    for layer, matrix in zip(linear_layers(network), weights, strict=True):
        layer.weight.data.copy_(matrix[:-1].T)
        layer.bias.data.copy_(matrix[-1])
    return network


def linear_layers(network: nn.Sequential) -> list[nn.Linear]:
    """The network's Linear layers; TrainingError if it is not Linear, ReLU, Linear, ..., Linear with fitting widths."""
    found: list[nn.Linear] = []
    for i, module in enumerate(network):
        wanted = nn.ReLU if i % 2 else nn.Linear
        if type(module) is not wanted:
            raise TrainingError(f"module {i} of the model is {type(module).__name__}; {wanted.__name__} is expected there")
        if isinstance(module, nn.Linear):
            if module.bias is None:
                raise TrainingError(f"module {i} of the model has no bias; every Linear layer needs one")
            found.append(module)
    if len(network) % 2 == 0:
        raise TrainingError("the model must end in a Linear layer")
    if len(found) > 64:
        raise TrainingError(f"the model has {len(found)} Linear layers; at most 64 are allowed")
    for below, above in itertools.pairwise(found):
        if below.out_features != above.in_features:
            raise TrainingError(f"a layer of {below.out_features} outputs is followed by one of {above.in_features} inputs")
    return found


def accuracy(network: nn.Sequential, x: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """The fraction of rows whose largest output is the labelled one."""
    kind = next(network.parameters()).dtype
    with torch.no_grad():
        outputs: Tensor = network(torch.from_numpy(x).to(kind))
    return float((outputs.argmax(dim=1).numpy() == y).mean())


def _network(widths: Sequence[int]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for d, units in itertools.pairwise(widths):
        modules += [nn.Linear(d, units, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*modules[:-1])
