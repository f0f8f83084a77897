"""LARS and LAMB on digits at batches up to all of them in as many epochs; AGVM's variances on a net with two heads."""

from __future__ import annotations

import functools
import statistics

import torch
from methods.check import Check, Measured
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from zkaudit.training.optim.agvm import AGVM, Variances
from zkaudit.training.optim.lamb import LAMB, square_root_scaling
from zkaudit.training.optim.lars import LARS

SEEDS = (0, 1, 2)
BATCHES, EPOCHS, TRAIN = (64, 256, 1024), 20, 1024
# The best rates at batch 64 and at 1024 (before the root scaling), of a grid in half decades, seed 7
RATES = {"lamb": (0.03, 0.03), "adam": (0.03, 0.003), "lars": (10.0, 3.0), "sgd": (0.3, 0.1)}


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    return x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]


def made(kind: str, parameters: list[nn.Parameter], lr: float) -> Optimizer:
    if kind == "lamb":
        return LAMB(parameters, lr=lr)
    if kind == "adam":
        return Adam(parameters, lr=lr)
    return LARS(parameters, lr=lr) if kind == "lars" else SGD(parameters, lr=lr, momentum=0.9)


@functools.cache
def accuracy(kind: str, batch: int, seed: int, rate: float) -> float:
    """In % of the held-out digits, after the same number of epochs: rate times the root, warm-up over a tenth, linear decay."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = made(kind, list(model.parameters()), square_root_scaling(rate, batch, BATCHES[0]))
    x, y, test_x, test_y = digits()
    updates = EPOCHS * (TRAIN // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / max(1.0, updates / 10), (updates - t) / (updates * 0.9))
    )
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAIN).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return 100 * float((model(test_x).argmax(1) == test_y).float().mean())


def mean_accuracy(kind: str, batch: int, rate: float) -> float:
    return statistics.fmean(accuracy(kind, batch, seed, rate) for seed in SEEDS)


def lost(kind: str, published: float | None, note: str) -> Measured:
    """Accuracy at batch 64 less that at the largest batch, in points, with the rate that is best at 64."""
    found = {batch: mean_accuracy(kind, batch, RATES[kind][0]) for batch in BATCHES}
    shown = ", ".join(f"{value:.1f}% at {batch}" for batch, value in found.items())
    return Measured(found[BATCHES[0]] - found[BATCHES[-1]], published, f"{shown}; {EPOCHS} epochs of {TRAIN} digits{note}")


def against(kind: str, base: str, chosen: int) -> Measured:
    """`chosen` 0: rates that are best at batch 64; 1: those best at the largest batch."""
    ours, other = (mean_accuracy(name, BATCHES[-1], RATES[name][chosen]) for name in (kind, base))
    return Measured(ours - other, None, f"{ours:.1f}% against {other:.1f}%, mean of {len(SEEDS)} seeds")


class TwoHeads(nn.Module):
    """Convolutions, a head that names the digit, and one that draws the image again."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()
        )
        self.name, self.image = nn.Linear(256, 10), nn.Linear(256, 64)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        features = self.backbone(x.view(-1, 1, 8, 8)).flatten(1)
        return F.cross_entropy(self.name(features), y) + F.mse_loss(self.image(features), x)


BATCH, UPDATES = 512, 240


@functools.cache
def run(modulated: bool, seed: int) -> tuple[list[list[float]], float]:
    """d_i phi_i^2 and d_i of the three modules, averaged over the run's last half, and the mean loss of its last quarter."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = TwoHeads()
    groups = [{"params": list(part.parameters())} for part in (model.backbone, model.name, model.image)]
    agvm = AGVM(SGD(groups, lr=0.1, momentum=0.9), Variances(every=1, warm_up=20))
    x, y, _, _ = digits()
    of_updates, of_gradients, losses = [], [], []
    for update in range(UPDATES):
        agvm.zero_grad()
        for half in torch.randperm(TRAIN)[:BATCH].chunk(2):
            loss = model.loss(x[half], y[half])
            (loss / 2).backward()
        factors = list(agvm.factors)
        agvm.measure()
        if not modulated:
            agvm.factors = factors = [1.0] * len(groups)
        agvm.step()
        losses.append(loss.item())
        if update >= UPDATES // 2:
            of_gradients.append(agvm.distances)
            of_updates.append([d * phi**2 for d, phi in zip(agvm.distances, factors, strict=True)])
    means = [[statistics.fmean(column) for column in zip(*rows, strict=True)] for rows in (of_updates, of_gradients)]
    return means, statistics.fmean(losses[UPDATES * 3 // 4 :])


def variance_ratio(which: int, published: float | None) -> Measured:
    """Largest over least of the modules' variances; `which` 0: of the updates, 1: of the gradients."""
    runs = {modulated: [run(modulated, seed) for seed in SEEDS] for modulated in (True, False)}
    ratio = {on: statistics.fmean(max(means[which]) / min(means[which]) for means, _ in runs[on]) for on in runs}
    loss = {on: statistics.fmean(loss for _, loss in runs[on]) for on in runs}
    note = f"{ratio[False]:.2f} without it; losses {loss[True]:.3f} with and {loss[False]:.3f} without"
    return Measured(ratio[True], published, f"{note}; digits, batch {BATCH}, {UPDATES} updates of SGD")


BEST = "accuracy over {}'s at batch 1024, rates best at {}"
CHECKS = [
    Check(
        "lamb", "accuracy lost from batch 64 to 1024", "points", "lower", lambda: lost("lamb", 0.0, "; published: BERT to 32k")
    ),
    Check("lamb", BEST.format("Adam", 64), "points", "higher", lambda: against("lamb", "adam", 0)),
    Check("lamb", BEST.format("Adam", 1024), "points", "higher", lambda: against("lamb", "adam", 1)),
    Check(
        "lars",
        "accuracy lost from batch 64 to 1024",
        "points",
        "lower",
        lambda: lost("lars", 0.0, "; published: ResNet-50 to 32k"),
    ),
    Check("lars", BEST.format("SGD", 64), "points", "higher", lambda: against("lars", "sgd", 0)),
    Check("lars", BEST.format("SGD", 1024), "points", "higher", lambda: against("lars", "sgd", 1)),
    Check("agvm", "largest over least variance of the modules' updates", "ratio", "lower", lambda: variance_ratio(0, 1.0)),
    Check("agvm", "largest over least variance of their gradients", "ratio", "lower", lambda: variance_ratio(1, None)),
]
