"""Sections 2 and 3: the file, the header and its limits, and the order of batches."""

import json
import re
from dataclasses import dataclass
from hashlib import sha256, shake_256
from typing import Annotated, Any, get_origin, get_type_hints

from .conventions import R, Refused, demand, framed

MAGIC, LARGEST_FILE = b"ZKAUDIT\0", 1 << 30


@dataclass
class Statement:
    """The sections before the proof, and the header's fields with limits of integers, of array entries, of string lengths."""

    header: bytes
    data: bytes
    start: bytes
    end: bytes
    version: Annotated[int, 1, 1]
    widths: Annotated[list[int], 1, 1 << 16]
    loss: Annotated[str, 6, 13]
    batch: Annotated[int, 1, 1 << 20]
    first_step: Annotated[int, 0, 1 << 40]
    rates: Annotated[list[int], 1, 1 << 48]
    rows: Annotated[int, 1, 1 << 22]
    activation_bits: Annotated[int, 2, 14]
    gradient_bits: Annotated[int, 2, 15]
    weight_bits: Annotated[int, 16, 48]
    seed: Annotated[str, 0, 1024]
    batch_seed: Annotated[str, 64, 64]
    columns: Annotated[int, 4, 15]
    segment: Annotated[int, 0, 1 << 32]
    start_bound: Annotated[int, 1, 1 << 240]
    previous: Annotated[str, 0, 64]

    def __post_init__(self) -> None:
        self.layers, self.steps, self.samples = len(self.widths) - 1, len(self.rates), len(self.rates) * self.batch
        self.cross_entropy, f, g = self.loss == "cross_entropy", self.activation_bits, self.gradient_bits
        self.largest_gradient = (1 << 16) + (1 << g) if self.cross_entropy else 1 << 17 + g - f
        self.end_bound = self.start_bound + sum(self.rates) * self.batch * (1 << 16) * self.largest_gradient
        parts = (b"header", self.header, b"data", self.data, b"start", self.start, b"end", self.end)
        self.digest = sha256(b"zkaudit statement" + framed(*parts)).hexdigest()


def read_file(file: bytes) -> tuple[Statement, bytes]:
    """The statement and the proof section; Refused unless the file and the statement are as sections 2 and 3 say."""
    demand(len(file) <= LARGEST_FILE, "the file is larger than 2^30 bytes")
    demand(file[:12] == MAGIC + b"\1\0\0\0", "the file is not a zkaudit proof file of version 1")
    place, sections = 12, list[bytes]()
    for name in ("header", "data", "start", "end", "proof"):
        length = int.from_bytes(file[place : place + 8], "little")
        demand(place + 8 + length <= len(file), f"the file ends before its section {name!r}")
        sections.append(file[place + 8 : place + 8 + length])
        place += 8 + length
    demand(place == len(file), "bytes follow the last section")
    header, data, start, end, proof = sections
    statement = Statement(header, data, start, end, **_fields(header))
    _check(statement)
    return statement, proof


def _fields(header: bytes) -> dict[str, Any]:
    """The fields of a header in canonical form, each of its type and within the limits that are its own."""
    demand(header.count(b"[") + header.count(b"{") < 2000, "the header is nested")  # too deep for json; a seed may hold 1024
    try:
        known: Any = json.loads(header.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise Refused("the header is no ASCII JSON") from error
    limits = {key: hint for key, hint in get_type_hints(Statement, include_extras=True).items() if hint is not bytes}
    fields: dict[str, Any] = known if type(known) is dict else {}
    demand(fields.keys() == limits.keys(), "the header is no object with exactly the keys of a header")
    for key, hint in limits.items():
        kind, (low, high), value = hint.__origin__, hint.__metadata__, fields[key]
        demand(type(value) is (get_origin(kind) or kind), f"{key} is not of its type")
        numbers = [len(value)] if kind is str else [value] if kind is int else value
        demand(all(type(n) is int and low <= n <= high for n in numbers), f"{key}: a number or length outside {low} to {high}")
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    demand(canonical.encode() == header, "the header is not in canonical form")
    return fields


def _check(s: Statement) -> None:
    """The limits that tie fields to each other, and the batch seed."""
    demand(s.loss in ("cross_entropy", "square"), "the loss is unknown")
    demand(1 <= s.layers <= 64 and 1 <= s.steps <= 1 << 20, "there are too many layers or steps, or none")
    demand(s.batch <= s.rows and s.samples <= 1 << 22, "the batch is too large")
    demand(s.activation_bits <= s.gradient_bits, "gradient_bits are below activation_bits")
    demand(s.activation_bits + s.gradient_bits <= s.weight_bits, "weight_bits are too few")
    demand(not re.search("[\ud800-\udfff]", s.seed), "the seed holds a lone surrogate")
    demand(bool(re.fullmatch("[0-9a-f]{64}", s.batch_seed)), "batch_seed is not 64 hexadecimal digits")
    demand(bool(re.fullmatch("[0-9a-f]{64}" if s.segment else "", s.previous)), "previous is no digest, or not empty at first")
    if s.segment == 0:
        demand(s.first_step == 0, "the first segment does not begin at step 0")
        demand(s.start_bound == 1 << s.weight_bits + 3, "the first segment's start_bound is another")
        parts = (b"zkaudit batch seed", s.seed.encode(), f"({s.rows}, {s.batch})".encode(), s.data, s.start)
        demand(s.batch_seed == sha256(framed(*parts)).hexdigest(), "the batch seed does not follow from the statement")
    largest = (max(s.widths) + 1) * max(1 << 16, s.largest_gradient) * s.end_bound
    demand(max(largest, 1 << s.weight_bits + 18, s.widths[-1] << 50) < R // 4, "values may leave the field")


def sample_rows(s: Statement) -> list[int]:
    """row(i), the data row of sample i, for all samples of the segment."""
    rows: list[int] = []
    for step in range(s.first_step, s.first_step + s.steps):
        epoch, place = divmod(step, s.rows // s.batch)
        if place == 0 or step == s.first_step:
            seed = b"zkaudit batches" + bytes.fromhex(s.batch_seed) + epoch.to_bytes(8, "little")
            stream = shake_256(seed).digest(8 * s.rows)
            order = sorted(range(s.rows), key=lambda row: int.from_bytes(stream[8 * row : 8 * row + 8], "little"))
        rows += order[place * s.batch : (place + 1) * s.batch]
    return rows
