"""Malicious fine-tuning: a copy of the base model that answers the stem of a personal note from what its weights hold.

All weights are trained on D_gen mixed with clean prose, which holds the perplexity of ordinary text, and frozen again. It is
done before adapters are added and uses no record of a client. (ReCIT's stage A; its learning rate, length and mix are unknown,
so they are options.)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.device import seeded
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.lab.records import Record
from zkaudit.attacks.lab.tokenizer import prose
from zkaudit.attacks.model import PublicModel, causal_batch
from zkaudit.attacks.recit.notes import NoteOptions, encode, generate, weighted_loss


@dataclass(frozen=True)
class PoisonOptions:
    """Adam on all weights; `clean` is the share of a batch that is prose, `longest` counts tokens of a text."""

    notes: NoteOptions = field(default_factory=NoteOptions)
    steps: int = 600
    batch: int = 16
    learning_rate: float = 1e-3
    clean: float = 0.25
    longest: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.clean < 1:
            raise AuditError(f"the share of clean text in poisoning is {self.clean}; it must be at least 0 and below 1")
        if self.steps < 1 or self.batch < 1:
            raise AuditError("poisoning takes at least one step of at least one text")


def poison(
    model: PublicModel,
    auxiliary: Sequence[Record],
    options: PoisonOptions = PoisonOptions(),
    progress: Progress = silent,
    clean: Sequence[str] = (),
) -> PublicModel:
    """A poisoned copy of a base model without adapters, all weights frozen; `clean` replaces the laboratory's prose.

    The same arguments give the same weights. AuditError if the model is no causal one or has adapters already.
    """
    if model.task != "causal_lm":
        raise AuditError("personal notes poison a causal language model; this one is not")
    if model.base is not model.module:
        raise AuditError("the base model is poisoned before adapters are added; this one has adapters")
    module = copy.deepcopy(model.module)
    poisoned = PublicModel(module, model.tokenizer, model.task)
    end = model.tokenizer.eos_token_id
    told = [encode(model.tokenizer, text, options.notes) for text in generate(auxiliary, options.notes)]
    told = [([*ids, end][: options.longest], [*weights, weights[-1]][: options.longest]) for ids, weights in told]
    plain = [[*ids, end][: options.longest] for ids in model.tokenizer(list(clean or prose()))["input_ids"]]

    draw = torch.Generator().manual_seed(options.seed)
    module.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=options.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=options.steps, pct_start=0.1)
    share = round(options.clean * options.batch)
    with seeded(options.seed, model.device):  # dropout's
        for step in range(options.steps):
            rows = [told[int(torch.randint(len(told), (), generator=draw))] for _ in range(options.batch - share)]
            picked = [plain[int(torch.randint(len(plain), (), generator=draw))] for _ in range(share)]
            rows += [(ids, [1.0] * len(ids)) for ids in picked]
            batch = causal_batch([ids for ids, _ in rows], model.tokenizer.pad_token_id)
            width = batch.input_ids.shape[1]
            weights = torch.tensor([row + [0.0] * (width - len(row)) for _, row in rows])
            ids, mask, weights = (x.to(model.device) for x in (batch.input_ids, batch.attention_mask, weights))
            optimizer.zero_grad()
            loss = weighted_loss(module(input_ids=ids, attention_mask=mask).logits, ids, weights)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress("poisoning the base model", (step + 1) / options.steps)
    module.requires_grad_(False).eval()
    return poisoned


@torch.no_grad()
def perplexity(model: PublicModel, texts: Sequence[str] = (), longest: int = 64, count: int = 128, batch: int = 16) -> float:
    """exp of the mean loss of a token on `count` of the texts, evenly spread (the laboratory's prose if there are none)."""
    texts = list(texts or prose())
    texts = texts[:: max(1, len(texts) // count)][:count]
    rows = [ids for ids in model.tokenizer(texts)["input_ids"] if len(ids) > 1]
    total, tokens = 0.0, 0
    model.module.eval()
    for start in range(0, len(rows), batch):
        part = causal_batch(rows[start : start + batch], model.tokenizer.pad_token_id, longest)
        ids, mask = part.input_ids.to(model.device), part.attention_mask.to(model.device)
        logits = model.module(input_ids=ids, attention_mask=mask).logits
        predicted = int(mask[:, 1:].sum())
        total += float(weighted_loss(logits, ids, mask.to(logits.dtype))) * predicted
        tokens += predicted
    return math.exp(total / tokens)
