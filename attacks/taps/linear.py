"""Layers that are trained whole: weights of the base model, copies by `modules_to_save`, and bottleneck adapters."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import Site
from zkaudit.attacks.taps.tap import Tap

ADAPTER = ("adapter_down", "adapter_up")  # in the names of a bottleneck adapter's layers


def full_weight(name: str, module: nn.Module, trainable: set[str], _model: PublicModel) -> Iterator[Tap]:
    """A linear layer trained whole."""
    weight = f"{name}.weight"
    if weight not in trainable:
        return
    why = "the gradient is sum d_i x_i^T: its rows lie in the span of the inputs"
    if isinstance(module, nn.Linear):
        capacity = min(module.weight.shape)
        yield Tap("full weight", (weight,), Site(name), capacity, lambda update: update[weight], explanation=why)
    elif type(module).__name__ == "Conv1D":  # GPT-2's, stored as (d, o)
        capacity = min(module.weight.shape)  # type: ignore[arg-type]
        yield Tap("full weight", (weight,), Site(name), capacity, lambda update: update[weight].T, explanation=why)


def bottleneck(name: str, module: nn.Module, trainable: set[str], _model: PublicModel) -> Iterator[Tap]:
    """The two layers of a bottleneck adapter U s(D h + b), found by their names."""
    weight, bias = f"{name}.weight", f"{name}.bias"
    if not isinstance(module, nn.Linear) or weight not in trainable or not any(part in name for part in ADAPTER):
        return
    if "adapter_down" in name:
        why = (
            "the gradient is sum s'(D h_i + b) U^T d_i h_i^T: its rows lie in the span of the inputs; "
            "row j over bias j is a weighted mean of the inputs at which neuron j fired, the input itself if one did"
        )
        kind, own = "adapter down", (weight, bias) if bias in trainable else (weight,)
    else:
        why = "the gradient is sum d_i a_i^T: its rows lie in the span of the hidden activations a_i = s(D h_i + b)"
        kind, own = "adapter up", (weight,)
    yield Tap(kind, own, Site(name), min(module.weight.shape), lambda update: update[weight], explanation=why)
