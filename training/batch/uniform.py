"""Uniform batches: each epoch a fresh order of all rows, drawn as the batches of a proved run are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from zkaudit.training.batch.sampler import RecordedSampler
from zkaudit.training.errors import TrainingError
from zkaudit.training.replay import Rule, Run, SamplerRule, made
from zkaudit.zk.sampling import batch_rows

BLOCK = 256  # steps that are drawn at once


class UniformSampler(RecordedSampler):
    """`rows` // `batch` steps an epoch; rows that are left over wait for another epoch."""

    def __init__(self, rows: int, batch: int, *, run_seed: str, steps: int) -> None:
        super().__init__(run_seed, steps)
        if not 1 <= batch <= rows:
            raise TrainingError(f"batch = {batch} cannot be drawn from {rows} rows")
        self.rows, self.batch = rows, batch

    def stream(self, first: int) -> Iterator[dict[str, Any]]:
        for begin in count(first, BLOCK):
            for step, ids in enumerate(batch_rows(self.seed, self.rows, self.batch, begin, BLOCK).tolist(), begin):
                yield {"ids": tuple(ids), "epoch": step // (self.rows // self.batch)}


def rule(run: Run, options: Mapping[str, Any]) -> Rule:
    """{"batch": 32}"""

    def make(batch: int) -> UniformSampler:
        return UniformSampler(run.header.rows, batch, run_seed=run.header.run_seed, steps=1)

    return SamplerRule(made(make, "uniform", options))
