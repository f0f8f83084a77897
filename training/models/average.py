"""Weighted averages of models' tensors, the one operation behind soups and merged proxies.

    W = sum_u c_u W_u,   sum_u c_u = 1        in float64, then in the tensor's own type

It is sensible for models that started from the same weights. Running statistics of batch normalisation are no such sums: an
average of them is not that of the averaged network, so they are refused unless `statistics` says that they are made anew
afterwards (`torch.optim.swa_utils.update_bn(loader, model)` does it). Whole-number tensors (counters, index tables) are those
of the first model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zkaudit.training.errors import TrainingError

State = Mapping[str, Tensor]

STATISTICS = ("running_mean", "running_var")


def average(states: Sequence[State], weights: Sequence[float] | None = None, *, statistics: bool = False) -> dict[str, Tensor]:
    """The average of state dicts, equal weights if None; weights are divided by their sum.

    TrainingError for no states, different names or shapes (naming the tensor), weights that do not sum to a positive number,
    and running statistics without `statistics`."""
    if not states:
        raise TrainingError("there are no models to average")
    parts = [1.0] * len(states) if weights is None else [float(weight) for weight in weights]
    if len(parts) != len(states) or not all(map(math.isfinite, parts)) or not math.fsum(parts) > 0:
        raise TrainingError(f"weights must be {len(states)} finite numbers with a sum above 0, not {weights}")
    for number, state in enumerate(states[1:], 1):
        _require_same_shape(states[0], state, number)
    if not statistics and (found := [name for name in states[0] if name.rpartition(".")[2] in STATISTICS]):
        raise TrainingError(f"{found[0]} is a running statistic, which averages wrongly: pass statistics=True and make it anew")
    shares = [part / math.fsum(parts) for part in parts]
    return {name: _averaged([state[name] for state in states], shares) for name in states[0]}


def distance(one: State, other: State) -> float:
    """Euclidean distance of two models' floating-point tensors over the first one's length: far apart, they have no common
    start, and their average is no model."""
    pairs = [(one[name].double(), other[name].double()) for name in one if one[name].is_floating_point()]
    length = math.sqrt(sum(float(a.square().sum()) for a, _ in pairs))
    return math.sqrt(sum(float((a - b).square().sum()) for a, b in pairs)) / max(length, 1e-300)


def _averaged(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    first = tensors[0]
    if not first.is_floating_point():
        return first.clone()
    total = torch.zeros(first.shape, dtype=torch.float64, device=first.device)
    for tensor, share in zip(tensors, shares, strict=True):
        total.add_(tensor.detach().to(total), alpha=share)
    return total.to(first.dtype)


def _require_same_shape(first: State, other: State, number: int) -> None:
    if missing := set(first) ^ set(other):
        raise TrainingError(f"model {number} and model 0 do not both have the tensor {min(missing)}")
    for name, tensor in first.items():
        if other[name].shape != tensor.shape:
            raise TrainingError(
                f"{name} has shape {tuple(other[name].shape)} in model {number}, {tuple(tensor.shape)} in model 0"
            )
