"""The last decoder layer of a causal language model by itself: all before it runs once, it and the head as often as wanted."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zkaudit.training.errors import TrainingError

NAMES = (("layers", "norm"), ("h", "ln_f"))  # of the decoder's layers and the norm after them


class LastLayer:
    """Entered, it has run the model on a batch with labels; `losses` then runs the last layer, norm and head.

    For models of transformers whose decoder has layers and a final norm (Llama, Qwen, Mistral, GPT-2 and the like), with or
    without peft's adapters. `value_weight` is the last layer's value projection, (out, in) or GPT-2's (in, out) part of a
    joint one; of LoRA, its B. TrainingError for other models.
    """

    def __init__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> None:
        base: Any = model
        base = base.get_base_model() if hasattr(base, "get_base_model") else base
        decoder = getattr(base, getattr(base, "base_model_prefix", "") or "-", None)
        found = [names for names in NAMES if all(hasattr(decoder, name) for name in names)]
        if not found or base.get_output_embeddings() is None:
            raise TrainingError(f"{type(base).__name__} is not known: its last layer, norm and head must be found by name")
        layers, norm = found[0]
        self._model, self._batch = model, batch
        self._head: nn.Module = base.get_output_embeddings()
        self._layer: nn.Module = getattr(decoder, layers)[-1]
        self._norm: nn.Module = getattr(decoder, norm)
        self.value_weight = _value_weight(self._layer)
        self._given: tuple[Any, dict[str, Any]] = ((), {})

    def __enter__(self) -> Self:
        def remember(_: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
            self._given = arguments, options

        hook = self._layer.register_forward_pre_hook(remember, with_kwargs=True)
        try:
            self._model(**{name: value for name, value in self._batch.items() if name != "labels"}, use_cache=False)
        finally:
            hook.remove()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._given = ((), {})

    def losses(self) -> Tensor:
        """Mean cross-entropy of each example's labels. (examples,)"""
        arguments, options = self._given
        hidden = self._layer(*arguments, **options)
        return example_losses(self._head(self._norm(hidden[0] if isinstance(hidden, tuple) else hidden)), self._batch["labels"])


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each example: logits (B, L, V), labels (B, L), those of -100 not predicted. 0 without labels."""
    targets = labels[:, 1:]
    exact = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(exact[:, :-1].transpose(1, 2), targets, reduction="none", ignore_index=-100)
    return losses.sum(dim=1) / (targets != -100).sum(dim=1).clamp(min=1)


def _value_weight(layer: nn.Module) -> Tensor:
    for name, module in layer.named_modules():
        kind = name.rpartition(".")[2]
        if kind in ("v_proj", "c_attn"):
            adapters = getattr(module, "lora_B", None)
            weight: Tensor = next(iter(adapters.values())).weight if adapters else module.weight.detach()
            weight = weight.detach()  # shares the storage: writing to it moves the model
            if kind == "v_proj":
                return weight
            return weight[-(weight.shape[0] // 3) :] if adapters else weight[:, -(weight.shape[1] // 3) :]
    raise TrainingError(f"{type(layer).__name__} has no v_proj or c_attn whose values could be probed")
