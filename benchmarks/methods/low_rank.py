"""GaLore, Fira and 8-bit states: bytes counted at Llama-7B's shapes, losses of a small Llama on Python's own documentation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pydoc_data.topics import topics

import torch
from methods.check import Check, Measured
from torch import Tensor
from torch.optim import Optimizer
from transformers import LlamaConfig, LlamaForCausalLM

from zkaudit.training.optim.fira import FiraAdamW
from zkaudit.training.optim.galore import GaLoreAdamW, low_rank_groups
from zkaudit.training.optim.per_layer import per_layer
from zkaudit.training.optim.projection import exact, sketched

SEEDS = (0, 1, 2)
STEPS, GAP, RANK, CONTEXT, BATCH = 200, 50, 16, 64, 8
PROJECTED = {(4096, 4096): 4 * 32, (11008, 4096): 2 * 32, (4096, 11008): 32}  # Llama-7B: shapes, and how many of each
PLAIN = {(32000, 4096): 2, (4096,): 65}
SHORT = f"{STEPS} steps of a Llama of hidden size 64 on bytes; where low, rank {RANK} and a new basis every {GAP} steps"


def bytes_at_7b(make: Callable[[list[Tensor], bool], Optimizer], dtype: torch.dtype, plain: bool = True) -> int:
    """Bytes of the states that one step leaves for each shape, times how many matrices have it; tensors without storage."""
    total = 0
    for shapes, projected in ((PROJECTED, True), (PLAIN if plain else {}, False)):
        for shape, count in shapes.items():
            weight = torch.empty(shape, device="meta", dtype=dtype, requires_grad=True)
            weight.grad = torch.empty_like(weight)
            optimizer = make([weight], projected)
            optimizer.step()
            kept = [value for value in optimizer.state[weight].values() if isinstance(value, Tensor) and value.dim()]
            total += count * sum(value.numel() * value.element_size() for value in kept)
    return total


def adamw(weights: list[Tensor], projected: bool) -> Optimizer:
    return torch.optim.AdamW(weights, foreach=False)


def galore(weights: list[Tensor], projected: bool, states: str = "float32", rank: int = 1024) -> GaLoreAdamW:
    return GaLoreAdamW(weights, rank=rank if projected else None, refresh="seed", states=states)


def saved_states() -> Measured:
    ratio = bytes_at_7b(galore, torch.float32) / bytes_at_7b(adamw, torch.float32)
    return Measured(
        100 * (1 - ratio), 65.5, "all of Llama-7B's shapes, rank 1024, embeddings and head plain, float32 throughout"
    )


def saved_int8_states() -> Measured:
    int8 = bytes_at_7b(lambda w, p: galore(w, p, "int8"), torch.bfloat16) / bytes_at_7b(adamw, torch.bfloat16)
    note = "against bf16 AdamW; ours holds bases in bf16 and a scale per 256 numbers, one byte for every number gives 82.6"
    return Measured(100 * (1 - int8), 82.5, note)


def fira_states() -> Measured:
    def fira(weights: list[Tensor], projected: bool) -> Optimizer:
        return FiraAdamW(weights, rank=128 if projected else None, refresh="seed")

    ratio = bytes_at_7b(galore, torch.float32, plain=False) / bytes_at_7b(fira, torch.float32, plain=False)
    whole = bytes_at_7b(galore, torch.float32) / bytes_at_7b(fira, torch.float32)
    return Measured(
        ratio, 8.0, f"GaLore's rank 1024 over Fira's 128, projected matrices; {whole:.2f} with plain embeddings and head"
    )


def kept_numbers() -> Measured:
    found = []
    for m, n, rank in ((96, 40, 7), (40, 96, 12), (64, 64, 16)):
        weight = torch.zeros(m, n, requires_grad=True)
        weight.grad = torch.randn(m, n, generator=torch.Generator().manual_seed(m))
        optimizer = GaLoreAdamW([weight], rank=rank)
        optimizer.step()
        kept = sum(value.numel() for value in optimizer.state[weight].values() if isinstance(value, Tensor))
        found.append(kept / (2 * rank * max(m, n) + rank * min(m, n)))
    return Measured(
        max(found, key=lambda ratio: abs(ratio - 1)), 1.0, "counted over 2 r max(m, n) + r min(m, n), the worst of 3 shapes"
    )


@functools.cache
def text() -> Tensor:
    """Bytes of Python's help topics; the last tenth is held out."""
    return torch.tensor(list("\n".join(topics[name] for name in sorted(topics)).encode("ascii", "replace")))


def llama(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=128, max_position_embeddings=CONTEXT, tie_word_embeddings=False, **shape))


def batches(seed: int) -> Iterator[Tensor]:
    generator, training = torch.Generator().manual_seed(seed), text()[: len(text()) * 9 // 10]
    for _ in range(STEPS):
        starts = torch.randint(len(training) - CONTEXT, (BATCH,), generator=generator)
        yield torch.stack([training[start : start + CONTEXT] for start in starts.tolist()])


@functools.cache
def final_loss(make: Callable[[LlamaForCausalLM], Optimizer], seed: int) -> float:
    """Held-out cross-entropy after training with warm-up over a tenth of the steps and a cosine to a tenth of the rate."""
    torch.set_num_threads(1)
    model = llama(seed)
    optimizer = make(model)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=STEPS // 10)
    rates = [group["initial_lr"] for group in optimizer.param_groups]
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - STEPS // 10, eta_min=0.1 * rates[0])
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], [STEPS // 10])
    for ids in batches(seed):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    held_out = text()[len(text()) * 9 // 10 :]
    ids = held_out[: len(held_out) // CONTEXT * CONTEXT].view(-1, CONTEXT)[::4]
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


def with_adamw(model: LlamaForCausalLM) -> Optimizer:
    return GaLoreAdamW(model.parameters(), lr=0.002)  # the best of five rates from 0.0003 to 0.006


def with_int8_adamw(model: LlamaForCausalLM) -> Optimizer:
    return GaLoreAdamW(model.parameters(), lr=0.002, states="int8")


def with_galore(model: LlamaForCausalLM) -> Optimizer:
    return GaLoreAdamW(low_rank_groups(model, RANK, update_gap=GAP))


def with_rotation(model: LlamaForCausalLM) -> Optimizer:
    return GaLoreAdamW(low_rank_groups(model, RANK, update_gap=GAP, rotate_moments=True))


def with_fira(model: LlamaForCausalLM) -> Optimizer:
    return FiraAdamW(low_rank_groups(model, RANK, update_gap=GAP))


def with_released_fira(model: LlamaForCausalLM) -> Optimizer:
    return FiraAdamW(low_rank_groups(model, RANK, update_gap=GAP, residual="released"))


def compared(make: Callable[[LlamaForCausalLM], Optimizer], base: Callable[[LlamaForCausalLM], Optimizer]) -> Measured:
    """Mean difference of the final losses over the seeds."""
    pairs = [(final_loss(make, seed), final_loss(base, seed)) for seed in SEEDS]
    mean = sum(ours - other for ours, other in pairs) / len(pairs)
    losses = ", ".join(f"{ours:.3f} against {other:.3f}" for ours, other in pairs)
    return Measured(mean, None, f"{losses}; lower in {sum(ours <= other for ours, other in pairs)} of {len(pairs)}; {SHORT}")


def sketch_overlap() -> Measured:
    """Of the bases of a real gradient's matrices, the least."""
    model = llama(0)
    ids = next(batches(0))
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = [p.grad for p in low_rank_groups(model, RANK)[0]["params"]]
    found = [exact(g, RANK).overlap(sketched(g, RANK)) for g in gradients]
    without = [exact(g, RANK).overlap(sketched(g, RANK, iterations=0)) for g in gradients]
    return Measured(
        min(found),
        None,
        f"least of {len(found)} matrices of a Llama's first gradient; {min(without):.3f} without power iterations",
    )


def largest_alive() -> Measured:
    model, alive = llama(0), []

    def count(_: Tensor) -> None:
        alive.append(sum(p.numel() for p in model.parameters() if p.grad is not None))

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(count)
    optimizer = GaLoreAdamW(low_rank_groups(model, RANK))
    ids = next(batches(0))
    with per_layer(optimizer, model):
        model(input_ids=ids, labels=ids).loss.backward()
    share = max(alive) / sum(p.numel() for p in model.parameters())
    return Measured(100 * share, None, "one gradient at a time: the largest matrix's share of the model (at 7B: 1.9%)")


CHECKS = [
    Check("galore", "optimizer states less than AdamW's, Llama-7B", "%", "higher", saved_states),
    Check("galore", "numbers kept for a matrix over the formula", "ratio", "equal", kept_numbers),
    Check("galore", "held-out loss above AdamW's", "nats", "lower", lambda: compared(with_galore, with_adamw)),
    Check(
        "galore",
        "change of the loss if first moments turn with the basis",
        "nats",
        "lower",
        lambda: compared(with_rotation, with_galore),
    ),
    Check("galore", "overlap of a sketched basis with the exact one", "share", "higher", sketch_overlap),
    Check("galore", "gradient numbers alive at once with per-layer steps", "%", "lower", largest_alive),
    Check("fira", "held-out loss above GaLore's at the same rank", "nats", "lower", lambda: compared(with_fira, with_galore)),
    Check("fira", "the same with the released residual", "nats", "lower", lambda: compared(with_released_fira, with_galore)),
    Check("fira", "GaLore's states over Fira's at 7B", "ratio", "higher", fira_states),
    Check("block-int8-states", "8-bit GaLore's states less than bf16 AdamW's, Llama-7B", "%", "higher", saved_int8_states),
    Check(
        "block-int8-states",
        "held-out loss above float32 AdamW's",
        "nats",
        "lower",
        lambda: compared(with_int8_adamw, with_adamw),
    ),
]
