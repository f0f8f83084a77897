"""Checks of samplers: repeated views, hard batches, buckets of lengths, packing.

Where a paper gives no number for so small a workload, "published" is a simulation of the method in numpy that was made before
this code; workloads of the same kind are made anew here."""

from __future__ import annotations

import statistics
import time
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from methods.check import Check, Measured
from methods.realistic import text
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from zkaudit.training.batch.hard_batch import HardBatchSampler
from zkaudit.training.batch.length_buckets import Decomposition, LengthBucketSampler, Pieces
from zkaudit.training.batch.packing import pack_ffd
from zkaudit.training.batch.uniform import UniformSampler
from zkaudit.training.batch.view_batch import ViewBatchSampler, Views
from zkaudit.training.objectives.view_consistency import ViewConsistency

SEEDS = range(5)


def rest_between_visits() -> Measured:
    """Mean steps from one visit of a record to the next, of views over plain epochs."""
    rows, batch, views, steps = 512, 32, 4, 64 * 40
    mean = {}
    for number in (1, views):
        sampler = ViewBatchSampler(rows, batch, number, run_seed="a", steps=steps)
        visits: dict[int, list[int]] = {row: [] for row in range(rows)}
        for step in range(steps):
            for row in set(sampler.fields(step)["ids"]):
                visits[row].append(step)
        mean[number] = statistics.mean(b - a for steps in visits.values() for a, b in pairwise(steps) if b - a > 1)
    note = f"{mean[1]:.1f} and {mean[views]:.1f} steps; V N / B is {views * rows / batch:.0f}"
    return Measured(mean[views] / mean[1], float(views), note)


@cache
def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return torch.tensor(x[order], dtype=torch.float32) / 16, torch.tensor(y[order])


TASKS, TRAIN, BUFFER, EPOCHS = 5, 600, 50, 12


def augmented(image: Tensor, generator: torch.Generator) -> Tensor:
    """Noise and a change of contrast, which no permutation of pixels undoes."""
    return image * (0.7 + 0.6 * torch.rand(1, generator=generator)) + 0.15 * torch.randn(image.shape, generator=generator)


@cache
def continual(views: int, consistent: bool, seed: int) -> tuple[float, float]:
    """Forgetting and final accuracy in points over five tasks of permuted digits, with a buffer of 50 old records."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    x, y = digits()
    orders = [torch.randperm(64, generator=torch.Generator().manual_seed(100 * seed + task)) for task in range(TASKS)]
    after = np.zeros((TASKS, TASKS))
    old: list[tuple[Tensor, Tensor]] = []
    for task, order in enumerate(orders):
        inputs, labels = (torch.cat(parts) for parts in zip((x[:TRAIN, order], y[:TRAIN]), *old, strict=True))
        steps = EPOCHS * len(labels) // 32
        sampler = ViewBatchSampler(len(labels), 32, views, run_seed=f"{seed} {task}", steps=steps)
        data = Views(range(len(labels)), lambda row, g, inputs=inputs: (augmented(inputs[row], g), row))
        for step, (batch, rows) in enumerate(DataLoader(data, batch_sampler=sampler)):
            objective = ViewConsistency(1.0 if consistent else 0.0, after_epoch=-1)
            loss = objective(model(batch), labels[rows], rows, epoch=step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for done in range(task + 1):
                after[task, done] = 100 * float((model(x[TRAIN:, orders[done]]).argmax(1) == y[TRAIN:]).float().mean())
        share = BUFFER // (task + 1)
        kept = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(seed))[:share]
        old = [(images[:share], classes[:share]) for images, classes in (*old, (x[kept][:, order], y[kept]))]
    forgotten = [after[:, task].max() - after[-1, task] for task in range(TASKS - 1)]
    return float(np.mean(forgotten)), float(after[-1].mean())


def forgetting(consistent: bool) -> Measured:
    """How much less is forgotten than with plain epochs over as many views."""
    plain, ours = ([continual(*way, seed) for seed in range(3)] for way in ((1, False), (4, consistent)))
    lost, kept = (statistics.mean(run[0] for run in runs) for runs in (plain, ours))
    note = f"forgetting {lost:.2f} to {kept:.2f}, final accuracy {statistics.mean(r[1] for r in plain):.2f} to "
    note += f"{statistics.mean(r[1] for r in ours):.2f}; {TASKS} tasks of permuted digits, buffer {BUFFER}, 3 seeds, spread of "
    note += f"the plain ones {statistics.stdev(r[0] for r in plain):.2f}; paper: iCaRL on Split-CIFAR-10"
    return Measured(lost - kept, 28.05 - (13.81 if consistent else 18.72), note)


RARE, CLASSES, UPDATES, BATCH, ROWS = 9, 10, 1500, 32, 1600
RATE, FAST = 0.005, 0.05  # the paper's rate, and ten times it


@cache
def hard(kind: str, seed: int, rate: float = RATE) -> tuple[float, float]:
    """Accuracy over all and of the rare class, after as many updates of a small network.

    Gaussians around ten centres, the rare one near another, so far that uniform batches do as well as in the simulation."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(CLASSES, 20)) * 1.3
    towards = generator.normal(size=20)
    centres[RARE] = centres[0] + 3.2 * towards / np.linalg.norm(towards)
    share = np.array([0.95 / (CLASSES - 1)] * (CLASSES - 1) + [0.05])

    def drawn(count: int, shares: np.ndarray) -> tuple[Tensor, Tensor]:
        labels = np.sort(generator.choice(CLASSES, count, p=shares))
        inputs = centres[labels] + generator.normal(size=(count, 20))
        return torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)

    x, y = drawn(ROWS, share)
    test_x, test_y = drawn(4000, np.full(CLASSES, 1 / CLASSES))
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    epochs = -(-UPDATES // (ROWS // BATCH))
    if kind == "uniform":
        sampler: Any = UniformSampler(ROWS, BATCH, run_seed=str(seed), steps=UPDATES)
    else:
        options = {"granularity": "sample" if kind == "sample" else "batch", "shuffle": kind != "homogeneous"}
        sampler = HardBatchSampler(ROWS, BATCH, epochs, 0.5, run_seed=str(seed), **options)
    for rows in sampler:
        losses = F.cross_entropy(model(x[rows]), y[rows], reduction="none")
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        if kind != "uniform":
            sampler.report(losses if kind == "sample" else losses.mean())
        if sampler.step == UPDATES:
            break
    with torch.no_grad():
        right = (model(test_x).argmax(1) == test_y).float()
    by_class = torch.tensor([float(right[test_y == label].mean()) for label in range(CLASSES)])
    return float((by_class * torch.tensor(share)).sum()), float(by_class[RARE])


def rare_class(kind: str, simulated: tuple[float, float]) -> Measured:
    """Accuracy of the rare class gained over uniform batches; simulated: accuracy over all and of the rare class."""
    runs, base = ([hard(each, seed) for seed in SEEDS] for each in (kind, "uniform"))
    fast, fast_base = (statistics.mean(hard(each, seed, FAST)[1] for seed in SEEDS) for each in (kind, "uniform"))
    overall, rare = (statistics.mean(each) for each in zip(*runs, strict=True))
    plain, plain_rare = (statistics.mean(each) for each in zip(*base, strict=True))
    spread = statistics.stdev(each[1] for each in base)
    note = (
        f"overall {overall:.3f} against {plain:.3f} uniform, rare class {rare:.3f} against {plain_rare:.3f} with a spread of "
        f"{spread:.3f}; simulated {simulated[0]:.3f} and {simulated[1]:.3f} against .979 and .842; at ten times the rate "
        f"{100 * (fast - fast_base):+.1f} points"
    )
    return Measured(100 * (rare - plain_rare), 100 * (simulated[1] - 0.842), note)


@cache
def corpus(mean: int) -> list[int]:
    """Lengths of 60,000 documents, lognormal with sigma 1.2."""
    drawn = np.random.default_rng(0).lognormal(np.log(mean) - 0.72, 1.2, 60_000)
    return (drawn.astype(int) + 1).tolist()


LONG = 8192


def attention_saved(mean: int, simulated: float, simulated_kept: float) -> Measured:
    """Pairs of positions that attend to each other, per token, of rows of 8192 over those of pieces."""
    cuts = {name: Decomposition(corpus(mean), 8, 13, seed) for name, seed in (("longest", None), ("drawn", "a"))}
    pairs = {name: float((cut.lengths.astype(float) ** 2).sum() / 2 / cut.lengths.sum()) for name, cut in cuts.items()}
    note = f"{LONG / 2:.0f} to {pairs['longest']:.0f}, with drawn lengths, as published, {pairs['drawn']:.0f}; "
    note += f"{100 * cuts['longest'].kept:.1f}% of tokens kept, simulated {simulated_kept:.0f}%"
    return Measured(LONG / 2 / pairs["longest"], simulated, note)


def attention_across() -> Measured:
    """Of a row of 8192 tokens of joined documents, the share of attention that crosses from one into another."""
    lengths = np.array(corpus(1650))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    rows = owner[: len(owner) // LONG * LONG].reshape(-1, LONG)[:2000]
    inside = sum(float((np.unique(row, return_counts=True)[1].astype(float) ** 2).sum()) for row in rows)
    return Measured(100 * (1 - inside / (len(rows) * LONG**2)), 59.0, "with pieces none does; mean document 1650 tokens")


WIDTH, LOW, HIGH, TOKENS, BUDGET = 64, 4, 8, 2048, 400


def tiny(seed: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=1024, max_position_embeddings=512, bos_token_id=0, eos_token_id=0, **sizes))


@cache
def documents() -> list[list[int]]:
    """The help topics' words in documents of lognormal length, as the text has few ends of its own."""
    words, generator, found, start = text().tolist(), np.random.default_rng(0), [], 0
    while start < len(words) * 9 // 10:
        length = int(generator.lognormal(np.log(90), 1.0)) + 2
        found.append([*words[start : start + length], 0])
        start += length
    return found


@cache
def language(way: str) -> tuple[float, float, float]:
    """Held-out loss on rows of 256, tokens a second, share of tokens kept, after BUDGET batches of 2048 tokens."""
    model = tiny(0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    cut = Decomposition([len(document) for document in documents()], LOW, HIGH, "a")
    if way == "buckets":
        sampler = LengthBucketSampler(cut.lengths, TOKENS, (16, 8, 4, 2, 1), 8, run_seed="a", steps=BUDGET)
        batches: Any = DataLoader(Pieces(documents(), cut), batch_sampler=sampler)
    else:
        joined = torch.tensor([word for document in documents() for word in document])
        rows = joined[: len(joined) // 257 * 257].view(-1, 257)
        batches = DataLoader(rows, batch_sampler=UniformSampler(len(rows), TOKENS // 256, run_seed="a", steps=BUDGET))
    started = time.perf_counter()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min((step + 1) / 40, 1 - 0.9 * step / BUDGET)
        logits = model(batch[:, :-1], use_cache=False).logits
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimizer.step()
    speed = BUDGET * TOKENS / (time.perf_counter() - started)
    held_out = text()[len(text()) * 9 // 10 :]
    ids = held_out[: len(held_out) // 256 * 256].view(-1, 256)
    with torch.no_grad():
        return float(model(ids, labels=ids).loss), speed, cut.kept


def buckets_against_joined(what: str) -> Measured:
    (ours, fast, kept), (joined, slow, _) = language("buckets"), language("joined")
    note = f"held-out loss {ours:.3f} against {joined:.3f} after {BUDGET} steps of {TOKENS} tokens, {fast:.0f} and {slow:.0f} "
    note += f"tokens a second, {100 * kept:.0f}% of tokens kept; lengths 16 to 256, where attention is a small part of a step"
    return Measured(joined - ours if what == "loss" else fast / slow, None, note)


def filled() -> Measured:
    """Lognormal lengths of median 400 into rows of 4096."""
    sizes = np.minimum(np.random.default_rng(0).lognormal(np.log(400), 1, 20_000).astype(int) + 1, 4096).tolist()
    bins, next_fit, room = pack_ffd(sizes, 4096), 0, 0
    for size in sizes:
        if size > room:
            next_fit, room = next_fit + 1, 4096
        room -= size
    share, plain = (100 * sum(sizes) / (4096 * count) for count in (len(bins), next_fit))
    packed_pairs = sum(size**2 for size in sizes) / 2 / sum(sizes)
    cut = Decomposition(sizes, 8, 12, "a")
    pieces = float((cut.lengths.astype(float) ** 2).sum() / 2 / cut.lengths.sum())
    note = (
        f"in the order of arrival {plain:.1f}%; attention {packed_pairs:.0f} pairs a token with every token kept, buckets of "
    )
    note += f"256 to 4096 {pieces:.0f} with {100 * cut.kept:.0f}% kept"
    return Measured(share, 97.0, note)


CHECKS = [
    Check("view-batch", "steps from visit to visit of a record, over plain epochs", "x", "equal", rest_between_visits),
    Check("view-batch", "forgetting avoided over plain epochs", "points", "higher", partial(forgetting, False)),
    Check("view-consistency", "forgetting avoided, with view batches", "points", "higher", partial(forgetting, True)),
    Check("hard-batch", "rare class, random partition", "points", "higher", partial(rare_class, "batch", (0.977, 0.865))),
    Check(
        "hard-batch", "rare class, batches of one class", "points", "higher", partial(rare_class, "homogeneous", (0.966, 0.965))
    ),
    Check("hard-batch", "rare class, row by row", "points", "higher", partial(rare_class, "sample", (0.978, 0.881))),
    Check("length-buckets", "attention saved, documents of 726", "x", "higher", partial(attention_saved, 726, 5.0, 83)),
    Check("length-buckets", "attention saved, documents of 1650", "x", "higher", partial(attention_saved, 1650, 2.6, 92)),
    Check("length-buckets", "attention saved, documents of 3070", "x", "higher", partial(attention_saved, 3070, 1.9, 96)),
    Check("length-buckets", "attention of joined rows that crosses documents", "%", "lower", attention_across),
    Check("length-buckets", "tokens a second over joined rows", "x", "higher", partial(buckets_against_joined, "speed")),
    Check(
        "length-buckets", "held-out loss below that of joined rows", "nats", "higher", partial(buckets_against_joined, "loss")
    ),
    Check("packing", "share of places that hold a token", "%", "higher", filled),
]
