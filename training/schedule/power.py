"""Power scheduler: rates that fit any number of tokens and any batch size.

After n tokens, with batches of beta sequences,

    lr = min(lr_max, beta a n^b)

in place of the constant of a warm-up, stable, decay schedule (wsd.py): warm-up is linear to the value at its end, decay starts
from the value at its start. Shen et al., "Power Scheduler: A Batch Size and Token Number Agnostic Learning Rate Scheduler",
2024, arXiv:2408.13359: a = 4.6 (4 for mixtures of experts), b = -0.51 and lr_max = 0.02, found with AdamW and muP on sequences
of 4096 tokens. a and b belong to a parametrisation and an optimizer: without muP, `fit_power` finds them from the best rates of
small runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch.optim import Optimizer

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.schedule.wsd import WSD

METHOD = Method(
    name="power-scheduler",
    title="Power scheduler",
    paper="Shen et al. 2024, arXiv:2408.13359",
    where="zkaudit.training.schedule.power.PowerLR",
    changes=("schedule",),
    effect="One pair (a, b), found in small runs, serves all token counts and batch sizes; with muP also model sizes.",
    library="",
    provable="Yes: learning rates are public, a number for each step.",
    server_sees="The plain gradient, scaled by a public factor.",
    use=(
        "from zkaudit.training.schedule.power import PowerLR\n"
        "\n"
        "optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)  # lr_max\n"
        "scheduler = PowerLR(optimizer, batch=64, tokens=64 * 4096, warmup=500, decay=1000)\n"
        "scheduler.start_decay()  # when the end is near; a number of steps may be given"
    ),
    avoid=(
        "With the published a and b for another parametrisation than muP or another optimizer: find them first in "
        "small runs (`fit_power`)."
    ),
)


class PowerLR(WSD):
    """`batch` is in sequences, `tokens` the tokens of one step. The groups' own rates are lr_max (0.02 in the paper) and keep
    their ratios.

    So AdamW(parameters, lr=0.02) with PowerLR(optimizer, batch=64, tokens=64 * 4096, warmup=500, decay=1000).
    a n^b counts with the first group's rate as lr_max. Other arguments, and errors, as for WSD.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        batch: int,
        tokens: int,
        warmup: int,
        decay: int,
        decay_start: int | None = None,
        shape: str = "exponential",
        floor: float = 0.1,
        a: float = 4.6,
        b: float = -0.51,
    ) -> None:
        if batch < 1 or tokens < batch:
            raise TrainingError(f"batch = {batch} sequences and tokens = {tokens} of them: need 1 <= batch <= tokens")
        if not a > 0 or not b <= 0:
            raise TrainingError(f"a = {a} must be positive and b = {b} must not be")
        self.batch, self.tokens, self.a, self.b = batch, tokens, a, b
        self.lr_max = float(optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"]))
        if not self.lr_max > 0:
            raise TrainingError(f"the first group's rate, {self.lr_max}, is lr_max and must be positive")
        super().__init__(optimizer, warmup, decay, decay_start, shape, floor)

    def plateau(self, step: int) -> float:
        if step == 0:
            return 1.0
        return min(1.0, self.batch * self.a * math.pow(step * self.tokens, self.b) / self.lr_max)


class Best(NamedTuple):
    """The best rate that was found for runs of `tokens` tokens in batches of `batch` sequences."""

    tokens: int
    batch: int
    rate: float


class Power(NamedTuple):
    """lr = batch a n^b."""

    a: float
    b: float


def fit_power(found: Sequence[Best]) -> Power:
    """Least squares of log(rate / batch) = log a + b log tokens. Raises TrainingError for fewer than two different token
    counts."""
    if len({best.tokens for best in found}) < 2:
        raise TrainingError("fit_power needs the best rates for at least two numbers of tokens")
    x = [math.log(best.tokens) for best in found]
    y = [math.log(best.rate / best.batch) for best in found]
    centre, height = sum(x) / len(x), sum(y) / len(y)
    b = sum((u - centre) * (v - height) for u, v in zip(x, y, strict=True)) / sum((u - centre) ** 2 for u in x)
    return Power(math.exp(height - b * centre), b)
