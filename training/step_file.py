"""RUN/steps.jsonl: the header of a run on its first line, then a record a line; RUN/columns/NAME.npy: a number for each row.

`StepWriter` appends and flushes record by record, and goes on where a stopped run left off. Reading is strict: the first line
that is not what a writer writes, or that does not continue the chain, is named. Files are readable by their owner only: ids and
lengths tell of the data."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from zkaudit.training.errors import TrainingError
from zkaudit.training.private_file import create, synchronise, write_whole, writing
from zkaudit.training.steps import RunHeader, StepRecord, parse_header, parse_record

NAME = "steps.jsonl"
LONGEST_LINE = 1 << 26  # bytes

Integers = NDArray[np.int64]


class StepWriter:
    """Writes the records of a run; a context manager, which closes the file.

    columns: a public integer for each row, by name. If `folder` holds the records of a run of the same header, it goes on
    after them, or at step `at`, which a checkpoint names: records from there on are dropped. A last line that was not finished
    when a run was killed is dropped too. TrainingError for another header, a bad file, or a step that is not there.
    """

    def __init__(
        self,
        folder: Path,
        run_seed: str,
        rows: int,
        rules: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        columns: Mapping[str, Integers] | None = None,
        selector: str = "",
        data: str = "",
        at: int | None = None,
    ) -> None:
        arrays = {name: np.ascontiguousarray(array, "<i8") for name, array in (columns or {}).items()}
        digests = {name: column_digest(array) for name, array in arrays.items()}
        self.header = RunHeader(run_seed, rows, rules or {}, digests, selector, data)
        for name, array in arrays.items():
            if not name.isidentifier() or array.shape != (rows,):
                raise TrainingError(f"column {name!r} has shape {array.shape}: it must be an identifier's, of {rows} rows")
        path = self.path = folder / NAME
        self.step, self.head = 0, self.header.digest()
        if path.exists():
            end = self._continue(path, at)
            with writing(path):
                os.truncate(path, end)
                self._file: BinaryIO = path.open("ab")
            return
        if at:
            raise TrainingError(f"{path} is not there, so no run can go on at step {at}")
        with writing(folder):
            (folder / "columns").mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            write_whole(folder / "columns" / f"{name}.npy", content.getvalue())
        with writing(path):
            self._file = create(path)
            self._file.write(self.header.encoded() + b"\n")
            self._file.flush()

    def write(self, record: StepRecord) -> str:
        """Append the record of step `self.step`, with its link; returns the new head of the chain."""
        if record.step != self.step:
            raise TrainingError(f"a record of step {record.step} was written where step {self.step} is next")
        if (furthest := max((*record.ids, *record.candidate_ids))) >= self.header.rows:
            raise TrainingError(f"the record of step {record.step} names row {furthest} of {self.header.rows} rows")
        linked = replace(record, prev_hash=self.head)
        with writing(self.path):
            self._file.write(linked.encoded() + b"\n")
            self._file.flush()
        self.step, self.head = self.step + 1, linked.digest()
        return self.head

    def close(self) -> None:
        """Safe on the disk afterwards."""
        if not self._file.closed:
            with writing(self.path):
                synchronise(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _continue(self, path: Path, at: int | None) -> int:
        """Take up the chain; returns the length in bytes of what is kept."""
        found = StepFile(path.parent, unfinished=True)
        if found.header.digest() != self.header.digest():
            raise TrainingError(f"{path} is of another run: seed, rows, rules or columns differ; give this one another folder")
        end = len(found.header.encoded()) + 1
        for record in found.records():
            if record.step == at:
                break
            self.step, self.head = record.step + 1, record.digest()
            end += len(record.encoded()) + 1
        if at is not None and at != self.step:
            raise TrainingError(f"{path} ends before step {at}: its next step is {self.step}")
        return end


class StepFile:
    """The records in a folder or a file. `header` and `columns` are read and checked at once, records as they are asked for.

    unfinished: pass over a last line without its end, which a killed run leaves. columns: False if they need not be there.
    TrainingError names what is wrong and where.
    """

    def __init__(self, place: Path, *, unfinished: bool = False, columns: bool = True) -> None:
        self.path, self._unfinished = place if place.is_file() else place / NAME, unfinished
        number, line = next(self._lines(), (1, b""))
        try:
            self.header = parse_header(line)
        except TrainingError as error:
            raise TrainingError(f"{self.path} line {number}, the header, is {error}") from None
        names = self.header.columns if columns else ()
        self.columns = {name: _column(self.path.parent, name, self.header) for name in names}

    def records(self) -> Iterator[StepRecord]:
        """In order, with unbroken links and numbers."""
        head = self.header.digest()
        for place in self.placed():
            if fault := place.fault(head):
                name, wanted, found = fault
                raise TrainingError(f"{self.path} line {place.line}: {name} is {found!r}, but {wanted!r} was to come")
            head = place.record.digest()
            yield place.record

    def placed(self) -> Iterator[Placed]:
        """Records whatever their links, well formed each."""
        for number, line in self._lines():
            if number == 1:
                continue
            try:
                record = parse_record(line)
                if (furthest := max((*record.ids, *record.candidate_ids))) >= self.header.rows:
                    raise TrainingError(f"row {furthest} is named, but there are {self.header.rows} rows")
            except TrainingError as error:
                raise TrainingError(f"{self.path} line {number}: {error}") from None
            yield Placed(number, record)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
                    if line.endswith(b"\n"):
                        yield number, line[:-1]
                    elif not (self._unfinished and number > 1 and len(line) < LONGEST_LINE):
                        raise TrainingError(
                            f"{self.path} line {number} has no end: the run was stopped there, or it is too long"
                        )
        except OSError as error:
            raise TrainingError(f"cannot read {self.path}: {error.strerror or error}") from None


@dataclass(frozen=True)
class Placed:
    """A record and the number of its line, from 1; the header is on line 1."""

    line: int
    record: StepRecord

    def fault(self, head: str) -> tuple[str, object, object] | None:
        """Field, expected and found where the record does not continue the chain that ends in `head`."""
        for name, wanted in (("step", self.line - 2), ("prev_hash", head)):
            if (found := getattr(self.record, name)) != wanted:
                return name, wanted, found
        return None


def column_digest(column: Integers) -> str:
    """Of a number for each row, hex."""
    return hashlib.sha256(b"zkaudit column" + len(column).to_bytes(8, "little") + column.astype("<i8").tobytes()).hexdigest()


def _column(folder: Path, name: str, header: RunHeader) -> Integers:
    path = folder / "columns" / f"{name}.npy"
    if not name.isidentifier():
        raise TrainingError(f"{folder / NAME} line 1 names a column {name[:40]!r}, which is no identifier")
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise TrainingError(f"{path} is not an array of numbers: {error}") from None
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype("<i8") or array.shape != (header.rows,):
        raise TrainingError(f"{path} must hold one 64-bit integer for each of {header.rows} rows")
    if column_digest(array) != header.columns[name]:
        raise TrainingError(f"{path} is not the column that the run was begun with: its digest differs")
    return array.astype(np.int64)
