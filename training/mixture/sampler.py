"""Rows for a mixture that changes: each place of a batch draws a source by the step's shares, then that source's next row.

A source's rows come in an order of their own for each pass over it, drawn from the run's seed, and none comes twice before all
have come once. So from the seed, the labels and the shares that records hold, every batch can be had again; the shares are the
mixer's (skill_it.py says how those follow from recorded losses)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from zkaudit.training.errors import TrainingError
from zkaudit.training.mixture.draw import draw_sources, whole_shares
from zkaudit.training.replay import Lacking, Rule, Run, made
from zkaudit.training.steps import StepRecord, derive_seed
from zkaudit.zk.sampling import shuffled

Mixture = Mapping[str, float]


class SourceRows:
    """Where a run stands in each source of `labels` (n,): `taken` rows of each so far."""

    def __init__(self, labels: Sequence[str], run_seed: str) -> None:
        self.run_seed = run_seed
        self.rows = {name: np.flatnonzero([label == name for label in labels]) for name in sorted(set(labels))}
        self.taken = dict.fromkeys(self.rows, 0)
        self._order: dict[str, tuple[int, list[int]]] = {}

    def next(self, mixture: Mixture, batch: int, step: int) -> tuple[int, ...]:
        """The rows of step `step`, which no longer stand before the next ones. TrainingError for a source without rows."""
        if unknown := [name for name in mixture if name not in self.rows]:
            raise TrainingError(f"the mixture has source {unknown[0]!r}, which no row has; there are {', '.join(self.rows)}")
        names = sorted(mixture)
        shares = whole_shares([Fraction(mixture[name]) for name in names])
        drawn = draw_sources(shares, batch, derive_seed(self.run_seed, "mixture sources", step))
        return tuple(self._next_of(names[source]) for source in drawn)

    def _next_of(self, name: str) -> int:
        turn, place = divmod(self.taken[name], len(self.rows[name]))
        self.taken[name] += 1
        if name not in self._order or self._order[name][0] != turn:
            seed = derive_seed(self.run_seed, f"mixture rows {name}", turn).to_bytes(8, "little")
            self._order[name] = turn, shuffled(b"zkaudit source", seed, 0, self.rows[name]).tolist()
        return self._order[name][1][place]


class MixtureSampler(Sampler[list[int]]):
    """A batch sampler over `steps` steps in all; `mixture` is asked for the shares of each step before it is drawn.

        sampler = MixtureSampler(labels, lambda: dict(zip(skills, mixer.mixture)), batch=32, run_seed="7", steps=6000)

    `last` has the fields of the latest step's record. `state_dict` says where it stands, a loaded sampler goes on there. Use no
    loader workers: they draw batches before the mixture is known."""

    def __init__(self, labels: Sequence[str], mixture: Callable[[], Mixture], batch: int, *, run_seed: str, steps: int) -> None:
        if batch < 1 or steps < 1 or not labels:
            raise TrainingError(f"batch = {batch}, steps = {steps} and the {len(labels)} labels must all be at least 1")
        self.mixture, self.batch, self.steps, self.step = mixture, batch, steps, 0
        self.last: dict[str, Any] = {}
        self._source_rows = SourceRows(labels, run_seed)

    def __iter__(self) -> Iterator[list[int]]:
        while self.step < self.steps:
            mixture = {name: float(share) for name, share in self.mixture().items()}
            ids = self._source_rows.next(mixture, self.batch, self.step)
            self.last = {"step": self.step, "ids": ids, "mixture": mixture}
            self.step += 1
            yield list(ids)

    def __len__(self) -> int:
        return self.steps - self.step

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "run_seed": self._source_rows.run_seed, "taken": dict(self._source_rows.taken)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["run_seed"] != self._source_rows.run_seed or state["taken"].keys() != self._source_rows.rows.keys():
            raise TrainingError("the saved sampler belongs to another run seed or to rows with other labels")
        self.step, self._source_rows.taken = state["step"], dict(state["taken"])


class _Mixed:
    selects = False

    def __init__(self, source_rows: SourceRows, batch: int) -> None:
        self.source_rows, self.batch = source_rows, batch

    def expected(self, record: StepRecord) -> Mapping[str, Any]:
        if not any(record.mixture.values()):
            raise Lacking("mixture", "the share of each source, one above 0")
        if unknown := [name for name in record.mixture if name not in self.source_rows.rows]:
            raise Lacking("mixture", f"shares of sources that rows have, unlike {unknown[0]!r}")
        return {"ids": self.source_rows.next(record.mixture, self.batch, record.step)}

    def after(self, record: StepRecord) -> None:
        pass


def rule(run: Run, options: Mapping[str, Any]) -> Rule:
    """{"batch": 32}, with a column "source": the rows that each step's shares draw; the shares are taken as recorded."""

    def make(batch: int) -> _Mixed:
        if type(batch) is not int or batch < 1:
            raise ValueError(f"batch = {batch!r} must be at least 1")
        return _Mixed(SourceRows([str(source) for source in run.column("source").tolist()], run.header.run_seed), batch)

    found: Rule = made(make, "mixture", options)
    return found
