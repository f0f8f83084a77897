"""Small models built from configurations: no download, random weights by a seed, trained on text in the process if wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.lab.tokenizer import prose, tokenizer
from zkaudit.attacks.model import PublicModel, Task, causal_batch

POSITIONS = 256


@dataclass(frozen=True)
class Shape:
    """An architecture and its sizes."""

    kind: str
    vocabulary: int
    width: int
    layers: int
    heads: int


SHAPES = {
    "nano-gpt2": Shape("gpt2", 2000, 128, 2, 4),
    "nano-llama": Shape("llama", 2000, 128, 2, 4),
    "micro-gpt2": Shape("gpt2", 8000, 256, 4, 4),
    "micro-llama": Shape("llama", 8000, 256, 4, 4),
    "micro-bert": Shape("bert", 4000, 128, 2, 4),
}


def build(name: str, seed: int = 0, task: Task | None = None) -> PublicModel:
    """One of SHAPES with random weights, all of them frozen, in eval mode, and its tokenizer."""
    if name not in SHAPES:
        raise AuditError(f"there is no model '{name}'; known are {', '.join(SHAPES)}")
    shape = SHAPES[name]
    own = tokenizer(shape.vocabulary)
    size = len(own)
    default: Task = "masked_lm" if shape.kind == "bert" else "causal_lm"
    task = task or default
    classifies = task == "sequence_classification"
    if not classifies and task != default:
        raise AuditError(f"{name} is no model for {task}; it does {default} or sequence_classification")
    special = {"pad_token_id": own.pad_token_id, "eos_token_id": own.eos_token_id, "bos_token_id": own.eos_token_id}
    module: nn.Module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if shape.kind == "gpt2":
            module = (GPT2ForSequenceClassification if classifies else GPT2LMHeadModel)(
                GPT2Config(
                    vocab_size=size,
                    n_positions=POSITIONS,
                    n_embd=shape.width,
                    n_layer=shape.layers,
                    n_head=shape.heads,
                    **special,
                )
            )
        elif shape.kind == "llama":
            module = (LlamaForSequenceClassification if classifies else LlamaForCausalLM)(
                LlamaConfig(
                    vocab_size=size,
                    max_position_embeddings=POSITIONS,
                    hidden_size=shape.width,
                    intermediate_size=3 * shape.width,
                    num_hidden_layers=shape.layers,
                    num_attention_heads=shape.heads,
                    num_key_value_heads=shape.heads,
                    **special,
                )
            )
        else:
            config = BertConfig(
                vocab_size=size,
                max_position_embeddings=POSITIONS,
                hidden_size=shape.width,
                intermediate_size=4 * shape.width,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                pad_token_id=own.pad_token_id,
            )
            module = BertForSequenceClassification(config) if classifies else BertForMaskedLM(config)
    module.requires_grad_(False)
    return PublicModel(module.eval(), own, task)


def train_language(
    model: PublicModel,
    texts: Sequence[str] = (),
    steps: int = 300,
    batch: int = 16,
    length: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    progress: Progress = silent,
) -> float:
    """Train all weights of a causal model on prose and `texts`, mixed half and half; the loss of the last tenth of the steps.

    Weights are frozen again afterwards.
    """
    generator = torch.Generator().manual_seed(seed)
    pools = [list(prose()), list(texts)] if texts else [list(prose())]
    encoded = [[ids[:length] for ids in model.tokenizer(pool)["input_ids"]] for pool in pools]
    end = model.tokenizer.eos_token_id
    module = model.module
    module.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    losses = []
    for step in range(steps):
        rows = []
        for number in range(batch):
            pool = encoded[number % len(encoded)]
            rows.append([*pool[int(torch.randint(len(pool), (), generator=generator))], end])
        optimizer.zero_grad()
        loss = model.loss(causal_batch(rows, model.tokenizer.pad_token_id).to(model.device))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        progress("training the base model", (step + 1) / steps)
    module.requires_grad_(False).eval()
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)
