"""How many records are behind each step's gradient, as a run's own records tell: the fewer, the easier each is to recover.

    distinct_records = number of different records among a step's rows
    effective_n      = (sum_r w_r)^2 / sum_r w_r^2         w_r: the weights of all rows of record r, together

Two views of a record are one record here, and of a record that weighs as much as all others together half is seen, whatever
their number. If the run has a public column "record" (of which document a piece is), records are those; otherwise rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zkaudit.attacks.errors import AuditError
from zkaudit.training.errors import TrainingError
from zkaudit.training.step_file import StepFile
from zkaudit.training.steps import StepRecord


@dataclass(frozen=True)
class StepExposure:
    """One step: rows trained on, different records among them, and how many of equal weight would be as exposed."""

    step: int
    rows: int
    distinct_records: int
    effective_n: float


@dataclass(frozen=True)
class RecordExposure:
    """All steps, and how often the record that was seen most was behind a gradient."""

    steps: tuple[StepExposure, ...]
    most_seen: int
    times: int

    @property
    def worst(self) -> StepExposure:
        """The first step with the smallest effective number."""
        return min(self.steps, key=lambda step: (step.effective_n, step.step))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "worst": asdict(self.worst)}

    def lines(self) -> list[str]:
        """For a terminal."""
        numbers = sorted(step.effective_n for step in self.steps)
        worst, median = self.worst, numbers[len(numbers) // 2]
        return [
            f"records behind a gradient: as {median:.4g} of equal weight, median of {len(numbers)} steps",
            f"fewest: step {worst.step}, {worst.rows} rows of {worst.distinct_records} records, as {worst.effective_n:.4g}",
            f"seen most: record {self.most_seen}, in {self.times} steps",
        ]


def measure_records(folder: Path) -> RecordExposure:
    """Of the run whose steps.jsonl is in `folder`. AuditError if it cannot be read, or holds no step."""
    try:
        file = StepFile(folder)
        column = file.columns.get("record")
        owner = None if column is None else column.tolist()
        seen: dict[int, int] = defaultdict(int)
        steps = []
        for record in file.records():
            weights = record_weights(record, owner)
            for which, weight in weights.items():
                seen[which] += weight > 0
            steps.append(exposure(record.step, len(record.ids), weights))
    except TrainingError as error:
        raise AuditError(str(error)) from None
    if not steps:
        raise AuditError(f"{folder} records no step, so there is no gradient to measure")
    most = min(seen, key=lambda which: (-seen[which], which))
    return RecordExposure(tuple(steps), most, seen[most])


def exposures(records: Sequence[StepRecord], owner: Sequence[int] | None = None) -> Iterator[StepExposure]:
    """Step by step; `owner` has for each row the record that it is of."""
    for record in records:
        yield exposure(record.step, len(record.ids), record_weights(record, owner))


def record_weights(record: StepRecord, owner: Sequence[int] | None = None) -> dict[int, float]:
    """Record -> the weights of its rows in the step together, over the largest of a row."""
    found: dict[int, float] = defaultdict(float)
    largest = max(record.weights, default=1.0)
    for place, row in enumerate(record.ids):
        found[row if owner is None else owner[row]] += record.weights[place] / largest if record.weights else 1.0
    return dict(found)


def exposure(step: int, rows: int, weights: Mapping[int, float]) -> StepExposure:
    """From the weight of each record; those of weight 0 are behind no gradient."""
    there = [weight for weight in weights.values() if weight > 0]
    return StepExposure(step, rows, len(there), sum(there) ** 2 / sum(weight**2 for weight in there))
