"""The heads that statements carry of a run's step records: RUN/steps.jsonl, a header and then a line a step, chained by hashes.

    head after step t = SHA-256(framed("zkaudit step record", line of step t)), which line t + 1 names as `prev_hash`

docs/step-records.md has the lines' fields. Read here are the links, the steps' numbers and the rows that were trained on; what
else a record says is checked against a statement by `zkaudit verify --records`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from zkaudit.zk import strict_json
from zkaudit.zk.errors import BadInput
from zkaudit.zk.sampling import Integers

NAME = "steps.jsonl"
LONGEST_LINE = 1 << 26  # bytes


class Records:
    """The records of a run, read forward; BadInput for lines that are missing, broken, or of other rows than the trace's."""

    def __init__(self, run: Path) -> None:
        self._path, self._step = run / NAME, 0
        self._lines = self._read()
        self._head = _link(b"zkaudit step header", self._next())

    def head_after(self, batches: Integers) -> str:
        """Hex head after the next steps, which were trained on `batches`, (steps, batch)."""
        for rows in batches.tolist():
            line = self._next()
            record = self._object(line)
            for name, wanted in (("step", self._step), ("prev_hash", self._head), ("ids", rows)):
                if record.get(name) != wanted:
                    raise BadInput(f"{self._path}: the record of step {self._step} has not the '{name}' of this run")
            self._head, self._step = _link(b"zkaudit step record", line), self._step + 1
        return self._head

    def _next(self) -> bytes:
        line = next(self._lines, b"")
        if not line.endswith(b"\n"):
            raise BadInput(f"{self._path} ends before the record of step {self._step}: `zkaudit train` writes what is missing")
        return line[:-1]

    def _object(self, line: bytes) -> dict[str, object]:
        try:
            line.decode("ascii")
            record = strict_json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise BadInput(f"{self._path}: the record of step {self._step} is no JSON object")
        return record

    def _read(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as file:
                yield from iter(lambda: file.readline(LONGEST_LINE), b"")
        except OSError as error:
            raise BadInput(f"cannot read {self._path}: {error.strerror or error}") from None


def _link(tag: bytes, line: bytes) -> str:
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in (tag, line))).hexdigest()
