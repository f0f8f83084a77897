"""Bottleneck adapters (Houlsby et al. 2019): after chosen modules, h + U s(D h + b) + c with D of shape (m, d).

U and c start at zero, so that an adapted model starts as the base model. Names are those of the `adapters` library
(`adapter_down`, `adapter_up`), so that its tensors and these are told apart from others in the same way. By default there is
one adapter after each attention and one after each feed-forward network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.model import PublicModel

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}

# Where attention and feed-forward network end, as ends of module names; families share them.
TARGETS: tuple[tuple[str, ...], ...] = (
    ("attn.c_proj", "mlp.c_proj"),  # GPT-2
    ("o_proj", "down_proj"),  # Llama, Mistral, Qwen, Gemma
    ("attention.output.dense", "output.dense"),  # BERT, RoBERTa
    ("attention.dense", "dense_4h_to_h"),  # GPT-NeoX
    ("out_proj", "fc2"),  # OPT, BART
    ("self_attn.dense", "fc2"),  # Phi
    ("self_attention.dense", "dense_4h_to_h"),  # Falcon, BLOOM
    ("attn.out_proj", "mlp.fc_out"),  # GPT-J
    ("attention.out_lin", "ffn.lin2"),  # DistilBERT
)


@dataclass(frozen=True)
class BottleneckSettings:
    """`size` is m; `target_modules` are ends of module names, by default where attention and feed-forward end."""

    size: int = 16
    activation: str = "relu"
    target_modules: Sequence[str] | None = None


class Adapted(nn.Module):
    """A module with an adapter on its output (..., d)."""

    def __init__(self, base_layer: nn.Module, width: int, settings: BottleneckSettings) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.adapter_down = nn.Linear(width, settings.size)
        self.activation = ACTIVATIONS[settings.activation]()
        self.adapter_up = nn.Linear(settings.size, width)
        nn.init.zeros_(self.adapter_up.weight)
        nn.init.zeros_(self.adapter_up.bias)

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        h: Tensor = self.base_layer(*arguments, **options)
        up: Tensor = self.adapter_up(self.activation(self.adapter_down(h)))
        return h + up


def insert(model: PublicModel, settings: BottleneckSettings) -> list[str]:
    """Put adapters into the model, in place; the names of the adapted modules. Only adapters are trainable afterwards.

    AuditError if no module has such a name, or one has no width that can be known from its weight.
    """
    if settings.activation not in ACTIVATIONS:
        raise AuditError(f"adapter activation '{settings.activation}' is not one of {', '.join(ACTIVATIONS)}")
    if isinstance(settings.size, bool) or not isinstance(settings.size, int) or settings.size < 1:
        raise AuditError(f"adapter size is {settings.size!r}; it must be a positive integer")
    names = [name for name, _ in model.module.named_modules()]
    chosen = _matching(names, settings.target_modules)
    model.module.requires_grad_(False)
    for name in chosen:
        layer = model.module.get_submodule(name)
        parent, _, own = name.rpartition(".")
        adapted = Adapted(layer, _width(layer, name), settings).to(_example(layer))
        setattr(model.module.get_submodule(parent), own, adapted)
    return chosen


def _matching(names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    for ends in TARGETS if wanted is None else (tuple(wanted),):
        found = [[name for name in names if name == end or name.endswith(f".{end}")] for end in ends]
        if all(found):
            return list(dict.fromkeys(name for part in found for name in part))
    if wanted is None:
        raise AuditError("no place for adapters is known in this architecture; name some with target_modules")
    missing = next(end for end, part in zip(ends, found, strict=True) if not part)
    raise AuditError(f"the model has no module whose name ends in '{missing}' for an adapter")


def _width(layer: nn.Module, name: str) -> int:
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, nn.Embedding):
        return layer.embedding_dim
    if type(layer).__name__ == "Conv1D" or (weight is not None and weight.dim() == 1):
        return int(weight.shape[-1])  # type: ignore[union-attr]
    raise AuditError(f"an adapter cannot follow '{name}': it is neither a linear layer, an embedding nor a norm")


def _example(layer: nn.Module) -> Tensor:
    """A tensor with the device and the type that the adapter should have."""
    weight = layer.weight
    if weight.is_floating_point():  # type: ignore[operator]
        return weight  # type: ignore[return-value]
    return torch.empty(0, device=weight.device)  # type: ignore[arg-type]
