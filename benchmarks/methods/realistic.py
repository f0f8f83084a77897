"""Three methods together, COAT's activations, GaLore with FP8 moments and StreamBP, against AdamW, all in BF16: does the model
learn as well, and how many bytes does a step take?

Models are a Llama and a GPT-2 from their configurations; the text is Python's own help topics, in words. GaLore has its
default rate; AdamW the best of 0.005, 0.01 and 0.02 for each model on seed 0, times GaLore's scale for the matrices that
GaLore projects, which is better here than any single rate from 0.0005 to 0.008 (by 0.2 nats). Bytes are those of the storages
that are there, counted after every operation of a step: peaks hold temporary tensors too, but not what a kernel takes for
itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache, partial
from pydoc_data.topics import topics
from statistics import fmean
from typing import Any

import torch
from methods.check import Check, Measured
from methods.fp8 import Alive, tensor_bytes
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from zkaudit.training.fp8.activations import compress_activations
from zkaudit.training.loop import train
from zkaudit.training.memory.stream_bp import StreamBP
from zkaudit.training.optim.galore import GaLoreAdamW, low_rank_groups

WORDS, WIDTH, LAYERS, RANK, GAP = 1024, 96, 3, 24, 25
STEPS, ROWS, LENGTH, SEEDS, WINDOW = 100, 2, 192, (0, 1), 20
LONG = 1024  # tokens of the step whose bytes are counted
RATE, SCALE = 0.01, 0.25
ADAMW_RATES = {"llama": 0.01, "gpt2": 0.005}

Contexts = Callable[[nn.Module], Sequence[AbstractContextManager[Any]]]
Way = tuple[Callable[[nn.Module], Optimizer], Contexts]


def llama(seed: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 8 * WIDTH // 3, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=WORDS, max_position_embeddings=LONG, bos_token_id=0, eos_token_id=0, **sizes)
    return LlamaForCausalLM(config).to(torch.bfloat16)


def gpt2(seed: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": LONG, "vocab_size": WORDS}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **no_dropout, bos_token_id=0, eos_token_id=0)).to(torch.bfloat16)


def adamw(model: Any) -> Optimizer:
    rate = ADAMW_RATES[model.config.model_type]
    matrices, others = (group["params"] for group in low_rank_groups(model, RANK))
    groups = [{"params": matrices, "lr": rate * SCALE}, {"params": others}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)


def galore(model: nn.Module, states: str = "fp8") -> Optimizer:
    groups = low_rank_groups(model, RANK, update_gap=GAP)
    return GaLoreAdamW(groups, lr=RATE, scale=SCALE, betas=(0.9, 0.95), states=states)


def nothing(model: nn.Module) -> Sequence[AbstractContextManager[Any]]:
    return ()


def all_three(model: nn.Module) -> Sequence[AbstractContextManager[Any]]:
    return compress_activations(model), StreamBP(model)


def streamed(model: nn.Module) -> Sequence[AbstractContextManager[Any]]:
    return (StreamBP(model),)


def in_fp8(model: nn.Module) -> Sequence[AbstractContextManager[Any]]:
    return (compress_activations(model),)


PLAIN: Way = adamw, nothing
TOGETHER: Way = galore, all_three
WITHOUT = {"COAT's activations": (galore, streamed), "StreamBP": (galore, in_fp8), "GaLore": (adamw, all_three)}
GALORE_ALONE: Way = partial(galore, states="float32"), nothing


@cache
def text() -> Tensor:
    """Words, spaces and marks of the help topics by rank of their counts; 0 stands for all that are rarer. (tokens,)"""
    torch.set_num_threads(1)
    pieces = re.findall(r"\w+|\s+|[^\w\s]", "\n".join(topics[name] for name in sorted(topics)))
    ranks = {piece: rank for rank, (piece, _) in enumerate(Counter(pieces).most_common(WORDS - 1), 1)}
    return torch.tensor([ranks.get(piece, 0) for piece in pieces])


def batches(seed: int, count: int, rows: int = ROWS, length: int = LENGTH) -> Iterator[dict[str, Tensor]]:
    generator, training = torch.Generator().manual_seed(seed), text()[: len(text()) * 9 // 10]
    for _ in range(count):
        starts = torch.randint(len(training) - length, (rows,), generator=generator).tolist()
        ids = torch.stack([training[start : start + length] for start in starts])
        yield {"input_ids": ids, "labels": ids}


def schedule(optimizer: Optimizer) -> LambdaLR:
    """Up over a tenth of the steps, then down to a tenth of the rate."""
    return LambdaLR(optimizer, lambda step: min((step + 1) / (STEPS / 10), 1 - 0.9 * max(0, step / STEPS - 0.1) / 0.9))


@cache
def trained(build: Callable[[int], nn.Module], way: Way, seed: int) -> tuple[float, list[float]]:
    """Cross-entropy of held-out text after training, and the losses of the steps."""
    model = build(seed)
    make, contexts = way
    optimizer = make(model)
    losses = train(model, batches(seed, STEPS), optimizer, schedule(optimizer), contexts=contexts(model), largest_norm=1.0)
    held_out = text()[len(text()) * 9 // 10 :]
    ids = held_out[: len(held_out) // LENGTH * LENGTH].view(-1, LENGTH)[::4]
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss), losses


def curve(losses: list[float]) -> str:
    return " ".join(f"{fmean(losses[start : start + WINDOW]):.2f}" for start in range(0, len(losses), WINDOW))


def loss_above(build: Callable[[int], nn.Module], way: Way, base: Way) -> Measured:
    """Mean over the seeds of the difference of the held-out losses."""
    ours, theirs = ([trained(build, each, seed) for seed in SEEDS] for each in (way, base))
    pairs = [(mine[0], other[0]) for mine, other in zip(ours, theirs, strict=True)]
    note = (
        "; ".join(f"{mine:.3f} against {other:.3f}" for mine, other in pairs)
        + f" after {STEPS} steps of {ROWS} x {LENGTH} words; training losses of seed 0, means of {WINDOW} steps: "
        + f"{curve(ours[0][1])} against {curve(theirs[0][1])}"
    )
    return Measured(fmean(mine - other for mine, other in pairs), None, note)


class Peak(Alive):
    """Remembers the most bytes that were there after an operation, and of which parts they were."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__()
        self.model, self.optimizer, self.most, self.parts = model, optimizer, 0, dict[str, int]()
        kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
        for tensor in (*model.parameters(), *model.buffers(), *kept):
            storage = tensor.untyped_storage()
            self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = super().__torch_dispatch__(function, types, args, kwargs)
        self.storages = {place: kept for place, kept in self.storages.items() if not kept[0].expired()}
        if (now := self.bytes()) > self.most:
            weights, gradients = (
                sum(x.numel() * x.element_size() for x in tensors)
                for tensors in (self.model.parameters(), [p.grad for p in self.model.parameters() if p.grad is not None])
            )
            known = {"weights": weights, "gradients": gradients, "states": tensor_bytes(self.optimizer)}
            self.most, self.parts = now, known | {"saved and temporary": now - sum(known.values())}
        return found


@cache
def peak(build: Callable[[int], nn.Module], way: Way) -> dict[str, int]:
    """Bytes by parts at the peak of a second step on LONG words, and "step": the peak of the optimizer's step alone."""
    [batch] = batches(0, 1, 1, LONG)
    make, contexts = way
    model: Any = build(0)
    optimizer = make(model)
    with ExitStack() as stack:
        for context in contexts(model):
            stack.enter_context(context)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with Peak(model, optimizer) as seen:
            model(**batch).loss.backward()
            passes, parts, seen.most = seen.most, seen.parts, 0
            optimizer.step()
    return (parts if passes >= seen.most else seen.parts) | {"step": seen.most}


def bytes_of_a_step(build: Callable[[int], nn.Module]) -> Measured:
    before, after = peak(build, PLAIN), peak(build, TOGETHER)
    first, second = total(before), total(after)
    parts = ", ".join(f"{part} {before[part] / 1e6:.2f} to {after[part] / 1e6:.2f}" for part in before if part != "step")
    without = ", ".join(f"{name} {first / total(peak(build, way)):.2f}" for name, way in WITHOUT.items())
    note = (
        f"counted at the peak of a step on {LONG} words, MB: {first / 1e6:.2f} to {second / 1e6:.2f}; {parts}; the "
        f"optimizer's step alone {before['step'] / 1e6:.2f} and {after['step'] / 1e6:.2f}. The ratio without {without}. "
        f"{LAYERS} layers of {WIDTH}, {WORDS} words, rank {RANK}: activations are most of it"
    )
    return Measured(first / second, None, note)


def total(parts: dict[str, int]) -> int:
    return sum(size for part, size in parts.items() if part != "step")


ALL = "FP8 moments, COAT's activations and StreamBP"
CHECKS = [
    Check("galore", f"{ALL}, Llama: held-out loss above AdamW's", "nats", "lower", partial(loss_above, llama, TOGETHER, PLAIN)),
    Check("galore", f"{ALL}, Llama: above GaLore's alone", "nats", "lower", partial(loss_above, llama, TOGETHER, GALORE_ALONE)),
    Check("galore", f"{ALL}, Llama: bytes of AdamW over ours", "ratio", "higher", partial(bytes_of_a_step, llama)),
    Check("galore", f"{ALL}, GPT-2: held-out loss above AdamW's", "nats", "lower", partial(loss_above, gpt2, TOGETHER, PLAIN)),
    Check("galore", f"{ALL}, GPT-2: bytes of AdamW over ours", "ratio", "higher", partial(bytes_of_a_step, gpt2)),
]
