"""Real proofs of segments one after another, in memory: each may state what its prover likes and is honest otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from zkaudit.zk.argument import Phases
from zkaudit.zk.backend import HOST, Place
from zkaudit.zk.channel import Blinder
from zkaudit.zk.engine.job import prove_segment
from zkaudit.zk.layout import Layout
from zkaudit.zk.opening import Opening
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.sampling import batch_rows
from zkaudit.zk.statement import Statement, derive_batch_seed, end_bound
from zkaudit.zk.tables import data_tables, weight_tables
from zkaudit.zk.testing.segments import MemoryTrace, end_weights, opened, trained, witness_of

Data = tuple[Any, Any, list[Any]]  # inputs, targets, start weights


@dataclass(frozen=True)
class Segment:
    """A proved segment, and the openings that the next one needs."""

    file: ProofFile
    weights: list[Any]  # at its end
    openings: list[Opening]  # data, start, end


class _Later(MemoryTrace):
    """The trace of a segment that does not begin at step 0."""

    first: int

    def _steps(self, name: str, kind: str, shape: tuple[int, ...], first: int, steps: int, place: Place = HOST) -> Any:
        return super()._steps(name, kind, shape, first - self.first, steps, place)


def first_segment(statement: Statement, data: Data, standing_still: bool = False) -> Segment:
    """Commits to data and start weights, fixes the batches, trains and proves. If `standing_still`, training changes nothing,
    and the end commitment is the start's."""
    layout = Layout(statement)
    of_data = opened(statement, layout.data, data_tables(layout, data[0], data[1]), Blinder())
    start = opened(statement, layout.start, weight_tables(layout, "start", data[2]), Blinder())
    statement = replace(statement, data=of_data.commitment, start=start.commitment)
    statement = replace(statement, batch_seed=derive_batch_seed(statement))
    return _proved(statement, data, of_data, start, start if standing_still else None)


def next_segment(before: Segment, data: Data, recommit: bool = False, **changes: Any) -> Segment:
    """The segment after `before`, with some of its statement's fields changed; `data` are its own inputs and targets, which it
    commits to anew if `recommit`."""
    s = before.file.statement
    of_data, _, start = before.openings
    statement = replace(
        s, segment=s.segment + 1, first_step=s.first_step + s.steps, start=start.commitment, start_bound=end_bound(s),
        previous=s.digest(),
    )  # fmt: skip
    if recommit:
        layout = Layout(statement)
        of_data = opened(statement, layout.data, data_tables(layout, data[0], data[1]), Blinder())
    statement = replace(statement, data=of_data.commitment, **changes)
    return _proved(statement, (data[0], data[1], before.weights), of_data, start)


def _proved(statement: Statement, data: Data, of_data: Opening, start: Opening, end: Opening | None = None) -> Segment:
    s = statement
    batches = batch_rows(bytes.fromhex(s.batch_seed), s.rows, s.batch, s.first_step, s.steps)
    trace = trained(s, data, batches=batches)
    later = _Later(trace.folder, {**trace.manifest, "steps": s.first_step + s.steps})
    later.__dict__.update({**trace.__dict__, "manifest": later.manifest, "states": {s.first_step: trace.states[0]}})
    later.__dict__["first"] = s.first_step
    witness = witness_of(s, later, batches)
    end = end or opened(s, Layout(s).end, witness.tables, Blinder())
    statement = replace(s, end=end.commitment)
    witness = type(witness)(Layout(statement), witness.tables, batches)
    openings = [of_data, start, end]
    file = prove_segment(statement, witness, openings, Blinder(), Phases())
    return Segment(file, end_weights(trace, s.layers), openings)
