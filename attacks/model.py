"""The model as the server hands it out: architecture, start weights, adapters and tokenizer, all known to an attacker.

It may be any causal language model, masked language model or sequence classifier of transformers, plain or wrapped by peft.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zkaudit.attacks.errors import AuditError

Task = Literal["causal_lm", "masked_lm", "sequence_classification"]
IGNORED = -100  # the label of positions without a loss, as transformers has it


@dataclass(frozen=True)
class Batch:
    """What one forward pass takes; all (B, T) but `labels` of classification, which are (B,)."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    def tokens(self) -> int:
        """How many positions hold a token."""
        return int(self.attention_mask.sum())

    def rows(self, chosen: slice) -> Batch:
        """Some of the records."""
        return Batch(self.input_ids[chosen], self.attention_mask[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


@dataclass(frozen=True)
class PublicModel:
    """`module` is the whole model at the start of a round; its parameters that require gradients are what clients train."""

    module: nn.Module
    tokenizer: Any  # of transformers
    task: Task = "causal_lm"

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def to(self, device: torch.device) -> PublicModel:
        """This model, now on a device. A plan, which has no values to move, stays on the meta device."""
        if not self.is_plan:
            self.module.to(device)
        return self

    @property
    def is_plan(self) -> bool:
        """Whether the model has tensors without values: enough for the meter, not for an attack."""
        return any(parameter.is_meta for parameter in self.module.parameters())

    @property
    def config(self) -> Any:
        """transformers' configuration of the base model."""
        return self.base.config

    @property
    def base(self) -> nn.Module:
        """The transformers model that peft wraps, adapters in place; the module itself if there is no wrapper."""
        inner = getattr(self.module, "get_base_model", None)
        return inner() if inner is not None else self.module

    @property
    def vocabulary(self) -> int:
        """Rows of the input embedding."""
        return int(self.embedding.weight.shape[0])

    @property
    def embedding(self) -> nn.Embedding:
        """The layer that maps token ids to vectors."""
        layer = self.base.get_input_embeddings()  # type: ignore[operator]
        while not isinstance(layer, nn.Embedding):  # a peft wrapper around it
            layer = getattr(layer, "base_layer", None) or getattr(layer, "original_module", None)
            if layer is None:
                raise AuditError("the model's input embedding is not a torch.nn.Embedding")
        return layer

    def trainable(self) -> dict[str, nn.Parameter]:
        """What clients train, by name."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def state(self) -> dict[str, Tensor]:
        """A copy of the trainable tensors' values."""
        return {name: p.detach().clone() for name, p in self.trainable().items()}

    @contextlib.contextmanager
    def holding(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the context the trainable tensors have these values; AuditError names one that does not fit."""
        before = self.state()
        self.assign(state)
        try:
            yield
        finally:
            self.assign(before)

    def assign(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite trainable tensors by name."""
        own = self.trainable()
        with torch.no_grad():
            for name, value in state.items():
                if name not in own:
                    raise AuditError(f"the model has no trainable tensor '{name}'")
                if own[name].shape != value.shape:
                    raise AuditError(f"'{name}' has shape {tuple(value.shape)}; the model's has {tuple(own[name].shape)}")
                own[name].copy_(value)

    def loss(self, batch: Batch) -> Tensor:
        """The training loss of a batch, as transformers computes it (with peft's own regularisers, where a method has any)."""
        output = self.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels)
        loss: Tensor = output.loss
        return loss


def causal_batch(sequences: Sequence[Sequence[int]], pad: int, longest: int | None = None) -> Batch:
    """Token ids to a batch for a causal model: padded on the right, a label on every token."""
    rows = [list(ids)[:longest] for ids in sequences]
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return Batch(ids, mask, ids.masked_fill(mask == 0, IGNORED))


def classification_batch(
    sequences: Sequence[Sequence[int]], classes: Sequence[int], pad: int, longest: int | None = None
) -> Batch:
    """Token ids and classes to a batch for a sequence classifier."""
    batch = causal_batch(sequences, pad, longest)
    return Batch(batch.input_ids, batch.attention_mask, torch.tensor(list(classes)))
