"""Regime adaptation, "train longer": a large batch gets the number of updates of a small one.

From a regime with batch B to one with batch M B:

    updates(t) = updates      epochs and milestones x M      lr x sqrt(M)

so that the update's covariance, which falls with the batch as lr^2 / B, stays as it was, and the weights, whose distance from
their start grows like log t (`log_law`), travel as far. With ghost batches (training/norm/ghost_batch.py). The linear rule, lr
x M, is Goyal et al. 2017. Hoffer, Hubara and Soudry, "Train longer, generalize better", 2017, sections 3 to 5."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="regime-adaptation",
    title="Train longer: regime adaptation",
    paper="Hoffer, Hubara, Soudry 2017, arXiv:1705.08741",
    where="zkaudit.training.schedule.regime.Regime",
    changes=("batch", "schedule"),
    effect="With as many updates as the small batch, and ghost batches, no gap in accuracy is left at batch 4096.",
    library="",
    provable="Yes: learning rates and the number of steps are public.",
    server_sees="Gradients summed over more records, as many of them as before; each record is used M times as often.",
    use=(
        "from zkaudit.training.schedule.regime import Regime\n"
        "\n"
        "regime = Regime(batch=128, lr=0.1, epochs=200, milestones=(80, 120)).adapted(4096)\n"
        "optimizer = torch.optim.SGD(model.parameters(), regime.lr, momentum=0.9)\n"
        "scheduler = regime.scheduler(optimizer, len(records))"
    ),
    avoid=(
        "When the work is to be less: it makes as many updates as the small batch, each on more records. The "
        "square-root rule is for SGD."
    ),
)

RULES = ("sqrt", "linear", "none")


@dataclass(frozen=True)
class Regime:
    """A step schedule in epochs, the form in which recipes are published: the rate times `gamma` after each milestone."""

    batch: int
    lr: float
    epochs: int
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if min(self.batch, self.epochs) < 1 or not self.lr > 0:
            raise TrainingError(f"batch = {self.batch}, epochs = {self.epochs} and lr = {self.lr} must all be positive")

    def adapted(self, batch: int, rule: str = "sqrt") -> Regime:
        """This regime for another batch size. Raises TrainingError for an unknown rule or a batch that is no multiple."""
        if rule not in RULES:
            raise TrainingError(f"rule = {rule!r} is none of {', '.join(RULES)}")
        if batch < self.batch or batch % self.batch:
            raise TrainingError(f"batch = {batch} is no multiple of {self.batch}")
        ratio = batch // self.batch
        scale = {"sqrt": math.sqrt(ratio), "linear": float(ratio), "none": 1.0}[rule]
        milestones = tuple(ratio * epoch for epoch in self.milestones)
        return replace(self, batch=batch, lr=self.lr * scale, epochs=ratio * self.epochs, milestones=milestones)

    def updates(self, records: int, epochs: int | None = None) -> int:
        """Steps in `epochs` (default: all) over `records` records, batches running on from one epoch into the next.

        HF's TrainingArguments take it as `max_steps`.
        """
        return (self.epochs if epochs is None else epochs) * records // self.batch

    def scheduler(self, optimizer: Optimizer, records: int) -> MultiStepLR:
        """torch's scheduler, stepped after every update. The optimizer is to be made with this regime's `lr`."""
        return MultiStepLR(optimizer, [self.updates(records, epoch) for epoch in self.milestones], self.gamma)


def weight_distance(now: Iterable[Tensor], start: Iterable[Tensor]) -> float:
    """Euclidean distance of all weights from where they started."""
    with torch.no_grad():
        return math.sqrt(sum(float((a.double() - b.double()).square().sum()) for a, b in zip(now, start, strict=True)))


class LogLaw(NamedTuple):
    """distance = slope log(step) + intercept, and the share of the variance that it explains."""

    slope: float
    intercept: float
    r2: float


def log_law(steps: Sequence[int], distances: Sequence[float]) -> LogLaw:
    """Least squares over at least three steps, all above 0. Raises TrainingError otherwise."""
    if len(steps) != len(distances) or len(set(steps)) < 3 or min(steps, default=0) < 1:
        raise TrainingError("log_law needs as many steps as distances, at least three different ones, all above 0")
    x, y = torch.tensor(steps, dtype=torch.float64).log(), torch.tensor(distances, dtype=torch.float64)
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    spread = float(dy @ dy)
    r2 = 1 - float((dy - slope * dx).square().sum()) / spread if spread else 1.0
    return LogLaw(slope, float(y.mean() - slope * x.mean()), r2)
