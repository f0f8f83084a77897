"""Planning a run: the statement of every segment, before any of them is proved.

Segments form a chain, but a statement names only commitments to the weights at its two ends, the digest of the statement before
it and the bound that this one hands on: never a proof. So once the weights at every boundary are committed to, all statements
are known, and their proofs can be made in any order and anywhere (engine/).

The weights at a boundary are the last ones that the trace stores before it, and the updates since. Planning walks the trace
forward and reads no step twice; a boundary at the end of a chunk, whose weights are stored, costs its commitment only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zkaudit.zk.backend import HOST, Place
from zkaudit.zk.block import padded
from zkaudit.zk.channel import Blinder
from zkaudit.zk.circuit import energy
from zkaudit.zk.errors import BadInput
from zkaudit.zk.gathered import is_wide
from zkaudit.zk.layout import Layout, choose_columns
from zkaudit.zk.opening import Opening, data_path, load, load_or_commit, weights_path
from zkaudit.zk.records import Records
from zkaudit.zk.statement import Statement, check, derive_batch_seed, end_bound, first_start_bound
from zkaudit.zk.tables import data_tables, weight_tables
from zkaudit.zk.trace import Integers, Trace
from zkaudit.zk.witness import segment_witness

WIDE_ENTRY_BYTES = 24  # memory that proving takes, at most, for each entry of tables that `gathered` never writes out
ENTRY_BYTES = 48  # for each entry of other tables


def first_statement(run: Path, trace: Trace, blinder: Blinder, place: Place = HOST) -> Statement:
    """The first segment's statement with all steps and no end yet; commits to data and start weights unless that is done.

    The openings are kept in RUN/openings. Commitments are made at `place`.
    """
    statement = _of_trace(trace)
    fitting = _fitting_steps(statement, place)
    layout = Layout(replace(statement, rates=statement.rates[:fitting]))
    # Once data are committed to, the row length is that of their commitment: memory, which bounds segments, may have changed.
    columns = load(data_path(run)).columns if data_path(run).exists() else choose_columns(layout.blocks)
    statement = replace(statement, columns=columns, start_bound=first_start_bound(statement))
    layout = Layout(statement)
    check(replace(statement, rates=statement.rates[:fitting]))
    (run / "openings").mkdir(mode=0o700, exist_ok=True)
    values, frozen, weights = trace.data(), trace.frozen(), trace.state_before(0)[1]

    def tables_of_data() -> Mapping[str, Any]:
        return {name: place.put(table) for name, table in data_tables(layout, *values, frozen).items()}

    def tables_of_weights() -> Mapping[str, Any]:
        return weight_tables(layout, "start", weights, place)

    columns, child = statement.columns, blinder.child
    data = load_or_commit(data_path(run), layout.data, [*values, *frozen], tables_of_data, columns, child("data"))
    start = load_or_commit(weights_path(run, 0), layout.start, weights, tables_of_weights, columns, child("weights 0"))
    statement = replace(statement, data=data.commitment, start=start.commitment)
    return replace(statement, batch_seed=derive_batch_seed(statement))


def plan(run: Path, trace: Trace, segment_steps: int | None, blinder: Blinder, place: Place = HOST) -> list[Statement]:
    """The statements of all segments, `segment_steps` steps each, by default as many as fit in memory.

    Commits to the weights at every boundary, unless RUN/openings has them already. BadInput for what cannot be stated.
    """
    if segment_steps is not None and segment_steps < 1:
        raise BadInput("a segment needs at least one step")
    statement = first_statement(run, trace, blinder, place)
    rates, records = statement.rates, Records(run) if trace.has_records else None
    length = _segment_length(statement, segment_steps or _fitting_steps(statement, place))
    statements = []
    for first in range(0, trace.steps, length):
        statement = replace(statement, rates=rates[first : first + length])
        if records is not None:
            statement = replace(statement, records=records.head_after(trace.batches(first, statement.steps)))
        end, trace = _end_opening(run, trace, statement, blinder, place)
        statement = replace(statement, end=end.commitment)
        check(statement)
        statements.append(statement)
        statement = replace(
            statement, segment=statement.segment + 1, first_step=first + statement.steps, start_bound=end_bound(statement),
            previous=statement.digest(), start=statement.end, end=b"",
        )  # fmt: skip
    return statements


def _segment_length(statement: Statement, wanted: int) -> int:
    """Steps of a segment, at most the run's; segments begin where GaLore's periods do, so they have whole ones."""
    if statement.galore is not None and wanted < statement.steps:
        wanted = max(1, wanted // statement.galore.gap) * statement.galore.gap
    return min(wanted, statement.steps)


def proving_bytes(trace: Trace, segment_steps: int | None) -> int:
    """About the memory that proving the largest segment takes, at most half of this machine's; segments as in `plan`."""
    statement = _of_trace(trace)
    steps = _segment_length(statement, segment_steps or _fitting_steps(statement, HOST))
    layout = Layout(replace(statement, rates=statement.rates[:steps]))
    return min(table_bytes(layout), memory_bytes() // 2)


def table_bytes(layout: Layout) -> int:
    """A bound on the memory that proving a segment takes beyond what the program itself takes."""
    entries = sum(
        block.size * (WIDE_ENTRY_BYTES if is_wide(block.highs, block.lows) else ENTRY_BYTES) for block in layout.blocks
    )
    return entries + energy.table_bytes(layout.statement)


def openings(run: Path, statement: Statement) -> list[Opening]:
    """The openings of a planned statement's data, start and end commitments; BadInput if RUN/openings has others."""
    start, end = statement.first_step, statement.first_step + statement.steps
    paths = [data_path(run), weights_path(run, start), weights_path(run, end)]
    found = [load(path) for path in paths]
    for path, opening, commitment in zip(paths, found, (statement.data, statement.start, statement.end), strict=True):
        if opening.commitment != commitment:
            raise BadInput(f"{path} has changed since the segments were planned")
    return found


def weights_before(trace: Trace, statement: Statement, step: int) -> list[Integers]:
    """The weights before `step`, one (d + 1, outputs) matrix a layer; `statement` says in which arithmetic."""
    stored, weights = trace.state_before(step)
    if stored == step:
        return weights
    rates = tuple(trace.manifest["learning_rate"][stored:step])
    # As segment 1, whose witness has no limbs of the start weights.
    between = Layout(replace(statement, first_step=stored, rates=rates, segment=1))
    return segment_witness(trace, between, trace.batches(stored, step - stored)).end_state


@dataclass(frozen=True)
class _Walk(Trace):
    """A trace of which one state more is known than it stores: the weights at the last boundary."""

    boundary: int
    weights: Sequence[Integers]

    def state_before(self, step: int) -> tuple[int, list[Integers]]:
        stored, weights = super().state_before(step)
        return (self.boundary, list(self.weights)) if stored < self.boundary <= step else (stored, weights)


def _end_opening(run: Path, trace: Trace, statement: Statement, blinder: Blinder, place: Place) -> tuple[Opening, Trace]:
    """The opening of the weights after the statement's steps, and the trace to walk on with."""
    step, layout = statement.first_step + statement.steps, Layout(statement)
    path = weights_path(run, step)
    if path.exists():
        return load(path), trace
    weights = weights_before(trace, statement, step)
    child = blinder.child(f"weights {step}")

    def tables() -> Mapping[str, Any]:
        return weight_tables(layout, "end", weights, place)

    opening = load_or_commit(path, layout.end, weights, tables, statement.columns, child)
    return opening, _Walk(trace.folder, trace.manifest, step, weights)


def _of_trace(trace: Trace) -> Statement:
    """What the trace alone says of a first segment with all steps."""
    manifest = trace.manifest
    carried = ("loss", "batch", "rows", "activation_bits", "gradient_bits", "weight_bits", "seed")
    return Statement(
        **{name: manifest[name] for name in carried}, widths=trace.widths, first_step=0, rates=tuple(manifest["learning_rate"]),
        batch_seed="0" * 64, columns=8, segment=0, start_bound=1, previous="",
        galore=trace.galore, lora=trace.lora, fp8=trace.fp8, sampler=trace.sampler,
    )  # fmt: skip


def _fitting_steps(statement: Statement, place: Place) -> int:
    """The longest segment that can be proved in half of this machine's memory, and in the place's, at least one step."""
    steps, most = statement.steps, min(memory_bytes() // 2, place.memory_bytes())
    while steps > 1:
        layout = Layout(replace(statement, rates=statement.rates[:steps]))
        if table_bytes(layout) <= most and padded(steps * statement.batch) <= 1 << 22:
            break
        steps = (steps + 1) // 2
    return steps


def memory_bytes() -> int:
    """The memory that this process may fill: the machine's, or less where its control group is given less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no control groups, or no limit
        return physical
