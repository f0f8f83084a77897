"""The trace folder of a training run, read strictly: docs/trace-format.md says what lies where."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk.backend import HOST, Place
from zkaudit.zk.errors import BadInput
from zkaudit.zk.statement import LOSSES

Integers = NDArray[np.int64]

NUMBERS = ("batch", "steps", "rows", "activation_bits", "gradient_bits", "weight_bits", "chunk_steps")
LARGEST_MANIFEST = 1 << 26


@dataclass(frozen=True)
class Trace:
    """An opened trace folder: its manifest, and arrays as memory maps whose sizes have been checked."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden layers, outputs."""
        return tuple(self.manifest["widths"])

    @property
    def layers(self) -> int:
        return len(self.widths) - 1

    @property
    def steps(self) -> int:
        return int(self.manifest["steps"])

    @property
    def complete(self) -> bool:
        """Whether the run has ended."""
        return (self.folder / "complete").exists()

    def data(self) -> tuple[Integers, Integers]:
        """Quantised inputs (rows, d) and targets (rows, outputs)."""
        rows, widths = int(self.manifest["rows"]), self.widths
        x, y = self._read("data.x.bin", "<i4", (rows, widths[0])), self._read("data.y.bin", "<i4", (rows, widths[-1]))
        return x.astype(np.int64, copy=False), y.astype(np.int64, copy=False)

    def state_before(self, step: int) -> tuple[int, list[Integers]]:
        """The last stored weights before `step`, and how many steps precede them; each layer (d + 1, outputs)."""
        chunks = step // self._chunk_steps
        if step == self.steps and step % self._chunk_steps:
            chunks += 1
        names = [f"chunk-{chunks - 1:05d}/weights{j}.bin" if chunks else f"start.w{j}.bin" for j in range(self.layers)]
        shapes = [(d + 1, units) for d, units in zip(self.widths, self.widths[1:], strict=False)]
        weights = [
            self._read(name, "<i8", shape).astype(np.int64, copy=False) for name, shape in zip(names, shapes, strict=True)
        ]
        return min(chunks * self._chunk_steps, self.steps), weights

    def batches(self, first: int, steps: int) -> Integers:
        """Data rows used by each step, (steps, batch)."""
        return self._steps("batch", "<i8", (int(self.manifest["batch"]),), first, steps)

    def samples(self, name: str, kind: str, layer: int, first: int, steps: int, place: Place = HOST) -> Integers:
        """A layer's array for some steps, transposed: (units, steps * batch), at `place`."""
        units = self.widths[layer + 1]
        values = self._steps(name, kind, (int(self.manifest["batch"]), units), first, steps, place)
        return values.reshape(-1, units).T

    @property
    def _chunk_steps(self) -> int:
        return int(self.manifest["chunk_steps"])

    def _steps(self, name: str, kind: str, shape: tuple[int, ...], first: int, steps: int, place: Place = HOST) -> Integers:
        parts, end = [], first + steps
        while first < end:
            chunk, skip = divmod(first, self._chunk_steps)
            held = min(self._chunk_steps, self.steps - chunk * self._chunk_steps)
            take = min(held - skip, end - first)
            part = self._read(f"chunk-{chunk:05d}/{name}.bin", kind, (held, *shape))[skip : skip + take]
            parts.append(place.put(part))
            first += take
        return np.concatenate(parts)

    def _read(self, name: str, kind: str, shape: tuple[int, ...]) -> Any:
        path = self.folder / name
        expected = int(np.prod(shape)) * np.dtype(kind).itemsize
        if not path.is_file():
            raise BadInput(f"{path} is missing; the trace is incomplete")
        if path.stat().st_size != expected:
            raise BadInput(f"{path} has {path.stat().st_size} bytes; {expected} are expected for shape {shape}")
        return np.memmap(path, kind, "r", shape=shape)


def read_trace(folder: Path) -> Trace:
    """Open a trace folder; BadInput if it is none or its manifest lacks what a proof needs."""
    path = folder / "manifest.json"
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise BadInput(f"{path} is too large for a manifest")
        manifest = json.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"{folder} is not a trace: manifest.json: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != "zkaudit-trace" or manifest.get("version") != 1:
        raise BadInput(f"{path} is not the manifest of a zkaudit-trace of version 1")
    for name in NUMBERS:
        if type(manifest.get(name)) is not int or manifest[name] < 1:
            raise BadInput(f"{path}: '{name}' must be a positive integer")
    for name in ("widths", "learning_rate"):
        values = manifest.get(name)
        if not isinstance(values, list) or not values or any(type(x) is not int or x < 1 for x in values):
            raise BadInput(f"{path}: '{name}' must be a list of positive integers")
    for name in ("loss", "seed"):
        if not isinstance(manifest.get(name), str):
            raise BadInput(f"{path}: '{name}' must be a string")
    if manifest["loss"] not in LOSSES:
        raise BadInput(f"{path}: 'loss' must be one of {', '.join(LOSSES)}")
    if len(manifest["learning_rate"]) != manifest["steps"] or len(manifest["widths"]) < 2:
        raise BadInput(f"{path}: 'learning_rate' must have one entry a step, 'widths' at least two")
    return Trace(folder, manifest)
