"""Malformed proof files: a slice of `make fuzz`, and what it once found."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from random import Random

import pytest
from fuzz import seeds
from fuzz.__main__ import CORPUS
from fuzz.drafts import Draft
from fuzz.loop import Tally, fuzz
from fuzz.mutations import SHARES, Mutation, begun
from fuzz.target import MEMORY, SECONDS, STAGES, examine

KEPT = sorted(CORPUS.glob("*.zkp"))


def test_a_slice_of_malformed_files_is_refused_at_every_stage(tmp_path: Path) -> None:
    tally = fuzz(seed=1, inputs=2000, seconds=60, findings=tmp_path)
    assert tally.findings == []
    assert tally.inputs == 2000
    assert tally.stages.keys() == set(STAGES)


@pytest.mark.slow
def test_a_minute_of_malformed_files_is_refused_in_time_and_memory(tmp_path: Path) -> None:
    tally = fuzz(seed=2, inputs=1_000_000, seconds=60, findings=tmp_path)
    assert tally.findings == []
    assert tally.inputs > 2000
    assert tally.slowest < SECONDS
    assert tally.memory < MEMORY


def test_there_is_a_corpus() -> None:
    assert KEPT


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_once_went_wrong_is_refused(path: Path) -> None:
    assert examine(path, path.read_bytes(), frozenset()).fault == ""


def test_an_accepted_file_that_is_not_honest_is_a_fault(tmp_path: Path) -> None:
    path, data = tmp_path / "input.zkp", Draft.of(seeds.honest()[0]).encode()
    path.write_bytes(data)
    assert examine(path, data, frozenset()).fault == "accepted"
    assert examine(path, data, frozenset([data])).fault == ""
    path.write_bytes(data[:-1])
    assert examine(path, data, frozenset([data])).fault == "honest-refused"


@pytest.mark.parametrize("mutation", SHARES, ids=lambda mutation: mutation.__name__)
def test_an_input_follows_from_its_seed(mutation: Mutation) -> None:
    twice = []
    for _ in range(2):
        rng = Random("here 1")
        twice.append(mutation(rng, begun(rng)))
    assert twice[0] == twice[1]


@pytest.mark.slow
def test_a_signal_is_a_finding_and_the_run_goes_on(tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_once(tally: Tally) -> None:
        if not killed:
            killed.append(tally.inputs)
            pid = multiprocessing.active_children()[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGSEGV)

    tally = fuzz(seed=3, inputs=5000, seconds=120, findings=tmp_path, report=kill_once)
    assert 0 < killed[0] < 5000
    assert [path.name.partition("-")[0] for path in tally.findings] == ["signal"]
    assert tally.findings[0].name.startswith("signal-11-")
    assert tally.inputs == 5000
