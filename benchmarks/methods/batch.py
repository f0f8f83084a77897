"""Checks of the methods for large and changing batches, on scikit-learn's digits."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise

import torch
from methods.check import Check, Measured
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from zkaudit.training.batch.conadv import ConAdv, ConAdvOptions, dual_batch_norm
from zkaudit.training.batch.multigrid import Multigrid, MultigridOptions, MultigridSampler, Shape, Shaped

SEEDS = range(3)
TRAIN = 1024  # of 1797 records; the others are the test


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (N, 1, 8, 8) in [0, 1] and labels, to train and to test."""
    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 16
    y = torch.tensor(labels)[order]
    return x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]


def convolutional(seed: int, width: int = 16, last_stride: int = 1) -> nn.Sequential:
    """A small network with batch normalisation that takes images of any size."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1, stride=last_stride, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, 10),
    )  # fmt: skip


def shuffled(batch: int, epochs: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    x, y, _, _ = digits()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            if len(rows) == batch:
                yield x[rows], y[rows]


def train(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], optimizer: torch.optim.Optimizer, scheduler: LRScheduler
) -> None:
    model.train()
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()


def accuracy(model: nn.Module, resize: Callable[[Tensor], Tensor] = lambda images: images) -> float:
    """On the test, in percent."""
    _, _, x, y = digits()
    with torch.no_grad():
        return 100 * float((model.eval()(resize(x)).argmax(1) == y).float().mean())


def warmed(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """Linear warm-up over a tenth, then linear to 0."""
    rise = max(1, steps // 10)
    return LambdaLR(optimizer, lambda step: min((step + 1) / rise, max(0.0, (steps - step) / (steps - rise))))


def sequential_passes() -> Measured:
    """The longest chain of passes that wait for each other, per step, from what each pass was seen to use."""
    lengths = {delay: _longest_chain(delay, steps=20) for delay in (0, 1, 2)}
    note = f"delay 0, which is sequential: {lengths[0]:.2f}; delay 2: {lengths[2]:.2f}; 20 steps and the first attack, counted"
    return Measured(lengths[1], 1.0, note)


def _longest_chain(delay: int, steps: int) -> float:
    model = convolutional(0, 2)
    dual_batch_norm(model)
    adversary = ConAdv(model, F.cross_entropy, ConAdvOptions(0.05, delay))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    depth_of_weights = {_version(model): 0}  # how many passes came one after another before these weights
    depth_of_attack: dict[int, int] = {}  # by the identity of the attacked inputs, which `kept` keeps alive
    kept: list[Tensor] = []
    attack = adversary.attack

    def watched(inputs: Tensor, targets: Tensor) -> Tensor:
        made = attack(inputs, targets)
        depth_of_attack[id(made)] = depth_of_weights[_version(model)] + 1
        kept.append(made)
        return made

    adversary.attack = watched  # type: ignore[method-assign]
    for x, y, attacked in adversary.ahead(list(shuffled(32, 1, 0))[:steps]):
        depth = max(depth_of_weights[_version(model)], depth_of_attack[id(attacked)]) + 1
        optimizer.zero_grad()
        adversary.loss(x, y, attacked).backward()
        optimizer.step()
        depth_of_weights[_version(model)] = depth
    return max(depth_of_weights.values()) / steps


def _version(model: nn.Module) -> int:
    return next(model.parameters())._version


def adversarial_accuracy() -> Measured:
    """Test accuracy at a batch of half the data, few updates, with attacked inputs and without."""
    batch, epochs, found = TRAIN // 2, 30, {"clean": [], "sequential": [], "concurrent": []}
    steps = TRAIN // batch * epochs
    for seed in SEEDS:
        for kind, scores in found.items():
            model = convolutional(seed)
            if kind != "clean":
                dual_batch_norm(model)
            optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9, weight_decay=5e-4)
            scheduler = warmed(optimizer, steps)
            if kind == "clean":
                train(model, shuffled(batch, epochs, seed), optimizer, scheduler)
            else:
                options = ConAdvOptions(eps=0.1, delay=int(kind == "concurrent"), low=0.0, high=1.0)
                adversary = ConAdv(model, F.cross_entropy, options)
                for x, y, attacked in adversary.ahead(shuffled(batch, epochs, seed)):
                    optimizer.zero_grad()
                    adversary.loss(x, y, attacked).backward()
                    optimizer.step()
                    scheduler.step()
            scores.append(accuracy(model))
    mean = {kind: statistics.mean(scores) for kind, scores in found.items()}
    note = "; ".join(f"{kind} {value:.2f}%" for kind, value in mean.items())
    note = f"{note}; batch {batch}, {steps} updates; paper: 75.3% at 96k, ResNet-50 on ImageNet"
    return Measured(mean["concurrent"] - mean["clean"], None, note)


BUDGETS = (3, 6, 12, 20)  # epochs
GOAL = 98.0  # percent


def multigrid_speed() -> Measured:
    """Multiply-adds of training until the test accuracy is GOAL, full shape over multigrid; images are enlarged to 16 x 16.

    Costs between two budgets are interpolated."""
    batch, size = 32, 16
    options = {
        "full": MultigridOptions(batch, size=size, long=((1.0, 1.0),), short=(), last=0.0),
        "multigrid": MultigridOptions(batch, size=size, multiple=2),
    }
    needed, notes = {}, []
    for kind, option in options.items():
        curve = [_budget(option, epochs) for epochs in BUDGETS]
        needed[kind] = _cost_of_goal(curve)
        notes.append(f"{kind}: " + ", ".join(f"{score:.2f}% at {cost / 1e9:.1f}" for cost, score in curve) + " Gflop")
    note = f"{'; '.join(notes)}; images, so no length to cut as in video"
    return Measured(needed["full"] / needed["multigrid"], 4.5, note)


def _budget(option: MultigridOptions, epochs: int) -> tuple[float, float]:
    """Cost and mean accuracy of training for so many epochs."""
    _, y, _, _ = digits()
    plan, scores, full = Multigrid(option, epochs * TRAIN), [], option.size
    for seed in SEEDS:
        model = convolutional(seed, 8)
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        ends = warmed(optimizer, plan.steps).lr_lambdas[0]
        scheduler = LambdaLR(optimizer, lambda step, ends=ends: plan.lr_factor(step) * ends(step))
        items = Shaped(range(TRAIN), lambda item, shape: (_resized(shape.size)[item], y[item]))
        train(model, DataLoader(items, batch_sampler=MultigridSampler(plan, TRAIN, seed)), optimizer, scheduler)
        scores.append(accuracy(model, lambda test: F.interpolate(test, size=full, mode="bilinear")))
    return sum(_flops(plan.shape(step)) for step in range(plan.steps)), statistics.mean(scores)


def _cost_of_goal(curve: list[tuple[float, float]]) -> float:
    """Where the polyline of (cost, accuracy) first reaches GOAL; the last cost if it never does, which the note shows."""
    for (cost, score), (more, better) in pairwise([(0.0, 0.0), *curve]):
        if better >= GOAL:
            return cost + (more - cost) * (GOAL - score) / (better - score)
    return curve[-1][0]


@cache
def _resized(size: int) -> Tensor:
    return F.interpolate(digits()[0], size=size, mode="bilinear")


@cache
def _flops(shape: Shape) -> float:
    """Of one forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        convolutional(0, 8)(torch.zeros(shape.batch, 1, shape.size, shape.size)).sum().backward()
    return counter.get_total_flops()


CHECKS = [
    Check("conadv", "passes of a step that wait for each other", "passes", "lower", sequential_passes),
    Check("conadv", "accuracy gained at a large batch over clean training", "points", "higher", adversarial_accuracy),
    Check("multigrid", f"cost of reaching {GOAL:.0f}%, full shape over multigrid", "x", "higher", multigrid_speed),
]
