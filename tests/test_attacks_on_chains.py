"""Replay and splicing of segments: honest proofs, put together to a run that never was.

Every splice is accepted by a verifier that lacks the comparison in question, which shows that the segments' own proofs do not
stop it, and refused by ours (`statement.check_succession`). `test_chain.py` has the same for files that the program made.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chained import Data, Segment, first_segment, next_segment
from weakened import is_accepted

from zkaudit.zk import argument, verifier
from zkaudit.zk.channel import Channel
from zkaudit.zk.proof_file import ProofFile, encode
from zkaudit.zk.statement import Statement, end_bound
from zkaudit.zk.testing.segments import example, statement_of
from zkaudit.zk.verifier import Verdict, verify_files, verify_segment

SMALL = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5)
DATA = example(SMALL, seed=1)


def run(statement: Statement, data: Data) -> list[ProofFile]:
    """Three segments."""
    first = first_segment(statement, data)
    second = next_segment(first, data)
    return [first.file, second.file, next_segment(second, data).file]


@pytest.fixture(scope="module")
def first() -> Segment:
    return first_segment(SMALL, DATA)


@pytest.fixture(scope="module")
def two_runs() -> tuple[list[ProofFile], list[ProofFile]]:
    return run(SMALL, DATA), run(SMALL, example(SMALL, seed=2))


def verdict(files: list[ProofFile], folder: Path) -> Verdict:
    paths = []
    for i, file in enumerate(files):
        paths.append(folder / f"{i}.zkp")
        paths[-1].write_bytes(encode(file))
    return verify_files(paths)


def with_check(monkeypatch: pytest.MonkeyPatch, continues: Callable[[Statement, Statement], bool]) -> None:
    """A verifier for which a segment follows another if `continues` says so."""

    def check(before: ProofFile, after: ProofFile) -> None:
        if not continues(before.statement, after.statement):
            raise verifier.InvalidProof("does not continue")

    monkeypatch.setattr(verifier, "_check_chained", check)


Splice = Callable[[list[ProofFile], list[ProofFile]], list[ProofFile]]
SPLICES: dict[str, Splice] = {
    "a segment left out": lambda ours, theirs: [ours[0], ours[2]],
    "a segment twice": lambda ours, theirs: [ours[0], ours[1], ours[1], ours[2]],
    "a segment of another run": lambda ours, theirs: [ours[0], theirs[1], ours[2]],
    "the end of another run": lambda ours, theirs: [ours[0], theirs[1], theirs[2]],
    "the beginning of another run": lambda ours, theirs: [theirs[0], ours[1], ours[2]],
}


@pytest.mark.parametrize("splice", SPLICES)
def test_a_splice_of_valid_segments_is_no_run(
    splice: str, two_runs: tuple[list[ProofFile], list[ProofFile]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = SPLICES[splice](*two_runs)
    assert verdict(two_runs[0], tmp_path).valid
    with monkeypatch.context() as patch:
        with_check(patch, lambda before, after: True)
        assert verdict(files, tmp_path).valid
    assert "does not continue" in verdict(files, tmp_path).reason


def begins_where_the_other_ends(before: Statement, after: Statement) -> bool:
    return after.start == before.end and after.segment == before.segment + 1


CHANGES = {
    "data": dict(recommit=True),  # another data set for the rest of the run
    "batch_seed": dict(batch_seed="77" * 32),  # batches of the prover's choice from here on
    "first_step": dict(first_step=7),  # five steps that nobody made
    "previous": dict(previous="00" * 32),  # made for a run with the same end weights and another history
    "start_bound": dict(start_bound=1 << 40),  # weights are said to be smaller than they may be
    "seed": dict(seed="another"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_segment_that_begins_with_the_right_bytes_need_not_belong_to_the_run(
    name: str, first: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real proof that starts from this run's end commitment and differs from its continuation in one thing."""
    changed = next_segment(first, example(SMALL, seed=3) if name == "data" else DATA, **CHANGES[name])
    files = [first.file, changed.file]
    with monkeypatch.context() as patch:
        with_check(patch, begins_where_the_other_ends)
        assert verdict(files, tmp_path).valid
    assert f"'{name}' differs" in verdict(files, tmp_path).reason


def test_steps_that_change_nothing_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that fit their targets stay as they are, and the end commitment may be the start's bytes: then the same proof
    continues itself, if only weights are compared."""
    statement = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5, loss="square")
    inputs, targets, start = example(statement)
    still = first_segment(statement, (inputs, 0 * targets, [0 * np.asarray(m) for m in start]), standing_still=True).file
    assert still.statement.start == still.statement.end
    with monkeypatch.context() as patch:
        with_check(patch, lambda before, after: after.start == before.end)
        assert (verdict([still] * 3, tmp_path).valid, verdict([still] * 3, tmp_path).steps) == (True, 6)
    assert not verdict([still] * 3, tmp_path).valid


def without_header(statement: Statement, channel: Channel) -> None:
    for name, data in statement.sections()[1:]:
        channel.transcript.absorb(name, data)


def test_a_proof_of_one_segment_is_none_of_another(first: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header of segment 1 is changed to that of a segment 4 of another history, with the same steps. What it says enters
    no equation; that the transcript has absorbed it makes it a part of what is proved."""

    def attack() -> bool:
        file = next_segment(first, DATA).file
        replayed = replace(file.statement, segment=4, previous="12" * 32, seed="another", start_bound=end_bound(file.statement))
        verify_segment(file)
        return is_accepted(lambda: verify_segment(ProofFile(replayed, file.proof)))

    with monkeypatch.context() as patch:
        patch.setattr(argument, "_absorb", without_header)
        assert attack()
    assert not attack()


def test_a_proof_of_one_run_is_none_of_another_with_equal_shapes(first: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weaker verifier accepts this: even where nothing of the statement is absorbed, and challenges follow from the proof
    alone, the statement's commitments are terms of the final equation."""

    def attack() -> bool:
        other = first_segment(SMALL, example(SMALL, seed=2)).file
        verify_segment(other)
        return is_accepted(lambda: verify_segment(ProofFile(first.file.statement, other.proof)))

    with monkeypatch.context() as patch:
        patch.setattr(argument, "_absorb", lambda statement, channel: None)
        assert not attack()
    assert not attack()
