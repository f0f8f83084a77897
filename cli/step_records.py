"""Whether the step records of an exact run are those that a proof's statements bind: `zkaudit verify --records`.

All of them follow from the statements: the header from seed, batch seed, rows and sampler, each record from batches, learning
rate and link. So they are made again and compared, and the head after each segment is the one that its statement carries."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zkaudit.zk.errors import InvalidProof

if TYPE_CHECKING:
    from zkaudit.training.batch.exact import ExactBatches
    from zkaudit.training.step_file import StepFile
    from zkaudit.training.steps import RunHeader, StepRecord
    from zkaudit.zk.statement import Statement


def check(path: Path, statements: Sequence[Statement]) -> str:
    """What was found, in words; `statements` are a verified chain. InvalidProof names the first field or head that differs.

    Records before the chain's first segment are checked for their links alone. TrainingError for a file that is none.
    """
    from zkaudit.training.batch.exact import ExactBatches  # numpy and the standard library only
    from zkaudit.training.step_file import StepFile

    for one in statements:
        if one.records is None:
            raise InvalidProof(f"segment {one.segment} of the proof names no step records, so it is tied to none")
    first = statements[0]
    batches = ExactBatches(first.batch_seed, first.rows, first.batch, first.sampler)
    file = StepFile(path, columns=False)
    _require_header(file, _header(first, batches))
    return _compare(file, statements, batches)


def _header(s: Statement, batches: ExactBatches) -> RunHeader:
    return batches.header(s.seed, s.to_json()["data_commitment"])


def _require_header(file: StepFile, expected: RunHeader) -> None:
    for name, wanted in vars(expected).items():
        if (found := getattr(file.header, name)) != wanted:
            raise InvalidProof(f"{file.path} line 1: {name} is {_short(found)}; by the statement it should be {_short(wanted)}")


def _compare(file: StepFile, statements: Sequence[Statement], batches: ExactBatches) -> str:
    ends = {s.first_step + s.steps - 1: s for s in statements}
    begin, last = statements[0].first_step, max(ends)
    rates = itertools.chain.from_iterable(s.learning_rates for s in statements)
    expected = batches.records(rates, begin)
    head, count, bound = file.header.digest(), 0, ""
    for place in file.placed():
        record, count = place.record, count + 1
        where = f"{file.path} line {place.line}, the record of step {place.line - 2}"
        if fault := place.fault(head):
            name, wanted, found = fault
            raise InvalidProof(f"{where}: {name} is {_short(found)}; the chain asks for {_short(wanted)}")
        if begin <= record.step <= last:
            _require_record(where, record, next(expected))
        head = record.digest()
        if (s := ends.get(record.step)) is None:
            continue
        if (bound := head) != s.records:
            raise InvalidProof(f"{where}: the head after it is {head}; segment {s.segment} states {s.records}")
    if count <= last:
        raise InvalidProof(f"{file.path} ends after {count} records; the proof is of steps up to {last}")
    beyond = f"; {count - last - 1} after them are not of this proof" if count > last + 1 else ""
    return f"{file.path}: records {begin} to {last} are those that the proof states, head {bound[:16]}...{beyond}"


def _require_record(where: str, record: StepRecord, expected: StepRecord) -> None:
    for name, wanted in vars(expected).items():
        if name != "prev_hash" and (found := getattr(record, name)) != wanted:
            raise InvalidProof(f"{where}: {name} is {_short(found)}; by the statement it should be {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
