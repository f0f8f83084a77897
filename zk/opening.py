"""Openings: the blindings that tie a commitment to its table. Whoever holds one, and the table, can check the two against
each other.

An opening is secret: it is kept beside the run, readable by its owner only, and given only to a recipient of the table itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zkaudit.zk import curve, field, hyrax, proof_file, strict_json
from zkaudit.zk.block import Block
from zkaudit.zk.channel import Blinder
from zkaudit.zk.errors import BadInput, InvalidProof
from zkaudit.zk.field import MODULUS, Array
from zkaudit.zk.layout import Layout
from zkaudit.zk.statement import POINT_BYTES
from zkaudit.zk.tables import narrow, trained_tables
from zkaudit.zk.trace import read_trace

FORMAT = "zkaudit-opening"
VERSION = 2
KINDS = ("data", "start-weights", "end-weights")
HASHED = 1 << 19  # integers of a piece, 4 MiB

Tables = Callable[[], Mapping[str, Any]]  # makes the tables of some blocks


@dataclass(frozen=True)
class Opening:
    """A commitment's compressed rows, the blinding of each, and the digest of what was committed to."""

    columns: int
    commitment: bytes
    blindings: Array
    digest: str

    def save(self, path: Path) -> None:
        """Write as JSON, owner-readable."""
        scalars = b"".join(x.to_bytes(32, "little") for x in field.to_ints(self.blindings))
        fields = {"format": FORMAT, "version": VERSION, "columns": self.columns}
        content = {**fields, "commitment": self.commitment.hex(), "blindings": scalars.hex(), "digest": self.digest}
        proof_file.write_whole(path, json.dumps(content).encode(), 0o600)


def load(path: Path) -> Opening:
    """Read an opening; BadInput if it is none."""
    try:
        content = strict_json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
            raise BadInput(f"{path} is not a zkaudit opening of version {VERSION}")
        commitment, scalars = bytes.fromhex(content["commitment"]), bytes.fromhex(content["blindings"])
        blindings = [int.from_bytes(scalars[i : i + 32], "little") for i in range(0, len(scalars), 32)]
        columns, digest_of_tables = int(content["columns"]), str(content["digest"])
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{path} is not a zkaudit opening: it cannot be parsed") from None
    if 48 * len(scalars) != 32 * len(commitment) or any(x >= MODULUS for x in blindings):
        raise BadInput(f"{path} is not a zkaudit opening: its rows and blindings do not match")
    return Opening(columns, commitment, field.from_ints(blindings), digest_of_tables)


def load_or_commit(
    path: Path, blocks: Sequence[Block], values: Sequence[Any], tables: Tables, columns: int, blinder: Blinder
) -> Opening:
    """The opening stored at `path`, which must be of `values`; if there is none, that of a fresh commitment to `tables()`."""
    found = digest(values)
    if path.exists():
        opening = load(path)
        if opening.columns != columns or opening.digest != found:
            raise BadInput(f"{path} does not open what the run holds now: its data or weights were changed since")
        return opening
    points, blindings = hyrax.commit(blocks, tables(), columns, blinder)
    opening = Opening(columns, curve.compress(points), blindings, found)
    opening.save(path)
    return opening


def digest(values: Sequence[Any]) -> str:
    """SHA-256 over arrays of integers, hex: tells whether they are those of an opening, at less cost than committing again.

    Pieces are hashed side by side, and then their digests.
    """
    pieces: list[Any] = []
    for array in values:
        content = np.ascontiguousarray(array, "<i8")
        pieces.append(f"{content.shape}".encode())
        flat = content.reshape(-1)
        pieces += [flat[first : first + HASHED].data for first in range(0, len(flat), HASHED)]
    with ThreadPoolExecutor(field.threads()) as pool:
        digests = pool.map(lambda piece: hashlib.sha256(piece).digest(), pieces)
        return hashlib.sha256(b"".join(digests)).hexdigest()


def weights_path(run: Path, step: int) -> Path:
    """Where the opening of the weights before `step` is kept."""
    return run / "openings" / f"weights-{step:08d}.json"


def data_path(run: Path) -> Path:
    """Where the opening of the data set is kept."""
    return run / "openings" / "data.json"


def reveal(run: Path, what: str, out: Path) -> None:
    """Copy the opening of `what` ("data", "start-weights" or "end-weights") for a recipient of the table itself."""
    trace = read_trace(run / "trace")
    if what not in KINDS:
        raise BadInput(f"'{what}' cannot be revealed; choose one of {', '.join(KINDS)}")
    steps = {"start-weights": 0, "end-weights": trace.steps}
    path = data_path(run) if what == "data" else weights_path(run, steps[what])
    if not path.exists():
        raise BadInput(f"{path} does not exist: prove the run first")
    load(path).save(out)


def check_model(proof_path: Path, model_path: Path, opening_path: Path) -> None:
    """InvalidProof unless the model file holds exactly the weights that the proof's end (or start) commitment commits to."""
    statement = proof_file.read(proof_path).statement
    opening = load(opening_path)
    which = {statement.end: "end", statement.start: "start"}.get(opening.commitment)
    if which is None or opening.columns != statement.columns:
        raise InvalidProof(f"{opening_path} opens neither the end nor the start weights of {proof_path}")
    layout = Layout(statement)
    weights = _read_model(model_path, which, layout)
    tables = trained_tables(layout, which, weights)
    if not opens(opening, layout.weights(which), tables, statement.columns):
        raise InvalidProof(f"{model_path} does not hold the {which} weights that the proof commits to")


def opens(opening: Opening, blocks: Sequence[Block], tables: Mapping[str, Any], columns: int) -> bool:
    """Whether the commitment begins with these blocks; GaLore's moments, which are in no model file, may follow."""
    rows = hyrax.rows(blocks, columns)
    if opening.columns != columns or len(opening.blindings) < rows:
        return False
    points = hyrax.commit_with(blocks, tables, columns, opening.blindings[:rows])
    return curve.compress(points) == opening.commitment[: POINT_BYTES * rows]


def _read_model(path: Path, which: str, layout: Layout) -> list[Any]:
    """The trained matrices of a model file, in the layout's order."""
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise BadInput("checking a model file needs the safetensors package: pip install 'zkaudit[train]'") from None
    try:
        tensors = load_file(path)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # the library raises its own type for every malformed file
        raise BadInput(f"{path} is not a safetensors file: {error}") from None
    names = sorted({int(name.split(".")[1]) for name in tensors if name.startswith(f"{which}.") and name.endswith(".weight")})
    statement = layout.statement
    if statement.lora is None and len(names) != statement.layers:
        raise InvalidProof(f"{path} holds {len(names)} layers called '{which}'; the proof is about {statement.layers}")
    found = []
    for i, m in enumerate(layout.trained):
        matrix = layout.matrices[m]
        if matrix.has_bias:
            parts: list[Any] = [tensors.get(f"{which}.{names[m]}.{part}") for part in ("weight", "bias")]
            shapes = [(matrix.columns, matrix.rows - 1), (matrix.columns,)]
        else:
            parts = [tensors.get(f"{which}.adapter{i // 2}.{'second' if i % 2 else 'first'}")]
            shapes = [(matrix.rows, matrix.columns)]
        if any(part is None or part.shape != shape for part, shape in zip(parts, shapes, strict=True)):
            what = f"{matrix.rows - matrix.has_bias} inputs, {matrix.columns} outputs"
            raise InvalidProof(f"{path}: matrix {i} has not the shape ({what}) that the proof is about")
        values = np.concatenate([parts[0].T, parts[1][None]]) if matrix.has_bias else parts[0]
        scaled = values.astype(np.float64) * 2.0**statement.weight_bits
        if not np.isfinite(scaled).all() or np.abs(scaled).max() >= 2.0**53 or (scaled != np.round(scaled)).any():
            raise InvalidProof(f"{path}: matrix {i} has weights that are no multiples of 2^-{statement.weight_bits}")
        found.append(narrow(scaled.astype(np.int64)))
    return found
