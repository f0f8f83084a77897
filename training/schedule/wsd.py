"""Warm-up, stable, decay: a schedule whose length need not be known when a run starts.

    factor(s) = (s + 1) / (W + 1)             s < W: linear warm-up, as steps are counted from 0
                1                             W <= s < D: stable
                f((s - D) / T)                D <= s < D + T: decay
                floor                         afterwards

with f one of
    exponential  floor^p         MiniCPM's 0.5^((s - D) / half-life), with half-life T log 0.5 / log floor
    linear       1 - p (1 - floor)
    cosine       floor + (1 - floor) (1 + cos(pi p)) / 2
    1-sqrt       floor + (1 - floor) (1 - sqrt p)      best in Haegele et al. 2024, arXiv:2405.18392

D may stay open: `start_decay` sets it, at any step, so that one stable run yields finished models of several lengths from its
checkpoints. Decay over the last tenth of a run is MiniCPM's choice: Hu et al. 2024, arXiv:2404.06395. Default: exponential down
to 0.1. transformers' `get_wsd_schedule` is the same with a length known from the start (its warm-up starts at 0, ours one step
later)."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="wsd",
    title="Warm-up, stable, decay",
    paper="Hu et al. 2024, arXiv:2404.06395",
    where="zkaudit.training.schedule.wsd.WSD",
    changes=("schedule",),
    effect="The loss of a cosine schedule, with the length left open: one stable phase serves many lengths.",
    library="transformers' get_wsd_schedule offers it with a fixed length; a decay that is started later is ours.",
    provable="Yes: learning rates are public, a number for each step.",
    server_sees="The plain gradient, scaled by a public factor.",
    use=(
        "from zkaudit.training.schedule.wsd import WSD\n"
        "\n"
        'scheduler = WSD(optimizer, warmup=500, decay=1000, shape="1-sqrt", floor=0.0)  # the length is left open\n'
        "scheduler.start_decay()  # at any step; from a checkpoint too"
    ),
    avoid=(
        "Losses of the stable phase say little of the finished model: compare after a decay. If the length is "
        "certain, cosine does as well."
    ),
)

SHAPES: dict[str, Callable[[float, float], float]] = {  # progress in [0, 1] and floor to a factor
    "exponential": lambda progress, floor: floor**progress,
    "linear": lambda progress, floor: 1 - progress * (1 - floor),
    "cosine": lambda progress, floor: floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2,
    "1-sqrt": lambda progress, floor: floor + (1 - floor) * (1 - math.sqrt(progress)),
}


class WSD(LRScheduler):
    """Every group's rate is its initial one times the factor above; `decay_start` None leaves the stable phase open.

    The state holds numbers and names only; loading it takes over its phases too, so that a decay that had begun goes on.
    Raises TrainingError for impossible phases, an unknown shape, or a floor outside [0, 1) (exponential: above 0).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int,
        decay: int,
        decay_start: int | None = None,
        shape: str = "exponential",
        floor: float = 0.1,
    ) -> None:
        if shape not in SHAPES:
            raise TrainingError(f"shape = {shape!r} is none of {', '.join(SHAPES)}")
        if not 0 <= floor < 1 or (shape == "exponential" and floor == 0):
            raise TrainingError(f"floor = {floor} must be below 1 and not negative, and above 0 for an exponential decay")
        if warmup < 0:
            raise TrainingError(f"warmup = {warmup} must not be negative")
        self.warmup, self.shape, self.floor = warmup, shape, floor
        self.decay, self.decay_start = _decay(decay, decay_start, warmup)
        super().__init__(optimizer)

    def start_decay(self, steps: int | None = None) -> None:
        """Decay from the coming step on, over `steps` (default: as given at first). Raises TrainingError if it has begun."""
        if self.decay_start is not None and self.last_epoch >= self.decay_start:
            raise TrainingError(f"the decay has begun at step {self.decay_start} already")
        self.decay, self.decay_start = _decay(self.decay if steps is None else steps, self.last_epoch, self.warmup)

    def factor(self, step: int) -> float:
        """What the initial rates are multiplied by in step `step`, counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1) * self.plateau(self.warmup)
        if self.decay_start is None or step < self.decay_start:
            return self.plateau(step)
        progress = min(1.0, (step - self.decay_start) / self.decay)
        return SHAPES[self.shape](progress, self.floor) * self.plateau(self.decay_start)

    def plateau(self, step: int) -> float:
        """The factor of the stable phase; here 1."""
        return 1.0

    def get_lr(self) -> list[float | Tensor]:
        factor = self.factor(self.last_epoch)
        return [base * factor for base in self.base_lrs]


def _decay(steps: int, start: int | None, warmup: int) -> tuple[int, int | None]:
    if steps < 1:
        raise TrainingError(f"decay = {steps} must be at least one step")
    if start is not None and start < warmup:
        raise TrainingError(f"decay_start = {start} lies in the warm-up of {warmup} steps")
    return steps, start
