"""Which linear layers of a model a low-rank method takes over, and what is left to be trained in full.

A layer is taken over if it is exactly an `nn.Linear`, is not the output head, shares its weight with no other module and is
larger than the rank in both directions. Everything else that is trainable (embeddings, norms, biases, the head) is trained as
before and is listed in `TakenOver.full`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError


class LowRankLinear(nn.Module, ABC):
    """A linear layer m x n whose weight is made from factors. `FACTORS` names the parameters that are the method's own."""

    FACTORS: tuple[str, ...] = ()

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias

    @abstractmethod
    def dense_weight(self) -> Tensor:
        """The weight that the layer multiplies with, m x n."""

    def linear(self) -> nn.Linear:
        """The same layer as an ordinary `nn.Linear`."""
        weight = self.dense_weight().detach()
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, weight.device, weight.dtype)
        layer.weight = nn.Parameter(weight)
        layer.bias = self.bias
        return layer


Layer = TypeVar("Layer", bound=LowRankLinear)


@dataclass(frozen=True)
class TakenOver(Generic[Layer]):
    """The new layers by name, and the names of the parameters that are trained in full."""

    layers: dict[str, Layer]
    full: tuple[str, ...]


def replace_linears(
    model: nn.Module, build: Callable[[nn.Linear], Layer], rank: int, targets: Iterable[str] = ()
) -> TakenOver[Layer]:
    """Puts `build(layer)` in the place of the linear layers of `model` (all that can be, or those with a target in their name).

    Raises TrainingError if the rank is below 1 or no layer can be taken over."""
    wanted = tuple(targets)
    if rank < 1:
        raise TrainingError(f"rank is {rank}: it must be at least 1")
    head = getattr(model, "get_output_embeddings", lambda: None)()
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    built: dict[nn.Module, Layer] = {}
    layers: dict[str, Layer] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is not nn.Linear or module is head or not name:
            continue
        if wanted and not any(target in name for target in wanted):
            continue
        if owners[id(module.weight)] > 1 or min(module.weight.shape) <= rank:
            continue
        if module not in built:
            built[module] = layers[name] = build(module)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, built[module])
    if not layers:
        raise TrainingError(
            f"rank {rank} with targets {list(wanted)} takes over no linear layer of {type(model).__name__}: "
            "lower the rank or change the targets"
        )
    return TakenOver(layers, full_parameters(model))


def full_parameters(model: nn.Module) -> tuple[str, ...]:
    """Names of the trainable parameters that are no low-rank layer's factors."""
    factors = {id(getattr(m, name)) for m in model.modules() if isinstance(m, LowRankLinear) for name in m.FACTORS}
    return tuple(name for name, p in model.named_parameters() if p.requires_grad and id(p) not in factors)


@torch.no_grad()
def restore_linears(model: nn.Module) -> None:
    """Turns every low-rank layer of `model` into an `nn.Linear` of the same weight, to export or to go on in full rank."""
    built: dict[nn.Module, nn.Linear] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, LowRankLinear):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, built.setdefault(module, module.linear()))
