"""Dummy records: vectors in place of token embeddings, the labels that go with them, and the gradient a client would send.

The vectors enter where the input embedding leaves its output, so the model may be of any kind and wrapped in any way. To the
weights of the embedding, where they are trained (or tied to the output layer), the nearest tokens stand for the vectors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.model import IGNORED, Batch, PublicModel

# A language model's labels: the nearest tokens; a softmax over tokens near the vectors; or free logits, as DLG has them.
Labels = Literal["nearest", "soft", "optimised"]


@dataclass
class Dummy:
    """`vectors` (R, T, d) for R records; `logits` of labels, (R, T, V) of language models, (R, C) of classifiers, or None."""

    vectors: Tensor
    logits: Tensor | None = None

    def leaves(self) -> list[Tensor]:
        """What is optimised."""
        return [self.vectors] if self.logits is None else [self.vectors, self.logits]

    def copy(self) -> Dummy:
        """The same values, without their history."""
        return Dummy(*(x.detach().clone() for x in self.leaves()))


@dataclass(frozen=True)
class Problem:
    """What is public about the records behind an update, and the model to try dummies on.

    `lengths` of the R records; `batch` of them share one mean loss; `share` is that mean's weight in the gradient.
    """

    model: PublicModel
    lengths: Sequence[int]
    batch: int
    share: float
    labels: Labels = "nearest"
    temperature: float = 0.05  # of the softmax over cosines, for soft labels
    classes: Sequence[int] | None = None  # of the records, for classifiers, if known; else they are optimised
    hidden: Tensor | None = None  # (R, T), where a masked language model reads the mask token: vectors there are labels only

    @cached_property
    def trained(self) -> list[nn.Parameter]:
        """The trainable tensors, in the model's order."""
        return list(self.model.trainable().values())

    @cached_property
    def table(self) -> Tensor:
        """The vector of every token, (V, d)."""
        with torch.no_grad():
            vectors: Tensor = self._layer(torch.arange(self.model.vocabulary, device=self.model.device))
        return vectors.detach().clone()

    @cached_property
    def directions(self) -> Tensor:
        """The vectors of tokens, scaled to length 1."""
        return F.normalize(self.table, dim=-1)

    @cached_property
    def scale(self) -> float:
        """Root mean square of the table's entries, the natural unit of a dummy's entries."""
        return float(self.table.square().mean().sqrt())

    @cached_property
    def mask(self) -> Tensor:
        """(R, T), 1 where a record has a token."""
        places = torch.arange(max(self.lengths), device=self.model.device)
        return (places < torch.tensor(self.lengths, device=self.model.device)[:, None]).long()

    @property
    def free_logits(self) -> tuple[int, ...] | None:
        """Shape of the label logits that have to be optimised with the vectors, if any."""
        records = len(self.lengths)
        if self.model.task == "sequence_classification":
            return (records, int(self.model.config.num_labels)) if self.classes is None else None
        return (records, max(self.lengths), self.model.vocabulary) if self.labels == "optimised" else None

    def similarities(self, vectors: Tensor) -> Tensor:
        """Cosines with the vectors of all tokens, (..., d) -> (..., V); padding, which no record holds, gets -1."""
        cosines = F.normalize(vectors, dim=-1) @ self.directions.T
        pad = self.model.tokenizer.pad_token_id
        if pad is None or pad == self.model.tokenizer.eos_token_id:
            return cosines
        return cosines.index_fill(-1, torch.tensor([pad], device=vectors.device), -1.0)

    def tokens(self, vectors: Tensor) -> Tensor:
        """The nearest tokens by cosine, padding behind the records; (R, T, d) -> (R, T)."""
        with torch.no_grad():
            ids = self.similarities(vectors).argmax(-1)
        return ids.masked_fill(self.mask == 0, self.model.tokenizer.pad_token_id or 0)

    def read(self, dummy: Dummy) -> Tensor:
        """The tokens a dummy stands for, (R, T). The last token of a causal record is only a label, so a free one tells it."""
        ids = self.tokens(dummy.vectors)
        if self.model.task == "causal_lm" and dummy.logits is not None:
            last = torch.tensor(self.lengths, device=ids.device)[:, None] - 1
            ids = ids.scatter(1, last, dummy.logits.argmax(-1).gather(1, last))
        return ids

    def sequences(self, ids: Tensor) -> list[list[int]]:
        """The records in a tensor of ids (R, T), without padding."""
        return [row[:length] for row, length in zip(ids.tolist(), self.lengths, strict=True)]

    def dummy(self, ids: Tensor, logits: Tensor | None = None) -> Dummy:
        """The dummy that stands exactly on these tokens, (R, T)."""
        return Dummy(self.table[ids], logits)

    def gradient(self, dummy: Dummy, differentiable: bool = False) -> list[Tensor]:
        """What a client would send for the dummy, a tensor for each trainable tensor, at the model's present weights."""
        return self._derivative(self._loss(dummy), differentiable)

    def regulariser(self) -> list[Tensor] | None:
        """The gradient of what a method adds to the cross entropy, if anything (AdaLoRA: factors be orthogonal)."""
        whole = replace(
            self, batch=len(self.lengths), share=1.0, labels="nearest", classes=[0] * len(self.lengths), hidden=None
        )
        ids = self.tokens(self.table[torch.arange(self.mask.numel(), device=self.mask.device).view_as(self.mask)])
        labels = ids.masked_fill(self.mask == 0, IGNORED)
        if self.model.task == "sequence_classification":
            labels = torch.zeros_like(labels[:, 0])
        loss = self.model.loss(Batch(ids, self.mask, labels))
        more = loss - whole._loss(whole.dummy(ids))
        return self._derivative(more) if float(more.detach().abs()) > 1e-4 * float(loss.detach()) else None

    def _derivative(self, loss: Tensor, differentiable: bool = False) -> list[Tensor]:
        parts = torch.autograd.grad(loss, self.trained, create_graph=differentiable, allow_unused=True)
        return [torch.zeros_like(p) if part is None else part.float() for p, part in zip(self.trained, parts, strict=True)]

    def _loss(self, dummy: Dummy) -> Tensor:
        vectors = dummy.vectors
        ids = entered = self.tokens(vectors)
        if self.hidden is not None:
            token = self.model.tokenizer.mask_token_id
            entered, vectors = ids.masked_fill(self.hidden, token), vectors.where(~self.hidden[..., None], self.table[token])
        with self._in_place_of_embeddings(vectors), sdpa_kernel(SDPBackend.MATH):  # fused kernels lack second derivatives
            logits = self.model.module(input_ids=entered, attention_mask=self.mask).logits.float()
        if self.model.task == "sequence_classification":
            if self.classes is not None:
                wanted: Tensor = F.one_hot(torch.tensor(self.classes, device=logits.device), logits.shape[-1])
            else:
                assert dummy.logits is not None
                wanted = dummy.logits.softmax(-1)
            losses = -(wanted * logits.log_softmax(-1)).sum(-1)
            weights = torch.ones_like(losses)
        else:
            wanted, counted = self._wanted(dummy, ids), self.mask if self.hidden is None else self.hidden
            if self.model.task == "causal_lm":
                extra = logits.shape[1] - ids.shape[1]  # virtual tokens in front; the last of them predicts the first token
                if extra == 0:
                    wanted, counted = wanted[:, 1:], counted[:, 1:]
                logits = logits[:, max(extra - 1, 0) : -1]
            losses = -(wanted * logits.log_softmax(-1)).sum(-1).flatten(1)
            weights = counted.to(losses.dtype)
        means = []
        for start in range(0, len(losses), self.batch):
            rows = slice(start, start + self.batch)
            means.append((losses[rows] * weights[rows]).sum() / weights[rows].sum().clamp_min(1))
        return torch.stack(means).sum() * self.share

    def _wanted(self, dummy: Dummy, ids: Tensor) -> Tensor:
        """The distribution over labels at each position, (R, T, V)."""
        if self.labels == "optimised" and dummy.logits is not None:
            return dummy.logits.softmax(-1)
        if self.labels == "soft":
            return (self.similarities(dummy.vectors) / self.temperature).softmax(-1)
        return F.one_hot(ids, self.model.vocabulary).to(dummy.vectors.dtype)

    @property
    def _layer(self) -> nn.Module:
        layer: nn.Module = self.model.base.get_input_embeddings()  # type: ignore[operator]
        return layer

    @contextlib.contextmanager
    def _in_place_of_embeddings(self, vectors: Tensor) -> Iterator[None]:
        reached = []

        def put_in(_layer: nn.Module, _args: Any, output: Tensor) -> Tensor:
            reached.append(True)
            return vectors + (output - output.detach())  # worth the vectors, but with the gradient that tokens have

        handle = self._layer.register_forward_hook(put_in)
        try:
            yield
        finally:
            handle.remove()
        if not reached:
            raise AuditError("the model runs without its input embedding, so no dummy records can be put in")
