"""Verifying proof files: one segment, or a chain of segments. Needs numpy and the core; trusts no byte of a file."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zkaudit.zk import argument, hiding, proof_file
from zkaudit.zk.circuit import galore
from zkaudit.zk.errors import BadInput, InvalidProof
from zkaudit.zk.layout import Layout
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.statement import check_succession, derive_batch_seed


@dataclass(frozen=True)
class Verdict:
    """What a verification found. `assumes` says what a chain that does not begin at segment 0 leaves open."""

    valid: bool
    reason: str
    steps: int
    segments: int
    soundness_bits: int
    seconds: float
    assumes: str = ""
    statements: list[dict[str, Any]] = field(default_factory=list)


def verify_files(paths: Sequence[Path], budget: int | None = None) -> Verdict:
    """Verify one proof or a chain: files and folders of segments, in any order.

    BadInput for files that are no proofs and, given a budget, for any whose `work` is above it, before that work is done.
    """
    started = time.perf_counter()
    files = sorted((_read(path, budget) for path in _segment_paths(paths)), key=lambda file: file.statement.segment)
    try:
        for file in files:
            verify_segment(file)
        for before, after in itertools.pairwise(files):
            _check_chained(before, after)
        reason = ""
    except InvalidProof as error:
        reason = str(error)
    first = files[0].statement
    assumes = "" if first.segment == 0 else f"segments 0 to {first.segment - 1}: their proofs were not given"
    return Verdict(
        valid=not reason,
        reason=reason or "every check passed",
        steps=sum(file.statement.steps for file in files),
        segments=len(files),
        soundness_bits=min(argument.soundness_bits(file.statement) for file in files),
        seconds=time.perf_counter() - started,
        assumes=assumes,
        statements=[file.statement.to_json() for file in files],
    )


def work(file: ProofFile) -> int:
    """What time and memory of a verification grow with, at most, whether the proof is valid or not.

    Counted are the file's bytes, the generators of a committed row, and both sides of every committed table: a verifier
    decodes the first, multiplies the second and makes weight vectors as long as the third. A few bytes can state large tables.
    What a sampler draws and what GaLore averages comes to it.
    """
    s, layout = file.statement, Layout(file.statement)
    draws = s.sampler.work(s.rows, s.batch, s.steps) if s.sampler is not None else 0
    draws += sum(layer.verifier_work() for layer in galore.layers(s))
    return sum(file.sizes().values()) + (1 << s.columns) + sum(b.highs + b.lows for b in layout.blocks) + draws


def verify_segment(file: ProofFile) -> None:
    """Check one segment's proof; InvalidProof names what failed."""
    statement, layout = file.statement, Layout(file.statement)
    data, start, end, inside = argument.committed_bytes(statement, layout)
    for name, given, expected in (
        ("data", statement.data, data),
        ("start", statement.start, start),
        ("end", statement.end, end),
    ):
        if len(given) != expected:
            raise InvalidProof(f"the {name} commitment has {len(given)} bytes; the shapes ask for {expected}")
    if len(file.proof) < inside:
        raise InvalidProof(f"the proof has {len(file.proof)} bytes; its commitments alone take {inside}")
    if statement.segment == 0 and statement.batch_seed != derive_batch_seed(statement):
        raise InvalidProof("the batch seed does not follow from the public seed and the commitments")
    channel = hiding.HidingVerifier(argument.DOMAIN, statement.columns, file.proof)
    for blocks, encoded in ((layout.data, statement.data), (layout.start, statement.start), (layout.end, statement.end)):
        channel.adopt(blocks, encoded)
    argument.verify(statement, channel)


def _read(path: Path, budget: int | None) -> ProofFile:
    if budget is None:
        return proof_file.read(path)
    file = proof_file.read(path, min(budget, proof_file.LARGEST))
    if work(file) > budget:
        raise BadInput(f"{path}: to verify what it states takes {work(file)} units of work; the budget is {budget}")
    return file


def _check_chained(before: ProofFile, after: ProofFile) -> None:
    try:
        check_succession(before.statement, after.statement)
    except BadInput as error:
        raise InvalidProof(str(error)) from None


def in_order(paths: Sequence[Path]) -> list[Path]:
    """The proof files among `paths` and in folders among them, by segment; BadInput for what is none, or a folder without."""
    return sorted(_segment_paths(paths), key=lambda path: proof_file.read(path).statement.segment)


def _segment_paths(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.glob("segment-*.zkp"))
            if not inside:
                raise BadInput(f"the folder {path} holds no segment proofs")
            found += inside
        else:
            found.append(path)
    return found
