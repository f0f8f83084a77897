"""One segment to prove, anywhere: what a worker is told, what it needs from the run, what it answers."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from zkaudit.zk import argument, gpu, hiding, proof_file, segments
from zkaudit.zk.argument import Phases
from zkaudit.zk.backend import HOST
from zkaudit.zk.channel import Blinder
from zkaudit.zk.errors import BadInput
from zkaudit.zk.layout import Layout
from zkaudit.zk.opening import Opening
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.sampling import batches
from zkaudit.zk.statement import Statement
from zkaudit.zk.trace import Trace, read_trace
from zkaudit.zk.witness import Witness, segment_witness

Report = Callable[[int, str, float], None]  # segment, phase, share of that segment done


@dataclass(frozen=True)
class Job:
    """A planned segment of the run in the folder `run`, and where its blindings come from.

    `device` is where it is proved; the proof does not depend on it. `blinder` is of this segment alone. If a job is done twice,
    because the first worker was lost, a blinder without a seed has fresh blindings for the second proof; with a seed the second
    proof is the first one again, byte for byte, and shows no more.
    """

    run: Path
    statement: Statement
    blinder: Blinder
    device: str = "cpu"  # gpu/choice.py

    @property
    def segment(self) -> int:
        return self.statement.segment


@dataclass(frozen=True)
class Supplies:
    """The secrets that a job needs: the trace of its steps, and the openings of its data, start and end commitments."""

    trace: Trace
    openings: list[Opening]


@dataclass(frozen=True)
class Proof:
    """A segment's proof file, encoded, and the seconds that each phase took."""

    segment: int
    file: bytes
    seconds: dict[str, float]


class Engine(Protocol):
    """Proves jobs somewhere."""

    def prove(self, jobs: Sequence[Job], report: Report) -> Generator[Proof, None, None]:
        """Each job's proof, in the order in which they come about. Closing the iterator stops the work.

        An error of a job ends it and is raised as it is; a lost worker's job is done again, up to a bound (attempts.py).
        """
        ...


def supplies(job: Job) -> Supplies:
    """Read them from the run's folder; BadInput if it does not hold the run that was planned."""
    return Supplies(read_trace(job.run / "trace"), segments.openings(job.run, job.statement))


def prove_job(job: Job, given: Supplies, report: Report) -> Proof:
    """Make the witness and the proof; BadInput for a trace that does not satisfy the statement, or a segment too large."""
    try:
        return _proved(job, given, report)
    except MemoryError:
        if gpu.place(job.device) is HOST:
            raise
        steps, name = job.statement.steps, gpu.place(job.device).ready()
        few = f"use --segment-steps with fewer than {steps}" if steps > 1 else "use --device cpu"
        raise BadInput(f"a segment of {steps} steps does not fit the memory of {name}: {few}") from None


def _proved(job: Job, given: Supplies, report: Report) -> Proof:
    statement, trace, seconds = job.statement, given.trace, dict[str, float]()
    phases = Phases(partial(report, job.segment), seconds=seconds)
    with phases.phase("witness", 0.0):
        first, end = statement.first_step, statement.first_step + statement.steps
        drawn = batches(statement)
        if (trace.batches(first, statement.steps) != drawn).any():
            raise BadInput("the trace was not trained on the batches that its seed and commitments fix")
        place = gpu.place(job.device)
        witness = segment_witness(trace, Layout(statement), drawn, place)
        # The end was committed to from the state stored before it. This segment's updates must lead to the same weights.
        stored = trace.state_before(end)[0]
        planned = segments.weights_before(trace, statement, end) if first < stored < end else None
        if planned and not all(np.array_equal(a, place.put(b)) for a, b in zip(witness.end_state, planned, strict=True)):
            raise BadInput(f"the trace's weights after step {end - 1} do not follow from its updates")
    file = prove_segment(statement, witness, given.openings, job.blinder, phases)
    return Proof(job.segment, proof_file.encode(file), seconds)


def prove_segment(
    statement: Statement, witness: Witness, openings: list[Opening], blinder: Blinder, phases: Phases, check_trace: bool = True
) -> ProofFile:
    """Prove one segment, given the openings of its data, start and end commitments."""
    channel = hiding.HidingProver(argument.DOMAIN, statement.columns, blinder, check_trace)
    layout = witness.layout
    for blocks, opening in zip((layout.data, layout.start, layout.end), openings, strict=True):
        channel.adopt(blocks, witness.tables, opening.blindings)
    argument.prove(statement, witness, channel, phases)
    return ProofFile(statement, bytes(channel.proof))


def answer(job: Job, source: Callable[[Job], Supplies], report: Report) -> Proof | Exception:
    """What a worker sends back: the proof, or the error in a form that another process can raise."""
    try:
        return prove_job(job, source(job), report)
    except Exception as error:
        error.add_note(f"in the worker that proved segment {job.segment}:\n{traceback.format_exc()}")
        return _portable(error)


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # some exceptions refuse to be pickled, others to be made again from what was pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
