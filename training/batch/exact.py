"""The batches of an exact run, as its step records have them: drawn from the batch seed, by the sampler that its proof states.

Nothing in these records is free: header and records follow from a statement and its learning rates, so that whoever verifies a
proof makes them again (cli/step_records.py), and a run that was stopped writes what is missing. The batch seed itself follows
from the run's public seed and the commitments, which the proof shows and replay does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkaudit.training.errors import TrainingError
from zkaudit.training.replay import Rule, Run, SamplerRule, made
from zkaudit.training.step_file import column_digest
from zkaudit.training.steps import RunHeader, StepRecord
from zkaudit.zk.errors import BadInput
from zkaudit.zk.samplers import Buckets, Sampler, ViewBatch, read, written
from zkaudit.zk.sampling import batch_rows, view_numbers

RULE = "exact"
BLOCK = 256  # steps that are drawn at once


@dataclass(frozen=True)
class ExactBatches:
    """batch_seed: hex, as a statement has it. sampler: None for epochs that are fresh orders of all rows."""

    batch_seed: str
    rows: int
    batch: int
    sampler: Sampler | None = None

    def __post_init__(self) -> None:
        try:
            if len(bytes.fromhex(self.batch_seed)) != 32 or not 1 <= self.batch <= self.rows:
                raise ValueError("batch_seed must be 64 hexadecimal digits, and batch at most the rows")
            if self.sampler is not None:
                self.sampler.check(self.rows, self.batch)
        except (BadInput, ValueError) as error:
            raise TrainingError(f"no batches can be drawn: {error}") from None

    def stream(self, first: int) -> Iterator[dict[str, Any]]:
        """Fields of the records of step `first` and all after it, without end."""
        seed, sampler = bytes.fromhex(self.batch_seed), self.sampler
        epoch_steps = self.rows // self.batch if sampler is None else sampler.epoch_steps(self.rows, self.batch)
        for begin in count(first, BLOCK):
            if sampler is None:
                ids = batch_rows(seed, self.rows, self.batch, begin, BLOCK)
            else:
                ids = sampler.drawn(seed, self.rows, self.batch, begin, BLOCK)
            for step, rows in enumerate(ids.tolist(), begin):
                fields = {"ids": tuple(rows), "epoch": step // epoch_steps}
                if isinstance(sampler, ViewBatch):
                    fields["view_ids"] = tuple(view_numbers(self.rows, self.batch, step, 1, sampler.views)[0].tolist())
                yield fields

    def fields(self, step: int) -> dict[str, Any]:
        """Of any step."""
        return next(self.stream(step))

    def records(self, rates: Iterable[float], first: int = 0) -> Iterator[StepRecord]:
        """Of the steps from `first` on, with these learning rates, not linked yet."""
        for step, (rate, fields) in enumerate(zip(rates, self.stream(first), strict=False), first):
            yield StepRecord(step, learning_rate=rate, **fields)

    def rules(self) -> dict[str, Any]:
        """For the header; lengths are a column beside it."""
        options = None if self.sampler is None else written(self.sampler)
        if options is not None:
            options.pop("lengths", None)
        return {RULE: {"batch": self.batch, "batch_seed": self.batch_seed, "sampler": options}}

    def columns(self) -> dict[str, NDArray[np.int64]]:
        """Public integers of each row that the rule needs, by name."""
        return {"length": np.array(self.sampler.lengths, np.int64)} if isinstance(self.sampler, Buckets) else {}

    def header(self, seed: str, data: str) -> RunHeader:
        """seed: the run's public one. data: SHA-256 of the data commitment, hex."""
        digests = {name: column_digest(column) for name, column in self.columns().items()}
        return RunHeader(seed, self.rows, self.rules(), digests, data=data)


class _Ahead:
    """Fields of a step after those of the step before, which is what replay asks for, at the cost of one."""

    def __init__(self, batches: ExactBatches) -> None:
        self._batches, self._next, self._stream = batches, 0, batches.stream(0)

    def fields(self, step: int) -> Mapping[str, Any]:
        if step != self._next:
            self._stream = self._batches.stream(step)
        self._next = step + 1
        return next(self._stream)


def rule(run: Run, options: Mapping[str, Any]) -> Rule:
    """{"batch": 32, "batch_seed": "5f0c...", "sampler": {"kind": "view-batch", "views": 2}}; buckets have a column "length"."""

    def make(batch: int, batch_seed: str, sampler: dict[str, Any] | None) -> ExactBatches:
        if sampler is not None and sampler.get("kind") == Buckets.kind:
            sampler = {**sampler, "lengths": run.column("length").tolist()}
        return ExactBatches(batch_seed, run.header.rows, batch, read(sampler))

    return SamplerRule(_Ahead(made(make, RULE, options)))
