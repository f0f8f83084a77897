"""Checks of joint labels for versions of a record, and of batch norm balanced between tasks. Data are drawn templates and
scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from statistics import fmean

import torch
from methods.batch import digits
from methods.check import Check, Measured
from torch import Tensor, nn
from torch.nn import functional as F

from zkaudit.training.norm.adab2n import AdaB2N, balance_loss, convert_batch_norm, tasks_of_batch
from zkaudit.training.objectives.sla import LabelAugmentation, rotations

CLASSES, SIDE, NOISE = 10, 8, 3.0
SEEDS = range(5)
SLA = LabelAugmentation(rotations())


@cache
def templates(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (N, 1, 8, 8), a random template of their class and noise, 500 to train and 1000 to test."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(CLASSES, 1, SIDE, SIDE, generator=generator)
    y = torch.arange(1500) % CLASSES
    x = drawn[y] + NOISE * torch.randn(1500, 1, SIDE, SIDE, generator=generator)
    return x[:500], y[:500], x[500:], y[500:]


class Two(nn.Module):
    """A body with a head of joint labels and one of classes."""

    def __init__(self, seed: int, outputs: int, width: int = 128) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, width), nn.ReLU())
        self.joint, self.head = nn.Linear(width, outputs), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.joint(self.body(x))


@cache
def sla_accuracies() -> dict[str, float]:
    """Mean accuracy on the test, in percent. Every way sees as many rows: the plain ones take four times the steps."""
    ways: dict[str, list[float]] = {}
    for seed in SEEDS:
        x, y, x_test, y_test = templates(seed)

        def trained(
            outputs: int,
            loss: Callable[[Two, Tensor, Tensor], Tensor],
            steps: int,
            seed: int = seed,
            x: Tensor = x,
            y: Tensor = y,
        ) -> Two:
            model, generator = Two(seed, outputs), torch.Generator().manual_seed(seed)
            optimizer = torch.optim.Adam(model.parameters(), 0.001, weight_decay=1e-4)
            for _ in range(steps):
                rows = torch.randint(500, (64,), generator=generator)
                optimizer.zero_grad()
                loss(model, x[rows], y[rows]).backward()
                optimizer.step()
            return model.eval()

        def note(way: str, logits: Tensor, y_test: Tensor = y_test) -> None:
            ways.setdefault(way, []).append(100 * float((logits.argmax(1) == y_test).float().mean()))

        note("plain", trained(CLASSES, lambda m, x, y: F.cross_entropy(m(x), y), 1200)(x_test))
        turned = trained(CLASSES, lambda m, x, y: F.cross_entropy(m(SLA.augment(x)), y.repeat_interleave(4)), 300)
        note("turned, own label", turned(x_test))
        joint = trained(4 * CLASSES, lambda m, x, y: SLA.loss(m(SLA.augment(x)), y), 300)
        note("joint, one pass", SLA.single(joint(x_test)))
        note("joint, aggregated", SLA.aggregated(joint(SLA.augment(x_test))))
        both = trained(
            4 * CLASSES, lambda m, x, y: sum(SLA.distilled(m(SLA.augment(x)), m.head(m.body(x)), y), torch.zeros(())), 300
        )
        note("joint, distilled", both.head(both.body(x_test)))
    return {way: fmean(found) for way, found in ways.items()}


def aggregation() -> Measured:
    found = sla_accuracies()
    return Measured(found["joint, aggregated"] - found["plain"], None, _said(found))


def distilled_share() -> Measured:
    found = sla_accuracies()
    gain = found["joint, aggregated"] - found["joint, one pass"]
    return Measured((found["joint, distilled"] - found["joint, one pass"]) / gain, None, _said(found))


def _said(found: dict[str, float]) -> str:
    return "; ".join(f"{way} {score:.1f}%" for way, score in found.items()) + "; templates with noise, 5 seeds, equal rows"


TASKS = 5


def running_mean() -> Measured:
    """How much nearer the running mean is to the mean of all tasks than batch norm's: five tasks of 400 batches each, with
    means 0 to 4, half of every batch from a buffer of all tasks so far."""
    distances = {}
    for kappa in (None, 0.0, 0.1, 0.4, 1.0):
        layer = nn.BatchNorm1d(1) if kappa is None else AdaB2N(1, TASKS, kappa)
        holder, generator = nn.Sequential(layer), torch.Generator().manual_seed(0)
        for task in range(TASKS):
            for _ in range(400):
                old = torch.randint(task + 1, (10,), generator=generator)
                ids = torch.cat([torch.full((10,), task), old])
                x = ids[:, None] + 0.5 * torch.randn(20, 1, generator=generator)
                if kappa is None:
                    holder(x)
                else:
                    with tasks_of_batch(holder, ids):
                        holder(x)
        distances[kappa] = abs(float(layer.running_mean) - 2.0)
    note = ", ".join(f"k = {kappa} {distance:.3f}" for kappa, distance in distances.items() if kappa is not None)
    plain = distances[None]
    return Measured(
        1 - distances[0.1] / plain, None, f"distance of batch norm {plain:.3f}; {note}; phi as made; ours is k = 0.1"
    )


def online_digits() -> Measured:
    """Accuracy over batch norm on all ten digits after five tasks of two digits each, seen once, with a buffer."""
    found = {way: [_online(kappa, weight, seed) for seed in range(5)] for way, (kappa, weight) in WAYS.items()}
    mean = {way: fmean(scores) for way, scores in found.items()}
    note = "; ".join(f"{way} {score:.1f}%" for way, score in mean.items())
    best = max(mean[way] for way in WAYS if way != "batch norm")
    return Measured(best - mean["batch norm"], 7.68, f"{note}; 5 seeds, buffer of 100; ours is the best of three k")


WAYS: dict[str, tuple[float | None, float]] = {
    "batch norm": (None, 0.0), "k = 0.1": (0.1, 0.1), "k = 0.4": (0.4, 0.1), "k = 0.7": (0.7, 0.1),
}  # fmt: skip


def _online(kappa: float | None, weight: float, seed: int) -> float:
    x, y, x_test, y_test = digits()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    if kappa is not None:
        convert_batch_norm(model, TASKS, kappa)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    buffer: list[int] = []
    seen = 0
    for task in range(TASKS):
        rows = (y // 2 == task).nonzero()[:, 0]
        for new in rows[torch.randperm(len(rows), generator=generator)].split(10):
            picked = torch.randperm(len(buffer), generator=generator)[:10].tolist()
            batch = torch.cat([new, torch.tensor([buffer[i] for i in picked], dtype=torch.int64)])
            optimizer.zero_grad()
            for loss in _losses(model, x[batch], y[batch], kappa, weight):
                loss.backward()
            optimizer.step()
            for row in new.tolist():  # a reservoir
                seen += 1
                place = len(buffer) if len(buffer) < 100 else int(torch.randint(seen, (1,), generator=generator))
                if place < 100:
                    buffer[place : place + 1] = [row]
    with torch.no_grad():
        return 100 * float((model.eval()(x_test).argmax(1) == y_test).float().mean())


def _losses(model: nn.Module, x: Tensor, y: Tensor, kappa: float | None, weight: float) -> Iterator[Tensor]:
    if kappa is None:
        yield F.cross_entropy(model(x), y)
    else:
        with tasks_of_batch(model, y // 2):
            yield F.cross_entropy(model(x), y) + weight * balance_loss(model)


CHECKS = [
    Check("sla", "aggregated accuracy over plain training", "points", "higher", aggregation),
    Check("sla", "share of the aggregate's gain kept in one pass by self-distillation", "of 1", "higher", distilled_share),
    Check("adab2n", "part by which the running mean is nearer to that of all tasks", "of 1", "higher", running_mean),
    Check("adab2n", "accuracy over batch norm, online split digits", "points", "higher", online_digits),
]
