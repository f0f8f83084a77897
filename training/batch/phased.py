"""The rule by which replay repeats a phase plan (mixture/phases.py): its records in the orders that the run's seed gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zkaudit.training.mixture.phases import Phase, PhasePlan
from zkaudit.training.replay import Lacking, Rule, Run, made
from zkaudit.training.steps import StepRecord


class _Phased:
    selects = False

    def __init__(self, plan: PhasePlan) -> None:
        self.plan = plan

    def expected(self, record: StepRecord) -> Mapping[str, Any]:
        if record.step >= self.plan.steps:
            raise Lacking("step", f"one of the plan's {self.plan.steps}")
        step = self.plan.step(record.step)
        return {"ids": step.ids, "epoch": step.epoch}

    def after(self, record: StepRecord) -> None:
        pass


def rule(run: Run, options: Mapping[str, Any]) -> Rule:
    """{"batch": 8, "phases": [[[0, 2], 3], [null, 1]], "whole_batches": false}: labels and epochs of each phase, where null
    is all labels; with a column "label"."""

    def make(batch: int, phases: Sequence[tuple[list[int] | None, int]], whole_batches: bool = False) -> _Phased:
        named = [Phase(None if labels is None else tuple(map(str, labels)), epochs) for labels, epochs in phases]
        of_rows = [str(label) for label in run.column("label").tolist()]
        return _Phased(PhasePlan(of_rows, named, batch, run.header.run_seed, whole_batches=whole_batches))

    found: Rule = made(make, "sft-phases", options)
    return found
