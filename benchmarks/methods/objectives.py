"""Checks of the load-balancing loss: a small mixture of experts over characters of three kinds of text."""

from __future__ import annotations

import inspect
import multiprocessing
import multiprocessing.managers
import multiprocessing.pool
import statistics
import tempfile
from functools import cache
from pathlib import Path
from pydoc_data import topics

import torch
import torch.distributed as dist
from methods.check import Check, Measured
from torch import Tensor, nn
from torch.nn import functional as F

from zkaudit.training.objectives.load_balance import GlobalLoadBalance, specialisation

LENGTH, SEQUENCES, WIDTH, EXPERTS = 48, 12, 32, 6
COEFFICIENT = 0.05
STEPS = 400


@cache
def subjects() -> tuple[Tensor, ...]:
    """Characters of Python's help, of Python code, and of numbers in tables, as numbers below 128."""
    prose = "".join(topics.topics[name] for name in sorted(topics.topics))[:60_000]
    code = "".join(
        inspect.getsource(module) for module in (inspect, statistics, multiprocessing.pool, multiprocessing.managers)
    )
    table = "\n".join(f"{n:6d} | {n * n:10d} | {n**0.5:9.5f}" for n in range(2000))
    return tuple(
        torch.frombuffer(bytearray(text.encode("ascii", "replace")), dtype=torch.uint8).long() % 128
        for text in (prose, code, table)
    )


def sequences(count: int, generator: torch.Generator, held_out: bool) -> tuple[Tensor, Tensor]:
    """(count, LENGTH + 1) and the subject of each; the last tenth of a subject is held out."""
    subject = torch.arange(count) % len(subjects())
    rows = []
    for kind in subject.tolist():
        codes = subjects()[kind]
        edge = len(codes) * 9 // 10
        low, high = (edge, len(codes) - LENGTH - 1) if held_out else (0, edge - LENGTH - 1)
        start = int(torch.randint(low, high, (1,), generator=generator))
        rows.append(codes[start : start + LENGTH + 1])
    return torch.stack(rows), subject


class Experts(nn.Module):
    """A recurrent layer, then one expert of EXPERTS for each token, then the next character."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.symbols, self.memory = nn.Embedding(128, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, 2 * WIDTH) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, 2 * WIDTH, WIDTH) / (2 * WIDTH) ** 0.5)
        self.head = nn.Linear(WIDTH, 128)

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of characters (N, T, 128) and of the router (N, T, EXPERTS)."""
        x, _ = self.memory(self.symbols(codes))
        route = self.router(x)
        weight, chosen = route.softmax(-1).max(-1)
        all_experts = torch.einsum("nteh,ehw->ntew", torch.einsum("ntw,ewh->nteh", x, self.up).relu(), self.down)
        of_chosen = all_experts.gather(2, chosen[..., None, None].expand(-1, -1, 1, WIDTH))[:, :, 0]
        return self.head(x + weight[..., None] * of_chosen), route


@cache
def trained(global_batch: bool, seed: int) -> tuple[float, float, float]:
    """Specialisation in nats, held-out loss in nats, and the largest share of tokens that one expert has."""
    torch.set_num_threads(1)
    model, generator = Experts(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 0.005)
    balance = GlobalLoadBalance(EXPERTS, 1)
    for _ in range(STEPS):
        rows, _ = sequences(SEQUENCES, generator, held_out=False)
        logits, route = model(rows[:, :-1])
        # A micro-batch is one sequence; the global batch is all of them, as ranks that sum their counts have it.
        uneven = balance(route.flatten(0, 1)) if global_batch else torch.stack([balance(one) for one in route]).mean()
        optimizer.zero_grad()
        (F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()) + COEFFICIENT * uneven).backward()
        optimizer.step()
    rows, subject = sequences(300, torch.Generator().manual_seed(99), held_out=True)
    with torch.no_grad():
        logits, route = model(rows[:, :-1])
    chosen = route.argmax(-1)
    loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    share = chosen.flatten().bincount(minlength=EXPERTS).max() / chosen.numel()
    return specialisation(chosen.flatten(), subject.repeat_interleave(LENGTH)), float(loss), float(share)


def specialises() -> Measured:
    """Mutual information of expert and subject, global over micro-batch balancing."""
    globally, locally = (_means(kind) for kind in (True, False))
    shares = f"busiest expert has {globally[2]:.2f} against {locally[2]:.2f} of tokens"
    note = f"{globally[0]:.3f} nats against {locally[0]:.3f}; {shares}; 3 seeds, {EXPERTS} experts, 3 subjects, top 1"
    return Measured(globally[0] / locally[0], None, note)


def loss_is_no_worse() -> Measured:
    """Held-out loss, global less micro-batch balancing."""
    globally, locally = (_means(kind) for kind in (True, False))
    return Measured(globally[1] - locally[1], None, f"{globally[1]:.4f} against {locally[1]:.4f} nats a character; 3 seeds")


def _means(global_batch: bool) -> list[float]:
    return [statistics.mean(column) for column in zip(*(trained(global_batch, seed) for seed in range(3)), strict=True)]


def gradient_is_the_big_batchs() -> Measured:
    """Largest relative difference, of two processes' averaged gradient of the router, from one process with all tokens."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        ranks = [context.Process(target=_rank, args=(rank, folder)) for rank in range(2)]
        for one in ranks:
            one.start()
        for one in ranks:
            one.join()
        if any(one.exitcode for one in ranks):
            raise RuntimeError(f"the two processes ended with {[one.exitcode for one in ranks]}")
        averaged = sum(torch.load(Path(folder) / str(rank)) for rank in range(2)) / 2
    whole = _router_gradient(torch.cat([_tokens(rank) for rank in range(2)]))
    micro = sum(_router_gradient(_tokens(rank)) for rank in range(2)) / 2
    size = whole.abs().max()
    apart = float((micro - whole).abs().max() / size)
    return Measured(
        float((averaged - whole).abs().max() / size), 0.0, f"micro-batch loss differs by {apart:.2g}; float64, gloo"
    )


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(_router_gradient(_tokens(rank)), f"{folder}/{rank}")
    dist.destroy_process_group()


def _router_gradient(tokens: Tensor) -> Tensor:
    weight = torch.randn(WIDTH, EXPERTS, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)
    GlobalLoadBalance(EXPERTS, 2)(tokens @ weight).backward()
    assert weight.grad is not None
    return weight.grad


def _tokens(rank: int) -> Tensor:
    return torch.randn(20 + rank, WIDTH, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)


CHECKS = [
    Check(
        "global-load-balance",
        "gradient of 2 processes against one with all tokens",
        "relative",
        "lower",
        gradient_is_the_big_batchs,
    ),
    Check("global-load-balance", "specialisation of experts over the micro-batch loss", "x", "higher", specialises),
    Check("global-load-balance", "held-out loss less that of the micro-batch loss", "nats", "lower", loss_is_no_worse),
]
