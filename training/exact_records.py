"""RUN/steps.jsonl of an exact run: written step by step, and caught up with where a stopped run left too few records."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Self

from zkaudit.training.batch.exact import ExactBatches
from zkaudit.training.step_file import StepWriter


class ExactRecords:
    """A context manager. seed: the run's public one. data: SHA-256 of the data commitment, hex. rates: of each step.

    TrainingError if RUN holds the records of another run.
    """

    def __init__(self, folder: Path, batches: ExactBatches, seed: str, data: str, rates: Sequence[float]) -> None:
        self._writer = StepWriter(folder, seed, batches.rows, batches.rules(), columns=batches.columns(), data=data)
        self._records = islice(batches.records(rates), self._writer.step, None)

    def write(self, done: int) -> None:
        """The records of all steps before `done` that are not written yet; what goes on from a trace may have more already."""
        while self._writer.step < done:
            self._writer.write(next(self._records))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
