"""Checks of leaving out blocks, and of training what is left against the whole model with a reward."""

from __future__ import annotations

import copy
import random
from functools import cache
from statistics import fmean

import torch
from methods.check import Check, Measured
from torch import Tensor, nn
from torch.nn import functional as F

from zkaudit.training.models.block_pruning import drop_blocks, rank_blocks
from zkaudit.training.objectives.feedback_distillation import FeedbackDistillation, Guard, Reward

BLOCKS, DROPPED, WIDTH, INPUTS = 8, 4, 32, 8
NAMES = [f"blocks.{number}" for number in range(BLOCKS)]
SEEDS = range(3)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Residual(nn.Module):
    """Eight residual blocks between a linear layer in and one out."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, 2)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.first(x)))


@cache
def data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and a smooth function of two outputs, to train and to test."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3000, INPUTS, generator=generator)
    y = torch.stack([(x[:, 0] * x[:, 1]).tanh() + (2 * x[:, 2]).sin(), x[:, 3:6].square().sum(1).sqrt() - x[:, 6]], 1)
    return x[:2000], y[:2000], x[2000:], y[2000:]


def loss_of(model: nn.Module, seed: int) -> float:
    _, _, x, y = data(seed)
    with torch.no_grad():
        return float(F.mse_loss(model(x), y))


@cache
def teacher(seed: int) -> nn.Module:
    torch.set_num_threads(1)
    model, (x, y, _, _) = Residual(seed), data(seed)
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(1500):
        rows = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        F.mse_loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model


def distilled(student: nn.Module, seed: int, rewards: dict[str, Reward], steps: int = 500) -> nn.Module:
    x = data(seed)[0]
    objective = FeedbackDistillation(copy.deepcopy(teacher(seed)), rewards)
    optimizer = torch.optim.Adam(student.parameters(), 0.001)
    generator = torch.Generator().manual_seed(seed + 100)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        objective(student(x[rows]), x[rows]).total.backward()
        optimizer.step()
    return student


def pruned(seed: int, names: list[str]) -> nn.Module:
    student = copy.deepcopy(teacher(seed)).requires_grad_(True)
    drop_blocks(student, names)
    return student


@cache
def jumps() -> dict[str, list[tuple[float, float, float]]]:
    """Losses of the whole model, right after dropping, and after 500 steps, for blocks of least impact and for random ones."""
    found: dict[str, list[tuple[float, float, float]]] = {"least impact": [], "random": []}
    for seed in SEEDS:
        x = data(seed)[0]
        ranked = rank_blocks(teacher(seed), NAMES, lambda model, x=x: model(x))
        least = [block.name for block in ranked[:DROPPED]]
        for way, names in (("least impact", least), ("random", random.Random(seed).sample(NAMES, DROPPED))):
            student = pruned(seed, names)
            dropped = loss_of(student, seed)
            found[way].append((loss_of(teacher(seed), seed), dropped, loss_of(distilled(student, seed, {}), seed)))
    return found


def recovered() -> Measured:
    shares = {way: fmean((drop - after) / (drop - whole) for whole, drop, after in rows) for way, rows in jumps().items()}
    said = {way: " ".join(f"{fmean(column):.4f}" for column in zip(*rows, strict=True)) for way, rows in jumps().items()}
    note = "; ".join(f"{way}: {shares[way]:.3f} recovered, losses whole, dropped, distilled {said[way]}" for way in shares)
    return Measured(shares["least impact"], None, f"{note}; 4 of 8 blocks, 500 steps, 3 seeds")


def jump_is_smaller() -> Measured:
    """Loss right after dropping random blocks, over that after dropping those of least impact."""
    dropped = {way: fmean(row[1] for row in rows) for way, rows in jumps().items()}
    return Measured(dropped["random"] / dropped["least impact"], None, "without training after; 3 seeds")


def size() -> Measured:
    model = copy.deepcopy(teacher(0))
    before = sum(parameter.numel() for parameter in model.parameters())
    return Measured(
        1 - drop_blocks(model, NAMES[:DROPPED]) / before, 0.7 / 1.4, "4 of 8 blocks; the paper's model 1.4B to 0.7B"
    )


def rewarded() -> Measured:
    """Rise of a reward on held-out inputs, in its deviations, at the largest scale whose cost a guard of 5% allows: outputs are
    wanted to be large in one direction."""
    found = {scale: _rise_and_cost(scale) for scale in (0.01, 0.03, 0.1)}
    allowed = {scale: rise for scale, (rise, cost) in found.items() if cost <= 5}
    note = "; ".join(f"scale {scale}: reward {rise:+.3f}, task's loss {cost:+.1f}%" for scale, (rise, cost) in found.items())
    return Measured(allowed[max(allowed)] if allowed else 0.0, None, f"{note}; the guard allows 5%; 3 seeds")


def _rise_and_cost(scale: float) -> tuple[float, float]:
    rises, costs = [], []
    for seed in SEEDS:
        names = [block.name for block in rank_blocks(teacher(seed), NAMES, lambda model, seed=seed: model(data(seed)[0]))]
        reward = Reward(lambda output, inputs: output[:, 0].tanh(), scale)
        plain = distilled(pruned(seed, names[:DROPPED]), seed, {})
        fed = distilled(pruned(seed, names[:DROPPED]), seed, {"large": reward})
        x = data(seed)[2]
        with torch.no_grad():
            scores = [reward.score(model(x), x) for model in (plain, fed)]
        rises.append(float((scores[1].mean() - scores[0].mean()) / scores[0].std()))
        costs.append(100 * Guard(loss_of(plain, seed)).rise(loss_of(fed, seed)))
    return fmean(rises), fmean(costs)


CHECKS = [
    Check("block-pruning", "part of the model that is left", "of 1", "lower", size),
    Check("block-pruning", "loss after random blocks over that after blocks of least impact", "x", "higher", jump_is_smaller),
    Check("feedback-distillation", "part of the loss's jump recovered in 500 steps", "of 1", "higher", recovered),
    Check("feedback-distillation", "rise of the reward on held-out inputs", "deviations", "higher", rewarded),
]
