"""Planning a run: what is stated before anything is proved is what proving segment after segment would state."""

from __future__ import annotations

import itertools
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zkaudit_process import Proved

from zkaudit.training import trace as trace_module
from zkaudit.training.config import DataConfig, FixedPoint, ModelConfig, RunConfig, TrainingConfig
from zkaudit.training.fixedpoint import prepare
from zkaudit.zk import curve, field, hyrax, segments
from zkaudit.zk.backend import Place
from zkaudit.zk.channel import Blinder
from zkaudit.zk.engine.job import Job
from zkaudit.zk.engine.shipment import ship
from zkaudit.zk.errors import BadInput
from zkaudit.zk.layout import Layout
from zkaudit.zk.opening import load, weights_path
from zkaudit.zk.proof_file import read
from zkaudit.zk.prover import commit_start, prove_run
from zkaudit.zk.sampling import batch_rows
from zkaudit.zk.statement import Statement, check_succession
from zkaudit.zk.trace import Trace, read_trace
from zkaudit.zk.witness import segment_witness

STEPS, BATCH, CHUNK = 11, 3, 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run whose trace stores weights after steps 4, 8 and 11."""
    folder = tmp_path_factory.mktemp("chunks")
    config = RunConfig(
        DataConfig("iris"), ModelConfig((5, 3), 1), TrainingConfig("cross_entropy", BATCH, STEPS, (0.05,) * STEPS, "plan"),
        FixedPoint(8, 12, 32),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_module, "LONGEST_CHUNK", CHUNK)
        prepared = prepare(config, folder)
        prepared.train(batch_rows(commit_start(folder), prepared.rows, BATCH, 0, STEPS))
    return folder


def unplanned(run: Path) -> Path:
    """`run` without the openings that planning has made."""
    for path in (run / "openings").glob("weights-*.json"):
        if path != weights_path(run, 0):
            path.unlink()
    return run


def batches_of(statement: Statement) -> Any:
    seed = bytes.fromhex(statement.batch_seed)
    return batch_rows(seed, statement.rows, statement.batch, statement.first_step, statement.steps)


@given(segment_steps=st.integers(1, STEPS + 1))
def test_plan_states_what_each_segment_leads_to(run: Path, segment_steps: int) -> None:
    """The oracle makes each segment's witness from the trace alone and commits to its ends with the openings' blindings."""
    trace = read_trace(unplanned(run) / "trace")
    statements = segments.plan(run, trace, segment_steps, Blinder())
    assert [s.first_step for s in statements] == list(range(0, STEPS, segment_steps))
    for before, after in itertools.pairwise(statements):
        check_succession(before, after)
    for statement in statements:
        layout = Layout(statement)
        witness = segment_witness(trace, layout, batches_of(statement))
        for blocks, step, commitment in (
            (layout.start, statement.first_step, statement.start),
            (layout.end, statement.first_step + statement.steps, statement.end),
        ):
            blindings = load(weights_path(run, step)).blindings
            points = hyrax.commit_with(blocks, witness.tables, statement.columns, blindings)
            assert curve.compress(points) == commitment


def test_proofs_state_what_was_planned(chain: Proved) -> None:
    statements = segments.plan(chain.run, read_trace(chain.run / "trace"), 2, Blinder())
    assert statements == [read(path).statement for path in sorted(chain.proof.glob("*.zkp"))]


def test_planning_again_states_the_same(run: Path) -> None:
    trace = read_trace(unplanned(run) / "trace")
    assert segments.plan(run, trace, 3, Blinder()) == segments.plan(run, trace, 3, Blinder())


@given(segment_steps=st.integers(1, STEPS))
def test_planning_reads_no_step_twice_and_none_before_a_stored_boundary(run: Path, segment_steps: int) -> None:
    trace, samples, seen = read_trace(unplanned(run) / "trace"), Trace.samples, list[int]()

    def counted(self: Trace, name: str, kind: str, layer: int, first: int, steps: int, place: Place) -> Any:
        if name == "z0":
            seen.extend(range(first, first + steps))
        return samples(self, name, kind, layer, first, steps, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trace, "samples", counted)
        segments.plan(run, trace, segment_steps, Blinder())
    boundaries = {*range(segment_steps, STEPS, segment_steps)} - {4, 8}
    needed = {step for end in boundaries for step in range(end // CHUNK * CHUNK, end)}
    assert sorted(seen) == sorted(needed)


def test_segment_that_is_no_number_of_steps_is_refused(run: Path) -> None:
    with pytest.raises(BadInput, match="at least one step"):
        segments.plan(run, read_trace(run / "trace"), 0, Blinder())


def test_stored_weights_that_do_not_follow_are_noticed_in_the_middle_of_a_segment(run: Path, tmp_path: Path) -> None:
    """Weights stored after step 4, inside a segment of 6 steps, from which its end is planned."""
    shutil.copytree(unplanned(run), tmp_path / "run")
    path = tmp_path / "run" / "trace" / "chunk-00000" / "weights0.bin"
    weights = np.fromfile(path, "<i8")
    weights[0] += 1
    weights.tofile(path)
    with pytest.raises(BadInput, match="do not follow"):
        prove_run(tmp_path / "run", tmp_path / "out", 6)


def test_openings_of_another_run_are_not_taken(run: Path, chain: Proved) -> None:
    statement = segments.plan(run, read_trace(run / "trace"), None, Blinder())[0]
    with pytest.raises(BadInput, match=r"weights-|data\.json"):
        segments.openings(chain.run, statement)


@given(segment_steps=st.integers(1, STEPS), data=st.data())
def test_shipped_part_of_a_trace_gives_the_same_witness(run: Path, segment_steps: int, data: st.DataObject) -> None:
    trace = read_trace(run / "trace")
    statement = data.draw(st.sampled_from(segments.plan(run, trace, segment_steps, Blinder())))
    sent = pickle.loads(pickle.dumps(ship(Job(run, statement, Blinder()))))
    ours, theirs = (segment_witness(t, Layout(statement), batches_of(statement)) for t in (trace, sent.trace))
    assert ours.tables.keys() == theirs.tables.keys()
    assert all((ours.tables[name] == theirs.tables[name]).all() for name in ours.tables)
    chunks = {name.partition("/")[0] for name in sent.trace.contents if name.startswith("chunk") and "/z0" in name}
    touched = range(statement.first_step // CHUNK, (statement.first_step + statement.steps - 1) // CHUNK + 1)
    assert chunks == {f"chunk-{i:05d}" for i in touched}


def test_shipment_of_a_damaged_trace_names_the_file(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    statement = segments.plan(tmp_path / "run", read_trace(tmp_path / "run" / "trace"), None, Blinder())[0]
    path = tmp_path / "run" / "trace" / "chunk-00001" / "z0.bin"
    for flaw in (lambda: path.write_bytes(path.read_bytes()[:-1]), path.unlink):
        flaw()
        sent = ship(Job(tmp_path / "run", statement, Blinder()))
        with pytest.raises(BadInput, match=r"chunk-00001/z0\.bin"):
            segment_witness(sent.trace, Layout(statement), batches_of(statement))


@given(seed=st.binary(max_size=40), labels=st.lists(st.text(max_size=10), min_size=2, max_size=4, unique=True))
def test_children_of_a_seeded_blinder_depend_on_seed_and_label_alone(seed: bytes, labels: list[str]) -> None:
    parent, used = Blinder(seed), Blinder(seed)
    used.scalar()
    drawn = [parent.child(label).scalar() for label in labels]
    assert drawn[::-1] == [used.child(label).scalar() for label in labels[::-1]]
    assert len({*drawn, parent.scalar(), Blinder(seed + b"x").child(labels[0]).scalar()}) == len(labels) + 2


def test_children_without_a_seed_are_fresh_in_every_copy() -> None:
    child = Blinder().child("label")
    copies = [child, pickle.loads(pickle.dumps(child)), Blinder().child("label")]
    scalars = field.to_ints(np.concatenate([blinder.scalars(2) for blinder in copies]))
    assert len(set(scalars)) == 6
