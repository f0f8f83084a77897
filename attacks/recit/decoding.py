"""Asking a causal model: beam decoding within a format, and the log-likelihood of a continuation.

Prompts are padded on the right and run together without a cache: exact for causal attention, and quick enough for short values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from zkaudit.attacks.model import Batch, PublicModel, causal_batch

ROWS = 256  # that run through the model at once


class Allowed(Protocol):
    """Which tokens may follow those of a value so far: None for any, an empty list if the value is complete."""

    def __call__(self, so_far: Sequence[int]) -> Sequence[int] | None: ...


@torch.no_grad()
def next_log_probabilities(model: PublicModel, prefixes: Sequence[Sequence[int]]) -> Tensor:
    """log p(token | prefix) for each of the prefixes, none of them empty, (N, V)."""
    parts = []
    for start in range(0, len(prefixes), ROWS):
        rows = prefixes[start : start + ROWS]
        logits = _logits(model, causal_batch(rows, model.tokenizer.pad_token_id).to(model.device))
        last = torch.tensor([len(row) - 1 for row in rows], device=logits.device)
        parts.append(logits[torch.arange(len(rows), device=logits.device), last].log_softmax(-1).cpu())
    return torch.cat(parts)


@torch.no_grad()
def log_likelihoods(model: PublicModel, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> Tensor:
    """log p(continuation | prompt) for each pair, summed over the continuation's tokens, (N,); no prompt is empty."""
    totals = []
    for start in range(0, len(prompts), ROWS):
        pairs = list(zip(prompts[start : start + ROWS], continuations[start : start + ROWS], strict=True))
        batch = causal_batch([[*prompt, *rest] for prompt, rest in pairs], model.tokenizer.pad_token_id).to(model.device)
        logits = _logits(model, batch)
        own = logits[:, :-1].log_softmax(-1).gather(2, batch.input_ids[:, 1:, None])[..., 0].cpu()
        for row, (prompt, rest) in zip(own, pairs, strict=True):
            totals.append(row[len(prompt) - 1 : len(prompt) - 1 + len(rest)].sum())
    return torch.stack(totals) if totals else torch.zeros(0)


def _logits(model: PublicModel, batch: Batch) -> Tensor:
    """At the batch's own positions, (N, T, V): virtual tokens in front of them (prompt tuning) have logits too."""
    logits: Tensor = model.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return logits[:, -batch.input_ids.shape[1] :]


def decode(
    model: PublicModel, prompts: Sequence[Sequence[int]], longest: int, beams: int = 1, allowed: Allowed | None = None
) -> list[list[tuple[list[int], float]]]:
    """For each prompt the `beams` best continuations with their log-likelihoods, best first, of at most `longest` tokens.

    A continuation ends where `allowed` says it is complete, else at the end-of-text token (not included) or at `longest`.
    """
    end = model.tokenizer.eos_token_id
    open_: list[list[tuple[list[int], float]]] = [[([], 0.0)] for _ in prompts]
    done: list[list[tuple[list[int], float]]] = [[] for _ in prompts]
    for _ in range(longest):
        asked = [(number, ids, score) for number, states in enumerate(open_) for ids, score in states]
        if not asked:
            break
        logs = next_log_probabilities(model, [[*prompts[number], *ids] for number, ids, _ in asked])
        grown: list[list[tuple[list[int], float]]] = [[] for _ in prompts]
        for (number, ids, score), row in zip(asked, logs, strict=True):
            choices = None if allowed is None else allowed(ids)
            if choices is not None and len(choices) == 0:
                done[number].append((ids, score))
                continue
            index = torch.arange(len(row)) if choices is None else torch.tensor(list(choices))
            best = row[index].topk(min(beams, len(index)))
            for value, position in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                token = int(index[position])
                if token == end:
                    done[number].append((ids, score + value))
                else:
                    grown[number].append(([*ids, token], score + value))
        for number, states in enumerate(grown):
            open_[number] = sorted(states, key=lambda state: -state[1])[:beams]
    return [sorted(ended + left, key=lambda state: -state[1])[:beams] for ended, left in zip(done, open_, strict=True)]
