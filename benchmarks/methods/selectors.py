"""Checks of selectors: what UDS's codes and scores are, what it keeps of a stream of duplicates; how near CoLM's few examples
come to the gradient of all.

"Published" is a derivation or a simulation of the method in numpy made before this code where the paper gives no number."""

from __future__ import annotations

import statistics
import time
from functools import cache, partial

import numpy as np
import torch
from methods.check import Check, Measured
from methods.realistic import text
from torch import Tensor, nn
from torch.nn import functional as F

from zkaudit.training.batch.colm import CoLMOptions, CoLMSelector, facility_location
from zkaudit.training.batch.last_layer import LastLayer, example_losses
from zkaudit.training.batch.selection import scoring
from zkaudit.training.batch.uds import UDSOptions, UDSSelector, nuclear_norm

SEEDS = range(3)


def scale_of_codes(length: int, vocabulary: int) -> Measured:
    """Distances of the released code's unnormalised codes over true ones."""
    pairs = torch.randn(40, length, vocabulary, generator=torch.Generator().manual_seed(0))
    true = (pairs[:20] - pairs[20:]).flatten(1).norm(dim=1)
    ratios = {}
    for paper_scale in (True, False):
        codes = UDSSelector(UDSOptions(1, length, vocabulary, paper_scale=paper_scale), run_seed="a").code(pairs)
        ratios[paper_scale] = (codes[:20] - codes[20:]).norm(dim=1) / true
    note = f"on the true scale {float(ratios[False].mean()):.3f}; relative spread {float(ratios[False].std()):.3f}"
    return Measured(float(ratios[True].mean()), (length * vocabulary) ** 0.5 / 2, note)


def utility_speed() -> Measured:
    """Time of the spectrum by singular values over that by eigenvalues of the Gram matrix, at 64 x 4096."""
    torch.set_num_threads(1)
    logits = torch.randn(4, 64, 4096, generator=torch.Generator().manual_seed(0)).double()
    times, values = [], []
    for sums in (lambda: torch.linalg.svdvals(logits).sum(dim=1), lambda: nuclear_norm(logits)):
        started = time.perf_counter()
        values.append(sums())
        times.append(time.perf_counter() - started)
    difference = float(((values[0] - values[1]) / values[0]).abs().max())
    return Measured(
        times[0] / times[1], 11.0, f"{1e3 * times[0]:.0f} and {1e3 * times[1]:.0f} ms; relative difference {difference:.1e}"
    )


LETTERS, LENGTH, CANDIDATES, KEEP, STEPS, SHARE = 64, 32, 8, 2, 250, 0.6


@cache
def letters() -> Tensor:
    """The help topics as letters by rank, 0 for rarer ones. (letters,)"""
    from collections import Counter
    from pydoc_data.topics import topics

    joined = "\n".join(topics[name] for name in sorted(topics))
    ranks = {letter: rank for rank, (letter, _) in enumerate(Counter(joined).most_common(LETTERS - 1), 1)}
    return torch.tensor([ranks.get(letter, 0) for letter in joined])


@cache
def stream(way: str, seed: int) -> tuple[float, float]:
    """Share of near duplicates among the chosen, and held-out loss; 60% of the stream are three texts, a letter changed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=LETTERS, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, **sizes)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    alpha = {"uds": 6.6, "utility": 0.0}.get(way, 0.0)
    selector = UDSSelector(UDSOptions(KEEP, LENGTH, LETTERS, alpha), run_seed=str(seed))
    generator = torch.Generator().manual_seed(seed)
    training, held_out = letters()[: len(letters()) * 9 // 10], letters()[len(letters()) * 9 // 10 :]
    repeated = torch.stack([training[start : start + LENGTH] for start in (1000, 50_000, 90_000)])
    copies = 0
    for step in range(STEPS):
        starts = torch.randint(len(training) - LENGTH, (CANDIDATES,), generator=generator).tolist()
        rows = torch.stack([training[start : start + LENGTH] for start in starts])
        copied = torch.rand(CANDIDATES, generator=generator) < SHARE
        which = torch.randint(len(repeated), (CANDIDATES,), generator=generator)
        places = torch.randint(LENGTH, (CANDIDATES,), generator=generator)
        rows[copied] = repeated[which[copied]]
        rows[copied, places[copied]] = torch.randint(LETTERS, (CANDIDATES,), generator=generator)[copied]
        if way == "random":
            chosen = torch.randperm(CANDIDATES, generator=generator)[:KEEP].tolist()
        elif way == "loss":
            with scoring(model):
                chosen = example_losses(model(rows).logits, rows).topk(KEEP).indices.tolist()
        else:
            chosen = list(selector.select(model, {"input_ids": rows}, range(step * 8, step * 8 + 8)).places)
        copies += int(copied[chosen].sum())
        optimizer.zero_grad()
        model(rows[chosen], labels=rows[chosen]).loss.backward()
        optimizer.step()
    ids = held_out[: len(held_out) // LENGTH * LENGTH].view(-1, LENGTH)[:256]
    with torch.no_grad():
        return 100 * copies / (STEPS * KEEP), float(model(ids, labels=ids).loss)


def duplicates(what: str) -> Measured:
    ways = {way: [stream(way, seed) for seed in SEEDS] for way in ("random", "loss", "utility", "uds")}
    share, loss = ({way: statistics.mean(run[i] for run in runs) for way, runs in ways.items()} for i in (0, 1))
    spread = statistics.stdev(run[1] for run in ways["random"])
    note = "; ".join(f"{way} {share[way]:.1f}%, held-out {loss[way]:.3f}" for way in ways)
    note += f" (spread {spread:.3f}); {KEEP} of {CANDIDATES}, {STEPS} steps, {100 * SHARE:.0f}% duplicates, alpha 6.6"
    if what == "share":
        return Measured(share["utility"] - share["uds"], 10.0, note)
    return Measured(loss["uds"] - loss["random"], None, note)


EXAMPLES, KEPT, WIDTH, CLUSTERS, TRIALS = 128, 64, 600, 15, 30


@cache
def coresets(noise: float) -> dict[str, float]:
    """Mean relative error of the mean gradient from 64 of 128, in a mixture of clusters of uneven size in 600 dimensions."""
    errors: dict[str, list[float]] = {}
    for seed in range(TRIALS):
        generator = np.random.default_rng(seed)
        centres = generator.normal(size=(CLUSTERS, WIDTH))
        members = generator.choice(CLUSTERS, EXAMPLES, p=generator.dirichlet(np.ones(CLUSTERS)))
        gradients = centres[members] + noise * generator.normal(size=(EXAMPLES, WIDTH))
        mean = gradients.mean(axis=0)

        def error(weights: np.ndarray, gradients: np.ndarray = gradients, mean: np.ndarray = mean) -> float:
            return float(np.linalg.norm(weights @ gradients / weights.sum() - mean) / np.linalg.norm(mean))

        some = np.isin(np.arange(EXAMPLES), generator.choice(EXAMPLES, KEPT, replace=False)).astype(float)
        errors.setdefault("random", []).append(error(some))
        probes = generator.normal(size=(WIDTH, 8))
        for name, codes in (("full", gradients), ("1 probe", gradients @ probes[:, :1]), ("8 probes", gradients @ probes)):
            weights = np.zeros(EXAMPLES)
            medoids = facility_location(np.round(codes * 65536).astype(np.int64), KEPT)
            weights[list(medoids)] = list(medoids.values())
            errors.setdefault(f"{name}, weights", []).append(error(weights))
            errors.setdefault(name, []).append(error((weights > 0).astype(float)))
    return {name: statistics.mean(each) for name, each in errors.items()}


def error_over_random(kind: str, simulated: float) -> Measured:
    tight, loose = coresets(0.6), coresets(1.0)
    note = "; ".join(f"{name} {value:.3f}" for name, value in tight.items())
    note += f"; with clusters as wide as they are apart {loose[kind]:.3f} against {loose['random']:.3f} random"
    return Measured(tight[kind] / tight["random"], simulated / 0.243, note)


@cache
def language_errors() -> dict[str, float]:
    """The same for a small Llama, somewhat trained, on help topics of eight sources: 32 of 64, gradients of all weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    model: nn.Module = LlamaForCausalLM(
        LlamaConfig(vocab_size=1024, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, **sizes)
    )
    words, optimizer = text(), torch.optim.AdamW(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        starts = torch.randint(len(words) - 48, (16,), generator=generator).tolist()
        rows = torch.stack([words[start : start + 48] for start in starts])
        optimizer.zero_grad()
        model(rows, labels=rows).loss.backward()
        optimizer.step()
    found: dict[str, list[float]] = {}
    for trial in range(8):
        starts = torch.randint(len(words) - 48, (64,), generator=generator).tolist()
        rows = torch.stack([words[start : start + 48] for start in starts])
        each = []
        for row in rows:
            model.zero_grad()
            F.cross_entropy(model(row[None]).logits[0, :-1], row[1:]).backward()
            each.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        gradients = torch.stack(each)
        mean = gradients.mean(dim=0)

        def error(places: list[int], weights: Tensor, gradients: Tensor = gradients, mean: Tensor = mean) -> float:
            return float((weights @ gradients[places] / weights.sum() - mean).norm() / mean.norm())

        found.setdefault("random", []).append(error(torch.randperm(64, generator=generator)[:32].tolist(), torch.ones(32)))
        for name, options in (("8 probes, weights", CoLMOptions(32)), ("as published", CoLMOptions.paper(32))):
            selector = CoLMSelector(options, run_seed=str(trial))
            with scoring(model), LastLayer(model, {"input_ids": rows, "labels": rows}) as last:
                derivatives = selector.derivatives(last.losses, last.value_weight)
            chosen = selector.choose(derivatives, last.value_weight.shape, range(64), [0] * 64)
            weights = torch.tensor(chosen.weights or [1.0] * 32)
            found.setdefault(name, []).append(error(list(chosen.places), weights))
    return {name: statistics.mean(values) for name, values in found.items()}


def language_error() -> Measured:
    errors = language_errors()
    note = "; ".join(f"{name} {value:.3f}" for name, value in errors.items())
    return Measured(errors["8 probes, weights"] / errors["random"], None, f"{note}; 32 of 64 texts, one source, 8 trials")


def small_sources() -> Measured:
    """Share of the examples of two small sources that are kept, of a mixture of 90, 8 and 2%."""
    generator, kept, there, random = np.random.default_rng(0), 0, 0, 0
    selector = CoLMSelector(CoLMOptions(KEPT, small=(1, 2)), run_seed="a")
    for _ in range(30):
        sources = generator.choice(3, EXAMPLES, p=[0.9, 0.08, 0.02]).tolist()
        chosen = selector.choose(torch.from_numpy(generator.normal(size=(EXAMPLES, 8))), (1, 1), range(EXAMPLES), sources)
        there += sum(source > 0 for source in sources)
        kept += sum(sources[place] > 0 for place in chosen.places)
        random += sum(sources[place] > 0 for place in generator.choice(EXAMPLES, KEPT, replace=False))
    return Measured(100 * kept / there, 100.0, f"a random half has {100 * random / there:.1f}%")


CHECKS = [
    Check("uds", "released codes' distances over true ones, 64 x 512", "x", "equal", partial(scale_of_codes, 64, 512)),
    Check("uds", "released codes' distances over true ones, 128 x 2048", "x", "equal", partial(scale_of_codes, 128, 2048)),
    Check("uds", "spectrum's time by singular values over ours", "x", "higher", utility_speed),
    Check("uds", "duplicates among the chosen, avoided over alpha 0", "points", "higher", partial(duplicates, "share")),
    Check("uds", "held-out loss above that of random choice", "nats", "lower", partial(duplicates, "loss")),
    Check("colm", "error, 8 probes and weights", "of random", "lower", partial(error_over_random, "8 probes, weights", 0.219)),
    Check("colm", "error, 1 probe and weights", "of random", "lower", partial(error_over_random, "1 probe, weights", 0.290)),
    Check(
        "colm", "error, whole gradients and weights", "of random", "lower", partial(error_over_random, "full, weights", 0.221)
    ),
    Check("colm", "error, whole gradients, no weights", "of random", "lower", partial(error_over_random, "full", 0.370)),
    Check("colm", "error, a language model, 8 probes and weights", "of random", "lower", language_error),
    Check("colm", "examples of small sources kept", "%", "equal", small_sources),
]
