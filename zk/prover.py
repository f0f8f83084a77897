"""Proving a run: commit to what must be fixed before training, then prove the trace segment by segment.

Everything secret stays in RUN, readable by its owner: the trace and the openings. A killed `prove_run` goes on where it was,
since each segment's proof is written whole and the commitments between segments are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zkaudit.zk import argument, hiding, proof_file
from zkaudit.zk.argument import Phases, Progress
from zkaudit.zk.channel import Blinder
from zkaudit.zk.errors import BadInput
from zkaudit.zk.layout import Layout, choose_columns, padded
from zkaudit.zk.opening import Opening, data_path, load, load_or_commit, weights_path
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.statement import Statement, batch_rows, check, derive_batch_seed, end_bound, first_start_bound
from zkaudit.zk.trace import Trace, read_trace
from zkaudit.zk.witness import Witness, data_tables, segment_witness, weight_tables

LARGEST_SEGMENT = 1 << 27  # table entries; a segment takes some 70 bytes of memory an entry


def commit_start(run: Path, blinder: Blinder | None = None) -> bytes:
    """Commit to RUN/trace's data and start weights, keep the openings in RUN/openings; returns the 32-byte batch seed.

    Called before training: the batches follow from the returned seed, which nobody can choose once the commitments stand.
    """
    statement, _ = _first(run, read_trace(run / "trace"), blinder or Blinder())
    return bytes.fromhex(statement.batch_seed)


def prove_run(
    run: Path,
    out: Path,
    segment_steps: int | None = None,
    progress: Progress | None = None,
    blinder: Blinder | None = None,
    seconds: dict[str, float] | None = None,
) -> list[Path]:
    """Prove all steps of RUN; returns the proof files in order. One segment is written to `out`, several into a folder `out`.

    Segments have `segment_steps` steps, by default as many as fit in memory. `progress` hears of each phase; the time that
    phases take is added up in `seconds`. BadInput for a run that is not complete, or whose trace does not satisfy what is to be
    proved.
    """
    trace = read_trace(run / "trace")
    if not trace.complete:
        raise BadInput(f"the training run {run} has not ended: run `zkaudit train` again to finish it")
    if segment_steps is not None and segment_steps < 1:
        raise BadInput("a segment needs at least one step")
    blinder = blinder or Blinder()
    statement, openings = _first(run, trace, blinder)
    length = min(segment_steps or _fitting_steps(statement), trace.steps)
    rates = tuple(trace.manifest["learning_rate"])
    starts = range(0, trace.steps, length)
    paths = [out] if len(starts) == 1 else [out / f"segment-{i:05d}.zkp" for i in range(len(starts))]
    _make_folder(paths[0].parent, out)
    for i, (first, path) in enumerate(zip(starts, paths, strict=True)):
        statement = replace(statement, rates=rates[first : first + length])
        phases = Phases(progress, i / len(starts), 1 / len(starts), seconds)
        statement = _prove_segment(run, trace, statement, openings, path, phases, blinder)
        openings = [openings[0], load(weights_path(run, first + statement.steps))]
        statement = replace(
            statement, segment=i + 1, first_step=first + statement.steps, start_bound=end_bound(statement),
            previous=statement.digest(), start=statement.end, end=b"",
        )  # fmt: skip
    if progress:
        progress("done", 1.0)
    return paths


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


def _first(run: Path, trace: Trace, blinder: Blinder) -> tuple[Statement, list[Opening]]:
    """The first segment's statement with all steps and no end yet, and the openings of data and start weights."""
    manifest = trace.manifest
    carried = ("loss", "batch", "rows", "activation_bits", "gradient_bits", "weight_bits", "seed")
    statement = Statement(
        **{name: manifest[name] for name in carried}, widths=trace.widths, first_step=0, rates=tuple(manifest["learning_rate"]),
        batch_seed="0" * 64, columns=8, segment=0, start_bound=1, previous="",
    )  # fmt: skip
    layout = Layout(replace(statement, rates=statement.rates[: _fitting_steps(statement)]))
    statement = replace(statement, columns=choose_columns(layout.blocks), start_bound=first_start_bound(statement))
    layout = Layout(statement)
    check(replace(statement, rates=statement.rates[: _fitting_steps(statement)]))
    (run / "openings").mkdir(mode=0o700, exist_ok=True)
    tables = {**data_tables(trace, layout), **weight_tables(layout, "start", trace.state_before(0)[1])}
    data = load_or_commit(data_path(run), layout.data, tables, statement.columns, blinder)
    start = load_or_commit(weights_path(run, 0), layout.start, tables, statement.columns, blinder)
    statement = replace(statement, data=data.commitment, start=start.commitment)
    return replace(statement, batch_seed=derive_batch_seed(statement)), [data, start]


def _prove_segment(
    run: Path, trace: Trace, statement: Statement, openings: list[Opening], path: Path, phases: Phases, blinder: Blinder
) -> Statement:
    """Prove one segment into `path`, unless its proof is there already; returns its statement with the end commitment."""
    end = weights_path(run, statement.first_step + statement.steps)
    if end.exists():
        statement = replace(statement, end=load(end).commitment)
        if path.exists() and proof_file.read(path).statement == statement:
            return statement
    with phases.phase("witness", 0.0):
        layout = Layout(statement)
        batches = trace.batches(statement.first_step, statement.steps)
        seed = bytes.fromhex(statement.batch_seed)
        drawn = batch_rows(seed, statement.rows, statement.batch, statement.first_step, statement.steps)
        if (batches != drawn).any():
            raise BadInput("the trace was not trained on the batches that its seed and commitments fix")
        witness = segment_witness(trace, layout, drawn)
        opening = load_or_commit(end, layout.end, witness.tables, statement.columns, blinder)
    statement = replace(statement, end=opening.commitment)
    check(statement)
    witness = Witness(Layout(statement), witness.tables, drawn)
    file = prove_segment(statement, witness, [*openings, opening], blinder, phases)
    proof_file.write_whole(path, proof_file.encode(file), 0o644)
    return statement


def _fitting_steps(statement: Statement) -> int:
    """The longest segment whose tables stay within LARGEST_SEGMENT entries, at least one step."""
    steps = statement.steps
    while steps > 1:
        layout = Layout(replace(statement, rates=statement.rates[:steps]))
        if sum(block.size for block in layout.blocks) <= LARGEST_SEGMENT and padded(steps * statement.batch) <= 1 << 22:
            break
        steps = (steps + 1) // 2
    return steps


def _make_folder(folder: Path, out: Path) -> None:
    if folder == out and out.is_file():
        raise BadInput(f"{out} is a file, but the proof has several segments and needs a folder of that name")
    if folder != out and out.is_dir():
        raise BadInput(f"{out} is a folder, but the proof has one segment and needs a file name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder {folder}: {error.strerror}") from None
