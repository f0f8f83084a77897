"""Phased and stacked fine-tuning: data in parts one after another, or all at once.

A phase takes the records with some labels (topics, levels of difficulty), goes through them in random order for a number of
epochs, and has a rate of its own that may warm up again. A stacked plan has one phase with everything.

Pareja et al. 2024, "Unveiling the Secret Recipe", arXiv 2412.13337, compared both for models of 3 to 7 billion parameters: no
significant difference, and stacked is simpler and needs fewer samples. Their other advice fits either: large batches (3840 and
7680 instead of 128) with low rates (2e-5 for Granite, 1e-6 for Mistral), constant, without warm-up, which did as well as cosine
with it. What early steps tell of the final result is in search/run_triage.py.

Orders come from the run's seed through SHAKE-256, so who has the labels computes every batch again."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.steps import derive_seed
from zkaudit.zk.sampling import shuffled

METHOD = Method(
    name="sft-phases",
    title="Phased and stacked fine-tuning",
    paper="Pareja et al. 2024, arXiv 2412.13337",
    where="zkaudit.training.mixture.phases.PhasePlan",
    changes=("data", "schedule"),
    effect="Stacked does as well as phased with fewer samples; MT-Bench 6.4 to 6.8 with batches of thousands.",
    library="",
    provable="Yes: phases, rates and orders are public; each step is an ordinary one on its batch.",
    server_sees="In phases, which kind of data a round holds; in large batches, more records behind each gradient.",
    use="""
from zkaudit.training.mixture.phases import Phase, PhasePlan, stacked

plan = PhasePlan(labels, [Phase(("facts",), 2), Phase(("skills", "facts"), 1, lr=0.5)], batch=256, run_seed="7")
plan = stacked(labels, epochs=3, batch=256, run_seed="7")  # the simpler one
loader = DataLoader(dataset, batch_sampler=plan)
scheduler = LambdaLR(optimizer, plan.lr_factor)  # stepped after every update
""",
    avoid="phases for a few epochs on little data: earlier ones are forgotten; begin with a stacked plan",
    binding="replayable",
)


@dataclass(frozen=True)
class Phase:
    """`epochs` over the records with one of these `labels` (None: all), at the rate times `lr`, after `warmup` linear steps."""

    labels: tuple[str, ...] | None
    epochs: int
    lr: float = 1.0
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or not self.lr > 0 or self.warmup < 0:
            raise TrainingError(f"a phase needs an epoch, a rate above 0 and no negative warm-up, not {self}")


class Step(NamedTuple):
    """A step's records in order, its phase, the epoch within it, and the factor of the learning rate."""

    ids: tuple[int, ...]
    phase: int
    epoch: int
    lr: float


class PhasePlan(Sampler[list[int]]):
    """The batches of all phases, for DataLoader's `batch_sampler`; `step(n)` is any of them by itself.

    `labels` (n,) are those of the records. The last batch of an epoch may be smaller; `whole_batches` leaves it out. An
    iteration is the whole plan from `first` on. TrainingError for a phase without records, naming it."""

    def __init__(
        self,
        labels: Sequence[str],
        phases: Sequence[Phase],
        batch: int,
        run_seed: str,
        *,
        whole_batches: bool = False,
        first: int = 0,
    ) -> None:
        if batch < 1 or not phases:
            raise TrainingError(f"a plan needs a phase and a batch of at least 1, not {len(phases)} phases and batch = {batch}")
        self.phases, self.batch, self.run_seed, self.first = tuple(phases), batch, run_seed, first
        self._records = [
            np.array([i for i, label in enumerate(labels) if p.labels is None or label in p.labels]) for p in phases
        ]
        for number, (phase, records) in enumerate(zip(phases, self._records, strict=True)):
            if len(records) < (batch if whole_batches else 1):
                raise TrainingError(
                    f"phase {number} has {len(records)} records with labels {phase.labels}: too few for a batch"
                )
            if missing := set(phase.labels or ()) - set(labels):
                raise TrainingError(f"phase {number} asks for label {min(missing)!r}, which no record has")
        self._each = [len(r) // batch if whole_batches else -(-len(r) // batch) for r in self._records]  # steps of an epoch
        self._ends = list(itertools.accumulate(p.epochs * each for p, each in zip(phases, self._each, strict=True)))
        self.steps = self._ends[-1]
        self._last: tuple[tuple[int, int], list[int]] = (-1, -1), []

    def step(self, number: int) -> Step:
        """Of step `number`, counted from 0; TrainingError past the end."""
        if not 0 <= number < self.steps:
            raise TrainingError(f"step {number} is outside the plan's {self.steps} steps")
        phase, within = self._locate(number)
        epoch, place = divmod(within, self._each[phase])
        order = self._order(phase, epoch)
        return Step(tuple(order[place * self.batch : (place + 1) * self.batch]), phase, epoch, self.lr_factor(number))

    def lr_factor(self, number: int) -> float:
        """For torch's LambdaLR; after the end the last one."""
        phase, within = self._locate(min(number, self.steps - 1))
        chosen = self.phases[phase]
        return chosen.lr * min(1.0, (within + 1) / (chosen.warmup + 1))

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self.first, self.steps):
            yield list(self.step(number).ids)

    def __len__(self) -> int:
        return max(0, self.steps - self.first)

    def _locate(self, number: int) -> tuple[int, int]:
        phase = bisect.bisect_right(self._ends, number)
        return phase, number - (self._ends[phase - 1] if phase else 0)

    def _order(self, phase: int, epoch: int) -> list[int]:
        """The phase's records in the order of its epoch; the last one asked for is kept, as steps come one after another."""
        if self._last[0] != (phase, epoch):
            count = sum(p.epochs for p in self.phases[:phase]) + epoch
            seed = derive_seed(self.run_seed, "mixture.phases", count).to_bytes(8, "little")
            self._last = (phase, epoch), shuffled(b"zkaudit phase", seed, 0, self._records[phase]).tolist()
        return self._last[1]


def stacked(labels: Sequence[str], epochs: int, batch: int, run_seed: str, *, whole_batches: bool = False) -> PhasePlan:
    """The plan with one phase: all records, `epochs` times."""
    return PhasePlan(labels, [Phase(None, epochs)], batch, run_seed, whole_batches=whole_batches)
