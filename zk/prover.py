"""Proving a run: commit to what must be fixed before training, then plan its segments and prove those that are not proved yet.

Everything secret stays in RUN, readable by its owner: the trace and the openings. A killed `prove_run` goes on where it was,
since each segment's proof is written whole and the commitments between segments are kept."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from zkaudit.zk import gpu, proof_file, segments
from zkaudit.zk.argument import Phases, Progress
from zkaudit.zk.channel import Blinder
from zkaudit.zk.engine import Engine, Job, ThisProcess
from zkaudit.zk.errors import BadInput
from zkaudit.zk.statement import Statement
from zkaudit.zk.trace import read_trace


def commit_start(run: Path, blinder: Blinder | None = None, device: str = "cpu") -> bytes:
    """Commit to RUN/trace's data and start weights, keep the openings in RUN/openings; returns the 32-byte batch seed.

    Called before training: the batches follow from the returned seed, which nobody can choose once the commitments stand.
    """
    return bytes.fromhex(state_start(run, blinder, device).batch_seed)


def state_start(run: Path, blinder: Blinder | None = None, device: str = "cpu") -> Statement:
    """As `commit_start`, but returns what is stated then: the first segment with all steps, and without end and records.

    `sampling.batches` of it are the batches of the run.
    """
    return segments.first_statement(run, read_trace(run / "trace"), blinder or Blinder(), gpu.place(device))


def prove_run(
    run: Path,
    out: Path,
    segment_steps: int | None = None,
    progress: Progress | None = None,
    blinder: Blinder | None = None,
    seconds: dict[str, float] | None = None,
    engine: Engine | None = None,
    device: str = "cpu",
) -> list[Path]:
    """Prove all steps of RUN; returns the proof files in order. One segment is written to `out`, several into a folder `out`.

    Segments have `segment_steps` steps, by default as many as fit in memory; `engine` says where they are proved, by default
    here, on `device` ("cpu" or "cuda"; the proof is the same). `progress` hears of each phase; the time that phases take is
    added up in `seconds`. BadInput for a run that is not complete, or whose trace does not satisfy what is to be proved.
    """
    trace = read_trace(run / "trace")
    if not trace.complete:
        raise BadInput(f"the training run {run} has not ended: run `zkaudit train` again to finish it")
    blinder, seconds = blinder or Blinder(), {} if seconds is None else seconds
    with Phases(progress, seconds=seconds).phase("witness", 0.0):
        statements = segments.plan(run, trace, segment_steps, blinder, gpu.place(device))
    paths = [out] if len(statements) == 1 else [out / f"segment-{s.segment:05d}.zkp" for s in statements]
    _make_folder(paths[0].parent, out)
    planned = zip(statements, paths, strict=True)
    missing = [statement for statement, path in planned if not _is_proved(statement, path)]
    # A label for each statement: what is blinded alike, if a seed is given, is then one proof and never two.
    jobs = [Job(run.absolute(), statement, blinder.child(statement.digest()), device) for statement in missing]
    if jobs:
        bar = _Bar(progress, len(paths), len(paths) - len(jobs))
        with closing((engine or ThisProcess()).prove(jobs, bar.report)) as proofs:
            for proof in proofs:
                proof_file.write_whole(paths[proof.segment], proof.file, 0o644)
                bar.count(proof.segment)
                for phase, spent in proof.seconds.items():
                    seconds[phase] = seconds.get(phase, 0.0) + spent
    if progress:
        progress("done", 1.0)
    return paths


class _Bar:
    """One bar for all segments, however many are being proved at a time."""

    def __init__(self, progress: Progress | None, segments: int, proved: int) -> None:
        self._progress, self._segments, self._proved = progress, segments, proved
        self._shares: dict[int, float] = {}

    def report(self, segment: int, phase: str, share: float) -> None:
        """A segment in work has come so far."""
        self._shares[segment] = share
        self._show(phase)

    def count(self, segment: int) -> None:
        """A segment is proved."""
        self._shares.pop(segment, None)
        self._proved += 1
        self._show("done")

    def _show(self, phase: str) -> None:
        if self._progress:
            what = phase if self._segments == 1 else f"{self._proved} of {self._segments} segments proved"
            self._progress(what, (self._proved + sum(self._shares.values())) / self._segments)


def _is_proved(statement: Statement, path: Path) -> bool:
    return path.exists() and proof_file.read(path).statement == statement


def _make_folder(folder: Path, out: Path) -> None:
    if folder == out and out.is_file():
        raise BadInput(f"{out} is a file, but the proof has several segments and needs a folder of that name")
    if folder != out and out.is_dir():
        raise BadInput(f"{out} is a folder, but the proof has one segment and needs a file name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder {folder}: {error.strerror}") from None
