"""Small segments to prove: random networks, their traces by the reference trainer, honest or tampered with, and their proofs.

A trace here is in memory. `segments()` is the strategy; the functions below it are its steps, for tests that change one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from zkaudit.zk import argument, channel, curve, hyrax, sampling
from zkaudit.zk.argument import Phases
from zkaudit.zk.backend import HOST, Place
from zkaudit.zk.engine.job import prove_segment
from zkaudit.zk.layout import Layout
from zkaudit.zk.opening import Opening
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.statement import Statement, check, derive_batch_seed, first_start_bound
from zkaudit.zk.tables import data_tables, weight_tables
from zkaudit.zk.testing.reference_trainer import OutOfRange, reference_run
from zkaudit.zk.testing.strategies import statements
from zkaudit.zk.trace import Trace
from zkaudit.zk.witness import Witness, segment_witness

Tamper = Callable[[str, int, int, Any], Any]


class MemoryTrace(Trace):
    """A trace whose arrays are in memory."""

    arrays: dict[str, Any]
    inputs: Any
    targets: Any
    states: dict[int, list[Any]]

    def data(self) -> tuple[Any, Any]:
        return self.inputs, self.targets

    def state_before(self, step: int) -> tuple[int, list[Any]]:
        at = max(stored for stored in self.states if stored <= step)
        return at, self.states[at]

    def _steps(self, name: str, kind: str, shape: tuple[int, ...], first: int, steps: int, place: Place = HOST) -> Any:
        return place.put(np.asarray(self.arrays[name][first : first + steps]).astype(np.int64))


def statement_of(
    widths: tuple[int, ...] = (5, 6, 4, 3),
    loss: str = "cross_entropy",
    batch: int = 3,
    steps: int = 3,
    rows: int = 11,
    bits: tuple[int, int, int] = (8, 12, 32),
    rate: int = 5,
    columns: int = 6,
) -> Statement:
    """A first segment without commitments."""
    activation, gradient, weight = bits
    statement = Statement(
        widths=widths, loss=loss, batch=batch, first_step=0, rates=tuple(rate + t for t in range(steps)), rows=rows,
        activation_bits=activation, gradient_bits=gradient, weight_bits=weight, seed="test", batch_seed="5a" * 32,
        columns=columns, segment=0, start_bound=1 << (weight + 3), previous="",
    )  # fmt: skip
    check(statement)
    assert statement.start_bound == first_start_bound(statement)
    return statement


def example(statement: Statement, seed: int = 0, scale: float = 0.35) -> tuple[Any, Any, list[Any]]:
    """Random data (inputs, targets) and start weights for a statement's shapes."""
    rng = np.random.default_rng(seed)
    f, w = statement.activation_bits, statement.weight_bits
    inputs = rng.integers(-(2 << f), 2 << f, (statement.rows, statement.widths[0]))
    targets = np.eye(statement.widths[-1], dtype=np.int64)[rng.integers(0, statement.widths[-1], statement.rows)]
    if statement.loss == "square":
        targets = targets << f
    limit = int(scale * 2**w)
    shapes = zip(statement.widths, statement.widths[1:], strict=False)
    return inputs, targets, [rng.integers(-limit, limit, (d + 1, units)) for d, units in shapes]


def trained(
    statement: Statement, data: tuple[Any, Any, list[Any]], tamper: Tamper | None = None, batches: Any = None
) -> MemoryTrace:
    """The trace of the statement's steps on `data`; `tamper` changes intermediates as they arise."""
    inputs, targets, start = data
    drawn = sampling.batches(statement) if batches is None else batches
    bits = (statement.activation_bits, statement.gradient_bits, statement.weight_bits)
    arrays = reference_run(statement.widths, statement.loss, *bits, statement.rates, inputs, targets, start, drawn, tamper)
    manifest = {"widths": list(statement.widths), "batch": statement.batch, "steps": statement.steps, "rows": statement.rows}
    trace = MemoryTrace(Path(), {**manifest, "learning_rate": list(statement.rates)})
    trace.__dict__.update(
        arrays=arrays, inputs=inputs, targets=targets, states={0: [np.asarray(m).astype(np.int64) for m in start]}
    )
    return trace


def witness_of(statement: Statement, trace: MemoryTrace, batches: Any = None, place: Place = HOST) -> Witness:
    """The witness as the prover makes it."""
    drawn = sampling.batches(statement) if batches is None else batches
    return segment_witness(trace, Layout(statement), drawn, place)


def end_weights(trace: MemoryTrace, layers: int) -> list[Any]:
    """The weights the reference run ended in."""
    return [np.asarray(trace.arrays[f"end.w{j}"]).astype(np.int64) for j in range(layers)]


def prove_in_the_clear(statement: Statement, witness: Witness, check_trace: bool = False) -> list[Any]:
    """The clear proof."""
    prover = channel.ClearProver(argument.DOMAIN, check_trace)
    layout = witness.layout
    for blocks in (layout.data, layout.start, layout.end):
        prover.adopt(blocks, witness.tables)
    argument.prove(statement, witness, prover, Phases())
    return prover.proof


def verify_in_the_clear(statement: Statement, adopted: Any, proof: list[Any]) -> None:
    """InvalidProof unless the clear proof is valid for the statement and the adopted tables."""
    layout = Layout(statement)
    verifier = channel.ClearVerifier(argument.DOMAIN, proof)
    for blocks in (layout.data, layout.start, layout.end):
        verifier.adopt(blocks, adopted)
    argument.verify(statement, verifier)


@dataclass(frozen=True)
class Committed:
    """A first segment whose statement holds its commitments; the openings are those of data, start and end."""

    statement: Statement
    witness: Witness
    openings: list[Opening]


def opened(statement: Statement, blocks: Any, tables: Any, blinder: channel.Blinder, place: Place = HOST) -> Opening:
    """A commitment to the tables of some blocks, with what opens it."""
    placed = {block.name: place.put(tables[block.name]) for block in blocks}
    points, blindings = hyrax.commit(blocks, placed, statement.columns, blinder)
    return Opening(statement.columns, curve.compress(points), blindings, "")


def committed(
    data: tuple[Any, Any, list[Any]], statement: Statement, blinder: channel.Blinder | None = None, place: Place = HOST
) -> Committed:
    """Commit to data and start, which fixes the batches, train, commit to the end."""
    blinder = blinder or channel.Blinder()
    layout = Layout(statement)
    trace = MemoryTrace(Path(), {})
    trace.__dict__.update(inputs=data[0], targets=data[1])
    fixed = {**data_tables(layout, *trace.data()), **weight_tables(layout, "start", data[2])}

    opening, start = (opened(statement, blocks, fixed, blinder, place) for blocks in (layout.data, layout.start))
    statement = replace(statement, data=opening.commitment, start=start.commitment)
    statement = replace(statement, batch_seed=derive_batch_seed(statement))
    witness = witness_of(statement, trained(statement, data), place=place)
    end = opened(statement, layout.end, witness.tables, blinder, place)
    statement = replace(statement, end=end.commitment)
    return Committed(statement, Witness(Layout(statement), witness.tables, witness.batches), [opening, start, end])


def hidden_proof(
    data: tuple[Any, Any, list[Any]],
    statement: Statement,
    blinder: channel.Blinder | None = None,
    check_trace: bool = True,
    change: Callable[[Witness], dict[str, Any]] | None = None,
    place: Place = HOST,
) -> ProofFile:
    """A real proof of a first segment; `change` gives tables that differ from the witness's."""
    blinder = blinder or channel.Blinder()
    made = committed(data, statement, blinder, place)
    witness = made.witness
    if change:
        witness = Witness(witness.layout, {**witness.tables, **change(witness)}, witness.batches)
    return prove_segment(made.statement, witness, made.openings, blinder, Phases(), check_trace)


@st.composite
def segments(draw: DrawFn) -> tuple[Statement, tuple[Any, Any, list[Any]]]:
    """A statement without commitments and data that stay in range when trained on: what `trained` and `committed` take."""
    statement = draw(statements())
    data = example(statement, draw(st.integers(0, 1 << 32)))
    try:
        trained(statement, data)
    except OutOfRange:
        assume(False)
    return statement, data
