"""Hard-batch repetition: after one ordinary epoch, only the batches whose loss was highest are visited again and again.

The rows are cut once into b batches. Epoch 0 visits all of them and remembers their losses; every round after it visits the
floor(delta b) with the highest remembered loss, in the order of their numbers, and renews those losses, until epochs * b
updates are done. Ties go to the lower number; losses are compared as integers, in units of 2^-20.

Sahayam, Zakkam, Jayaraman, "Can we learn better with hard samples?", 2023, arXiv:2304.03486; delta 0.5, from 0.2 to 0.8 there.
A batch drawn at random has nearly the loss of any other: the rule bites where batches hold one class each, or row by row
(`granularity` "sample"), where each round takes that share of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from torch import Tensor

from zkaudit.training.batch.sampler import RecordedSampler
from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.replay import Lacking, Rule, Run, made
from zkaudit.training.steps import StepRecord
from zkaudit.zk.sampling import shuffled

METHOD = Method(
    name="hard-batch",
    title="Hard-batch repetition (DyBAT)",
    paper="Sahayam, Zakkam, Jayaraman 2023, arXiv:2304.03486",
    where="zkaudit.training.batch.hard_batch.HardBatchSampler",
    changes=("batch", "schedule"),
    effect="26.47% fewer epochs (EfficientNet-B4, STL-10), +7.26% top-1 (ResNet-18, CIFAR-100); mixed on CIFAR-10.",
    library="",
    provable="The choice is a sort of recorded losses, which replay repeats; no relation for it is written yet.",
    server_sees="Several gradients of the same fixed batch, whose noise can be averaged away: easier to invert.",
    use=(
        "from zkaudit.training.batch.hard_batch import HardBatchSampler\n"
        "\n"
        'sampler = HardBatchSampler(len(data), batch=64, epochs=10, delta=0.5, run_seed="public")\n'
        "for batch in DataLoader(data, batch_sampler=sampler):  # without workers\n"
        "    scores = sampler.report(step(batch))  # the batch's loss; the record's `scores`"
    ),
    avoid="Noisy labels, which stay hard for ever; high rates, at which batches of one class unlearn the others.",
    binding="replayable",
)

UNIT = 20  # fractional bits of a loss
LARGEST_LOSS = 1 << 40


class HardBatchSampler(RecordedSampler):
    """epochs * ceil(rows / batch) batches; see RecordedSampler. After each, `report` its loss before the next is asked for.

    granularity: "batch", or "sample", where losses are reported row by row. refresh: renew the losses of what is visited
    again. shuffle: cut an order drawn from the run's seed, not the rows as they stand. The last batch of a pass may be short.
    """

    def __init__(
        self,
        rows: int,
        batch: int,
        epochs: int,
        delta: float = 0.5,
        *,
        granularity: str = "batch",
        refresh: bool = True,
        shuffle: bool = True,
        run_seed: str,
    ) -> None:
        if not 1 <= batch <= rows:
            raise TrainingError(f"batch = {batch} cannot be drawn from {rows} rows")
        if not 0 < delta <= 1:
            raise TrainingError(f"delta = {delta} must be above 0 and at most 1")
        if granularity not in ("batch", "sample"):
            raise TrainingError(f"granularity = {granularity!r} must be 'batch' or 'sample'")
        super().__init__(run_seed, epochs * -(-rows // batch))
        everything = np.arange(rows)
        order = shuffled(b"zkaudit partition", self.seed, 0, everything).tolist() if shuffle else everything.tolist()
        self.by_sample, self.refresh = granularity == "sample", refresh
        step = 1 if self.by_sample else batch
        self.units = [tuple(order[start : start + step]) for start in range(0, rows, step)]
        self.units_of_a_step = batch if self.by_sample else 1
        self.chosen_of_a_round = max(1, math.floor(Fraction(str(delta)) * len(self.units)))
        self.losses = [0] * len(self.units)
        self.round, self.place, self.reported = 0, 0, 0
        self.visited = list(range(len(self.units)))  # this round's units, in order

    def fields(self, step: int) -> dict[str, Any]:
        """Of the step that comes next: those after it depend on losses. TrainingError for any other."""
        if step != self.reported:
            raise TrainingError(
                f"step {step} was asked for when {self.reported} losses had been reported: report each before the next batch, "
                "and use no loader workers"
            )
        return {"ids": tuple(row for unit in self._current() for row in self.units[unit]), "epoch": self.round}

    def report(self, loss: float | Tensor | Sequence[float]) -> tuple[tuple[int, ...], ...]:
        """Take the loss of the last batch, or of each of its rows; returns the record's `scores`.

        TrainingError if it is not finite, too large, or of another number of rows.
        """
        values = loss.detach().double().reshape(-1).tolist() if isinstance(loss, Tensor) else loss
        listed = [values] if isinstance(values, float | int) else list(values)
        for value in listed:
            if not math.isfinite(value) or abs(value) > LARGEST_LOSS >> UNIT:
                raise TrainingError(f"the loss of step {self.reported} is {value}: it cannot be compared with others")
        scores = tuple((round(value * (1 << UNIT)),) for value in listed)
        self.take(scores)
        return scores

    def take(self, scores: tuple[tuple[int, ...], ...]) -> None:
        """Go on after a step with these recorded losses."""
        current = self._current()
        if [len(score) for score in scores] != [1] * len(current):
            raise TrainingError(f"{len(current)} losses belong to step {self.reported}, one integer each")
        if self.refresh or self.round == 0:
            for unit, (loss,) in zip(current, scores, strict=True):
                self.losses[unit] = loss
        self.reported += 1
        self.place += len(current)
        if self.place == len(self.visited):
            key = [(-loss, unit) for loss, unit in zip(self.losses, self.units, strict=True)]
            if not self.by_sample:
                key = [(-loss, (number,)) for number, loss in enumerate(self.losses)]
            hardest = sorted(range(len(self.units)), key=key.__getitem__)[: self.chosen_of_a_round]
            self.visited, self.place, self.round = sorted(hardest), 0, self.round + 1

    def state_dict(self) -> dict[str, Any]:
        state = {"losses": list(self.losses), "visited": list(self.visited), "place": self.place, "round": self.round}
        return super().state_dict() | {"step": self.reported} | state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.reported, self.round, self.place = state["step"], state["round"], state["place"]
        self.losses, self.visited = list(state["losses"]), list(state["visited"])

    def _current(self) -> list[int]:
        return self.visited[self.place : self.place + self.units_of_a_step]

    def stream(self, first: int) -> Any:
        raise TrainingError("later batches depend on losses: there is no stream of them")


class _HardBatchRule:
    selects = False

    def __init__(self, sampler: HardBatchSampler) -> None:
        self.sampler = sampler

    def expected(self, record: StepRecord) -> Mapping[str, Any]:
        chosen = self.sampler.fields(record.step)
        wanted = len(chosen["ids"]) if self.sampler.by_sample else 1
        if [len(score) for score in record.scores] != [1] * wanted:
            raise Lacking("scores", f"{wanted} losses")
        return chosen

    def after(self, record: StepRecord) -> None:
        self.sampler.take(record.scores)


def rule(run: Run, options: Mapping[str, Any]) -> Rule:
    """{"batch": 64, "epochs": 10, "delta": 0.5, "granularity": "batch", "refresh": true, "shuffle": true}"""

    def make(
        batch: int, epochs: int, delta: float, granularity: str = "batch", refresh: bool = True, shuffle: bool = True
    ) -> HardBatchSampler:
        return HardBatchSampler(
            run.header.rows,
            batch,
            epochs,
            delta,
            granularity=granularity,
            refresh=refresh,
            shuffle=shuffle,
            run_seed=run.header.run_seed,
        )

    return _HardBatchRule(made(make, "hard-batch", options))
