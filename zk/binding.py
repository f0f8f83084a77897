"""What ties a run to a proof: its data, its weights at both ends and its model file open the commitments that the proof names.

An update that a client sends is the difference of the weights at the two ends. Once they open the statement's commitments, the
update is the one that the proof speaks about; once the data do, what the update is compared with is what was trained on. The
batches follow from the seed, as for the verifier. Source: the binding of Pedersen commitments (docs/security.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zkaudit.zk import methods, opening, proof_file, verifier
from zkaudit.zk.block import Block
from zkaudit.zk.errors import BadInput, InvalidProof, NotBound
from zkaudit.zk.layout import Layout
from zkaudit.zk.sampling import batches
from zkaudit.zk.statement import Statement
from zkaudit.zk.tables import data_tables, weight_tables
from zkaudit.zk.trace import Integers, Trace, read_trace

Tables = Callable[[], Mapping[str, Any]]
MODEL = "model.safetensors"


@dataclass(frozen=True)
class BoundRun:
    """What a run holds and a proof speaks about, in integers: weights times 2^weight_bits, data times 2^activation_bits."""

    start: list[Integers]  # of each layer, (d + 1, outputs), the bias row last; with LoRA each adapter's two matrices
    end: list[Integers]
    frozen: list[Integers]  # the layers under LoRA's adapters; none otherwise
    inputs: Integers  # (rows, d)
    targets: Integers  # (rows, outputs)
    batches: Integers  # (steps, batch), rows of the data
    checks: tuple[str, ...]  # what was found to hold, a sentence each


def bind(run: Path, proofs: Sequence[Path]) -> BoundRun:
    """What the run holds, all of it opened against the proof's commitments; the proof itself must have been verified.

    What commitments hold beside the weights, GaLore's moments, must open too and is not handed on. NotBound says what does not
    open; BadInput for a folder that is no run, or a run that was not proved.
    """
    trace = read_trace(run / "trace")
    paths = verifier.in_order(proofs)
    first, last = (proof_file.read(path).statement for path in (paths[0], paths[-1]))
    _require_same_shape(run, trace, first, last)
    layout, end_layout = Layout(first), Layout(last)
    inputs, targets = trace.data()
    frozen, start, end = trace.frozen(), trace.state_before(0)[1], trace.state_before(trace.steps)[1]
    drawn = batches(replace(first, rates=tuple(trace.manifest["learning_rate"])))
    if not np.array_equal(trace.batches(0, trace.steps), drawn):
        raise NotBound(f"{run} is not what the proof is about: its batches are not those that the proof's seed chooses")
    openings = (
        ("data", opening.data_path(run), first.data, layout.data, lambda: data_tables(layout, inputs, targets, frozen)),
        ("start weights", opening.weights_path(run, 0), first.start, layout.start, _weights(layout, "start", start)),
        ("end weights", opening.weights_path(run, trace.steps), last.end, end_layout.end, _weights(end_layout, "end", end)),
    )
    for what, path, commitment, blocks, tables in openings:
        _require_opens(run, what, path, commitment, blocks, tables, first.columns)
    for path, (_, opened_by, *_) in zip((paths[0], paths[-1]), openings[1:], strict=True):
        try:
            opening.check_model(path, run / MODEL, opened_by)
        except InvalidProof as error:
            raise NotBound(f"{run} is not what the proof is about: {error}") from None
    data = "data and frozen weights" if frozen else "data"
    checks = (
        "The run's start weights, those of the trace and of the model file, open the first statement's start commitment.",
        "Its end weights, those of the trace and of the model file, open the last statement's end commitment.",
        f"Its {data} open the data commitment, and its batches are those that the public seed chooses.",
    )
    trained = len(layout.trained)
    return BoundRun(start[:trained], end[:trained], frozen, inputs, targets, drawn, checks)


def _weights(layout: Layout, which: str, weights: Sequence[Integers]) -> Tables:
    return lambda: weight_tables(layout, which, weights)


def _require_same_shape(run: Path, trace: Trace, first: Statement, last: Statement) -> None:
    if first.segment != 0:
        raise NotBound(f"the proof begins at segment {first.segment}, not where {run} begins: give the segments before it too")
    names = ("batch", "rows", "loss", "activation_bits", "gradient_bits", "weight_bits")
    stated = {"widths": first.widths, "steps": last.first_step + last.steps, **{name: getattr(first, name) for name in names}}
    held = {"widths": trace.widths, "steps": trace.steps, **{name: trace.manifest[name] for name in names}}
    for name, value in stated.items():
        if held[name] != value:
            shown = "-".join(map(str, held[name])) if name == "widths" else held[name]
            said = "-".join(map(str, value)) if isinstance(value, tuple) else value
            raise NotBound(f"{run} is not what the proof is about: its {name} is {shown}, the statement's {said}")
    for name in methods.SPECS:
        if getattr(first, name) != getattr(trace, name):
            raise NotBound(f"{run} is not what the proof is about: its {name} is not the statement's")
    if not trace.complete:
        raise BadInput(f"the training run {run} has not ended: run `zkaudit train` again to finish it")


def _require_opens(
    run: Path, what: str, path: Path, commitment: bytes, blocks: Sequence[Block], tables: Tables, columns: int
) -> None:
    if not path.exists():
        raise BadInput(f"{path} does not exist: prove the run first")
    opened = opening.load(path)
    if opened.commitment != commitment:
        raise NotBound(f"{run} is not what the proof is about: {path.name} opens other {what} than the proof commits to")
    try:
        holds = opening.opens(opened, blocks, tables(), columns)
    except BadInput as error:  # a number outside the range of what can be committed to
        raise NotBound(f"{run} is not what the proof is about: {error}") from None
    if not holds:
        raise NotBound(f"{run} is not what the proof is about: its {what} do not open the proof's commitment to them")
