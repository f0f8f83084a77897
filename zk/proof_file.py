"""The proof file: magic, version, then five sections, each a 64-bit length and its bytes; nothing before, between or after.

    "ZKAUDIT" 0x00 | version u32 | header | data | start | end | proof        integers little-endian

The first four sections are the statement, the last one the proof. docs/proof-format.md says what the bytes mean.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from zkaudit.zk.errors import BadInput
from zkaudit.zk.statement import VERSION, Statement, parse

MAGIC = b"ZKAUDIT\0"
SECTIONS = ("header", "data", "start", "end", "proof")
LARGEST = 1 << 30


@dataclass(frozen=True)
class ProofFile:
    """A statement with its proof."""

    statement: Statement
    proof: bytes

    def sizes(self) -> dict[str, int]:
        """Bytes of each section."""
        sections = [data for _, data in self.statement.sections()]
        return dict(zip(SECTIONS, map(len, [*sections, self.proof]), strict=True))


def encode(file: ProofFile) -> bytes:
    """The file's bytes."""
    sections = [data for _, data in file.statement.sections()] + [file.proof]
    body = b"".join(len(data).to_bytes(8, "little") + data for data in sections)
    return MAGIC + VERSION.to_bytes(4, "little") + body


def decode(data: bytes, name: str) -> ProofFile:
    """Parse strictly; BadInput names `name` and what is wrong."""
    if data[: len(MAGIC)] != MAGIC:
        raise BadInput(f"{name} is not a zkaudit proof file")
    at = len(MAGIC)
    version = int.from_bytes(data[at : at + 4], "little")
    if len(data) < at + 4 or version != VERSION:
        raise BadInput(f"{name} is of version {version}; this program reads version {VERSION}")
    at += 4
    sections = []
    for section in SECTIONS:
        size = int.from_bytes(data[at : at + 8], "little")
        if len(data) < at + 8 or size > len(data) - at - 8:
            raise BadInput(f"{name} is truncated or corrupt in section '{section}'")
        sections.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    if at != len(data):
        raise BadInput(f"{name} has {len(data) - at} bytes after its end")
    header, rows, start, end, proof = sections
    try:
        return ProofFile(parse(header, rows, start, end), proof)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from None


def read(path: Path, largest: int = LARGEST) -> ProofFile:
    """Read and parse a proof file; BadInput, before it is read, for one of more than `largest` bytes."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise BadInput(f"{path} is not a file")
        if size > largest:
            raise BadInput(f"{path} has {size} bytes; a proof file may have at most {largest} here")
        return decode(path.read_bytes(), str(path))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Write a file so that it is either there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise BadInput(f"cannot write {path}: {error.strerror}") from None
