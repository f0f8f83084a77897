"""Checks of the schedules: a small network on digits, and a small language model on Python's own documentation."""

from __future__ import annotations

import copy
import statistics
from functools import cache
from pydoc_data import topics

import torch
from methods.batch import TRAIN, accuracy, convolutional, shuffled, train, warmed
from methods.check import Check, Measured
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from zkaudit.training.norm.ghost_batch import convert_batch_norm
from zkaudit.training.schedule.power import PowerLR
from zkaudit.training.schedule.regime import Regime, log_law, weight_distance
from zkaudit.training.schedule.wsd import WSD

SMALL = Regime(batch=16, lr=0.02, epochs=6)
LENGTH = 32  # tokens of a sequence
WIDTH = 32


def distance_is_logarithmic() -> Measured:
    """R^2 of distance = slope log(step) + intercept, at a constant rate, as in the paper's figure."""
    fits = []
    for ratio in (1, 8):
        regime = SMALL.adapted(SMALL.batch * ratio)
        model = convolutional(0, 4)
        start = [weight.detach().clone() for weight in model.parameters()]
        optimizer, seen = torch.optim.SGD(model.parameters(), regime.lr), {}
        for step, (x, y) in enumerate(shuffled(regime.batch, regime.epochs, 0), 1):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step & (step - 1) == 0 or step % 32 == 0:
                seen[step] = weight_distance(model.parameters(), start)
        fits.append(log_law(list(seen), list(seen.values())))
    note = f"slopes {fits[0].slope:.3f} at batch {SMALL.batch} and {fits[1].slope:.3f} at {8 * SMALL.batch} with lr x sqrt(8)"
    note = f"{note}; R^2 {fits[0].r2:.4f} and {fits[1].r2:.4f}; steps 1 to 384, where the paper has thousands"
    return Measured(min(fit.r2 for fit in fits), None, note)


def regime_keeps_accuracy() -> Measured:
    """Accuracy lost by a batch of 16 times the size, with the regime adapted and ghost norms, against the small batch."""
    found = {}
    regimes = {"small": SMALL, "adapted": SMALL.adapted(256), "not adapted": Regime(256, SMALL.lr, SMALL.epochs)}
    for name, regime in regimes.items():
        scores = []
        for seed in range(3):
            model = convolutional(seed, 4)
            if name == "adapted":
                convert_batch_norm(model, 16)
            optimizer = torch.optim.SGD(model.parameters(), regime.lr, momentum=0.9)
            train(model, shuffled(regime.batch, regime.epochs, seed), optimizer, warmed(optimizer, regime.updates(TRAIN)))
            scores.append(accuracy(model))
        found[name] = statistics.mean(scores)
    note = "; ".join(f"{name} {score:.2f}%" for name, score in found.items())
    return Measured(found["small"] - found["adapted"], 0.0, note)


@cache
def text() -> tuple[Tensor, Tensor]:
    """Characters of the topics of Python's help, as numbers: to train and to test."""
    characters = "".join(topics.topics[name] for name in sorted(topics.topics)).encode("ascii", "replace")
    codes = torch.frombuffer(bytearray(characters), dtype=torch.uint8).long() % 128
    return codes[20_000:], codes[:20_000]


class Language(nn.Module):
    """One causal transformer layer over characters."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.symbols, self.places = nn.Embedding(128, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 128)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, codes: Tensor) -> Tensor:
        x = self.symbols(codes) + self.places.weight
        return self.head(self.norm(self.layer(x, src_mask=self.mask, is_causal=True)))

    def loss(self, rows: Tensor) -> Tensor:
        return F.cross_entropy(self(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def sequences(batch: int, generator: torch.Generator) -> Tensor:
    codes, _ = text()
    starts = torch.randint(len(codes) - LENGTH, (batch, 1), generator=generator)
    return codes[starts + torch.arange(LENGTH + 1)]


def language_loss(model: Language) -> float:
    _, codes = text()
    with torch.no_grad():
        return float(model.loss(codes[: 512 * (LENGTH + 1)].view(512, LENGTH + 1)))


def steps_of(
    model: Language, optimizer: torch.optim.Optimizer, scheduler: LRScheduler, batch: int, steps: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(sequences(batch, generator)).backward()
        optimizer.step()
        scheduler.step()


# Sequences in a batch, and steps.
RUNS = {"small": (8, 100), "4x tokens": (8, 400), "4x tokens, 4x batch": (32, 100), "4x batch": (32, 25)}
CONSTANTS = (0.0025, 0.005, 0.01, 0.02, 0.04)  # rates of the stable phase
AMPLITUDES = (0.02, 0.04, 0.08, 0.16, 0.32)  # a


def power_transfers() -> Measured:
    """What is lost at larger runs by the a that was best at the small one, against the grid's best there; their mean."""
    torch.set_num_threads(1)
    regrets, notes = {}, []
    for kind, grid in (("power", AMPLITUDES), ("wsd", CONSTANTS)):
        losses = {name: [_language_run(kind, value, *run) for value in grid] for name, run in RUNS.items()}
        best = min(range(len(grid)), key=losses["small"].__getitem__)
        lost = {name: found[best] - min(found) for name, found in losses.items() if name != "small"}
        regrets[kind] = statistics.mean(lost.values())
        notes.append(f"{kind} {grid[best]}: " + ", ".join(f"{name} {value:.3f}" for name, value in lost.items()))
    note = f"loss in nats over the grid's best; {'; '.join(notes)}; wsd on average {regrets['wsd']:.3f}; b = -0.51, no muP"
    return Measured(regrets["power"], 0.0, note)


def _language_run(kind: str, value: float, batch: int, steps: int) -> float:
    model = Language(0)
    optimizer = torch.optim.AdamW(model.parameters(), 0.05 if kind == "power" else value, weight_decay=0.1)
    phases = {"warmup": steps // 10, "decay": steps // 5, "decay_start": steps - steps // 5}
    scheduler = PowerLR(optimizer, batch, batch * LENGTH, **phases, a=value) if kind == "power" else WSD(optimizer, **phases)
    steps_of(model, optimizer, scheduler, batch, steps, 1)
    return language_loss(model)


def one_run_many_lengths() -> Measured:
    """Loss of models branched off one stable run over those of cosine schedules made for each length, mean over lengths."""
    torch.set_num_threads(1)
    branched, spent = _branches()
    ratios, notes = [], []
    for steps, loss in branched.items():
        model = Language(0)
        optimizer = torch.optim.AdamW(model.parameters(), RATE)
        steps_of(model, optimizer, CosineAnnealingLR(optimizer, steps), 8, steps, 1)
        cosine = language_loss(model)
        ratios.append(loss / cosine)
        notes.append(f"{steps} steps {loss:.3f} against {cosine:.3f}")
    note = f"nats: {'; '.join(notes)}; {spent} steps in all against {sum(branched)}; decay over the last fifth"
    return Measured(statistics.mean(ratios), 1.0, note)


RATE = 0.01


def _branches() -> tuple[dict[int, float], int]:
    """Loss by length of runs that share one stable phase and decay over their last fifth, and the steps that all of it took."""
    trunk, losses, done, spent = _started(), {}, 0, 0
    for steps in (150, 300, 600):
        model, optimizer, scheduler = trunk
        steps_of(model, optimizer, scheduler, 8, steps * 4 // 5 - done, seed=done)
        spent, done = spent + steps * 4 // 5 - done, steps * 4 // 5
        branch = _started()
        for old, new in zip(trunk, branch, strict=True):
            new.load_state_dict(copy.deepcopy(old.state_dict()))
        branch[2].start_decay(steps // 5)
        steps_of(*branch, 8, steps // 5, seed=done)
        spent += steps // 5
        losses[steps] = language_loss(branch[0])
    return losses, spent


def _started() -> tuple[Language, torch.optim.Optimizer, WSD]:
    model = Language(0)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    return model, optimizer, WSD(optimizer, warmup=20, decay=1, shape="1-sqrt", floor=0.0)


CHECKS = [
    Check("regime-adaptation", "distance of the weights follows log(step)", "R^2", "higher", distance_is_logarithmic),
    Check("regime-adaptation", "accuracy lost at 16x the batch", "points", "lower", regime_keeps_accuracy),
    Check("power-scheduler", "loss for taking a small run's best a to 4x tokens and batch", "nats", "lower", power_transfers),
    Check("wsd", "loss of branches of one run over cosine runs made for each length", "of 1", "lower", one_run_many_lengths),
]
