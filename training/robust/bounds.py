"""Interval bounds of a network's values over every input within eps of a record (Gowal et al. 2018, arXiv 1810.12715).

A box of centre c and half-width r goes through a linear layer as W c + b and |W| r; a monotone layer maps both ends. Batch
normalisation takes its statistics from the clean records, which pass beside the box, so that in training it is the same affine
map for both (Shi et al. 2021, arXiv 2103.17268). The network is traced once by torch.fx: linear and convolution layers, batch
normalisation, monotone activations, pooling, dropout, reshaping and sums (residual branches) are known, and any other
operation is refused by name. Bounds are rounded to nearest like everything in the network: they are sound up to that rounding,
which float64 makes negligible."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zkaudit.training.errors import TrainingError


@dataclass(frozen=True)
class Box:
    """Values for the clean records, and bounds of them over the perturbed ones; three tensors of one shape."""

    clean: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def centre(self) -> Tensor:
        return (self.upper + self.lower) / 2

    @property
    def half_width(self) -> Tensor:
        return (self.upper - self.lower) / 2

    def map(self, function: Callable[[Tensor], Tensor]) -> Box:
        """The box after a function that is monotone in every value, or only moves values."""
        return Box(function(self.clean), function(self.lower), function(self.upper))


@dataclass(frozen=True)
class Propagated:
    """What one pass found: the boxes of input and output, those at the input of every ReLU, and the last linear layer's."""

    input: Box
    output: Box
    relus: tuple[Box, ...]
    last: tuple[nn.Linear, Box] | None

    def margins(self, labels: Tensor) -> Tensor:
        """Lower bounds (B, K) of z_y - z_k over the box; 0 at k = y. Tighter where the network ends in a linear layer.

        Labels are (B,) integers."""
        if self.last is None:
            true = self.output.lower.gather(1, labels[:, None])
            found = true - self.output.upper
        else:
            layer, box = self.last
            weight = layer.weight[labels][:, None] - layer.weight[None]
            found = torch.einsum("bkd,bd->bk", weight, box.centre) - torch.einsum("bkd,bd->bk", weight.abs(), box.half_width)
            if layer.bias is not None:
                found = found + layer.bias[labels][:, None] - layer.bias[None]
        return found.scatter(1, labels[:, None], 0.0)


class IntervalPass:
    """Bounds through `model`, whose weights it shares, and the train or eval mode of its layers.

    A branch of its own `forward` is fixed as it is taken now. TrainingError names what cannot be bounded."""

    def __init__(self, model: nn.Module) -> None:
        try:
            graph = fx.symbolic_trace(model)
        except Exception as error:  # tracing runs the user's code: anything can come of it
            raise TrainingError(f"the model {type(model).__name__} cannot be traced for interval bounds: {error}") from error
        self._interpreter = _Interpreter(graph)

    def __call__(self, records: Tensor, eps: float, limits: tuple[float, float] | None = None) -> Propagated:
        """Bounds over the l-infinity ball of radius `eps` around each record (B, ...), cut to `limits` where they are given."""
        lower, upper = records - eps, records + eps
        if limits is not None:
            lower, upper = lower.clamp(*limits), upper.clamp(*limits)
        box = Box(records, lower, upper)
        self._interpreter.relus, self._interpreter.last = [], None
        output = self._interpreter.run(box)
        return Propagated(box, output, tuple(self._interpreter.relus), self._interpreter.last)


class _Interpreter(fx.Interpreter):
    """Runs the traced network on boxes."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.relus: list[Box] = []
        self.last: tuple[nn.Linear, Box] | None = None
        end = next(node for node in graph.graph.nodes if node.op == "output").args[0]
        self._last_name = end.target if isinstance(end, fx.Node) and end.op == "call_module" else None

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = self.fetch_attr(target)
        box = args[0]
        if isinstance(layer, nn.ReLU):
            return self._relu(box)
        if isinstance(layer, nn.Linear):
            if target == self._last_name:
                self.last = layer, box
            return _linear(layer, box, F.linear)
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return _linear(layer, box, layer._conv_forward)
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            return _batch_norm(layer, box)
        if isinstance(layer, nn.Dropout):
            kept = layer(torch.ones_like(box.clean))
            return box.map(lambda values: values * kept)
        if isinstance(layer, _MONOTONE_LAYERS):
            return box.map(layer)
        raise TrainingError(f"no interval bounds for the layer {target!r}, a {type(layer).__name__}")

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in _SUMS and not kwargs:
            return _sum(*args)
        if target is getattr and args[1] == "shape":
            return args[0].clean.shape
        if target is operator.getitem and not isinstance(args[0], Box):
            return args[0][args[1]]
        if target in (F.relu, torch.relu):
            return self._relu(args[0])
        if target in _MONOTONE_FUNCTIONS:
            return args[0].map(lambda values: target(values, *args[1:], **kwargs))
        raise TrainingError(f"no interval bounds for the function {getattr(target, '__name__', target)!r}")

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target == "size":
            return args[0].clean.size(*args[1:], **kwargs)
        if target == "relu":
            return self._relu(args[0])
        if target in ("add", "add_") and not kwargs:
            return _sum(*args)
        if target in _MONOTONE_METHODS:
            return args[0].map(lambda values: getattr(values, target)(*args[1:], **kwargs))
        raise TrainingError(f"no interval bounds for the tensor method {target!r}")

    def _relu(self, box: Box) -> Box:
        self.relus.append(box)
        return box.map(torch.relu)  # never in place: the box before it is kept


_MONOTONE_LAYERS = (
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardtanh, nn.ELU, nn.Identity, nn.Flatten, nn.Unflatten,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
)  # fmt: skip
_MONOTONE_FUNCTIONS = (
    torch.flatten, torch.reshape, torch.sigmoid, torch.tanh, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d,
)  # fmt: skip
_MONOTONE_METHODS = ("view", "reshape", "flatten", "contiguous", "squeeze", "unsqueeze", "permute", "transpose", "mean", "sum")
_SUMS = (operator.add, operator.iadd, torch.add)


def _linear(layer: nn.Module, box: Box, apply: Callable[[Tensor, Any, Any], Tensor]) -> Box:
    centre = apply(box.centre, layer.weight, layer.bias)
    half_width = apply(box.half_width, layer.weight.abs(), None)  # type: ignore[operator]
    return Box(layer(box.clean), centre - half_width, centre + half_width)


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, box: Box) -> Box:
    shape = [1, -1] + [1] * (box.clean.ndim - 2)
    if layer.training or layer.running_mean is None or layer.running_var is None:
        others = [axis for axis in range(box.clean.ndim) if axis != 1]
        variance, mean = torch.var_mean(box.clean, dim=others, correction=0)
    else:
        variance, mean = layer.running_var, layer.running_mean
    scale = (variance + layer.eps).rsqrt()
    shift = -mean * scale
    if layer.affine:
        scale, shift = scale * layer.weight, shift * layer.weight + layer.bias
    scale, shift = scale.view(shape), shift.view(shape)
    centre, half_width = box.centre * scale + shift, box.half_width * scale.abs()
    return Box(layer(box.clean), centre - half_width, centre + half_width)


def _sum(left: Any, right: Any) -> Box:
    if isinstance(left, Box) and isinstance(right, Box):
        return Box(left.clean + right.clean, left.lower + right.lower, left.upper + right.upper)
    box, constant = (left, right) if isinstance(left, Box) else (right, left)
    if not isinstance(box, Box):
        raise TrainingError("no interval bounds for a sum that the records do not enter")
    return box.map(lambda values: values + constant)
