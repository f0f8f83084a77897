"""The trace folder of a training run, read strictly: docs/trace-format.md says what lies where."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk import methods, samplers
from zkaudit.zk.backend import HOST, Place
from zkaudit.zk.circuit.galore import Projected
from zkaudit.zk.errors import BadInput
from zkaudit.zk.methods import FP8, GaLore, LoRA
from zkaudit.zk.samplers import Sampler
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

    def frozen(self) -> list[Integers]:
        """LoRA's frozen weights, (d + 1, outputs) a layer; none otherwise."""
        if self.lora is None:
            return []
        pairs = zip(self.widths, self.widths[1:], strict=False)
        return [self._read(f"frozen.w{j}.bin", "<i8", (d + 1, units)).astype(np.int64) for j, (d, units) in enumerate(pairs)]

    def state_before(self, step: int) -> tuple[int, list[Integers]]:
        """What training last stored before `step`, and how many steps precede it: the trained matrices, (d + 1, outputs) a
        layer or LoRA's two adapters of each layer that has them, then GaLore's moments, (kept units, rank) each."""
        chunks = step // self._chunk_steps
        if step == self.steps and step % self._chunk_steps:
            chunks += 1
        shapes = self._trained_shapes()
        names = [f"chunk-{chunks - 1:05d}/weights{i}.bin" if chunks else f"start.w{i}.bin" for i in range(len(shapes))]
        state = [self._read(name, "<i8", shape).astype(np.int64, copy=False) for name, shape in zip(names, shapes, strict=True)]
        for j in range(self.layers) if self.galore is not None and self.galore.is_adam else ():
            state += self._moments(j, chunks)
        return min(chunks * self._chunk_steps, self.steps), state

    def batches(self, first: int, steps: int) -> Integers:
        """Data rows used by each step, (steps, batch)."""
        return self._steps("batch", "<i8", (int(self.manifest["batch"]),), first, steps)

    def samples(self, name: str, kind: str, layer: int, first: int, steps: int, place: Place = HOST) -> Integers:
        """A layer's array for some steps, transposed: (units, steps * batch), at `place`."""
        units = self.widths[layer + 1]
        values = self._steps(name, kind, (int(self.manifest["batch"]), units), first, steps, place)
        return values.reshape(-1, units).T

    def adapted(self, name: str, layer: int, first: int, steps: int) -> Integers:
        """An array of what lies inside a layer's adapter for some steps, transposed: (rank, steps * batch)."""
        rank = self.lora.ranks[layer] if self.lora else 0
        kind = "<i8" if name.endswith("r") else "<i4"
        values = self._steps(f"{name}{layer}", kind, (int(self.manifest["batch"]), rank), first, steps)
        return values.reshape(-1, rank).T.astype(np.int64)

    def projected(self, name: str, layer: Projected) -> Integers:
        """GaLore's "projected" gradients or their "rest" in the layer's segment, transposed: (kept units, steps * rank)."""
        s, kind = layer.statement, "<i4" if name == "projected" else "<i8"
        values = self._steps(f"{name}{layer.layer}", kind, (layer.rank, layer.kept), s.first_step, s.steps)
        return values.reshape(-1, layer.kept).T.astype(np.int64)

    def bases(self, layer: Projected) -> Integers:
        """GaLore's bases in the layer's segment, (units, periods * rank)."""
        first, shape = layer.statement.first_step // layer.spec.gap, (layer.over, layer.rank)
        names = [f"chunk-{first + k:05d}/basis{layer.layer}.bin" for k in range(layer.periods)]
        return np.concatenate([self._read(name, "<i4", shape) for name in names], axis=1).astype(np.int64)

    def _trained_shapes(self) -> list[tuple[int, int]]:
        pairs = list(zip(self.widths, self.widths[1:], strict=False))
        if self.lora is None:
            return [(d + 1, units) for d, units in pairs]
        return [shape for j, rank in self.lora.adapters for shape in ((pairs[j][0], rank), (rank, pairs[j][1]))]

    def _moments(self, j: int, chunks: int) -> list[Integers]:
        """GaLore's two moments of a layer after so many chunks; zeros before the first."""
        assert self.galore
        kept = self.widths[j + 1] if self.galore.sides[j] == "left" else self.widths[j] + 1
        shape = (kept, self.galore.ranks[j])
        if not chunks:
            return [np.zeros(shape, np.int64) for _ in range(2)]
        names = [f"chunk-{chunks - 1:05d}/{kind}{j}.bin" for kind in ("first", "second")]
        return [self._read(name, "<i8", shape).astype(np.int64) for name in names]

    @cached_property
    def galore(self) -> GaLore | None:
        """What the manifest says of GaLore."""
        return methods.read(GaLore, self.manifest.get("galore"))

    @cached_property
    def lora(self) -> LoRA | None:
        """What the manifest says of LoRA."""
        return methods.read(LoRA, self.manifest.get("lora"))

    @cached_property
    def fp8(self) -> FP8 | None:
        """What the manifest says of FP8."""
        return methods.read(FP8, self.manifest.get("fp8"))

    @cached_property
    def sampler(self) -> Sampler | None:
        """What the manifest says of how batches are chosen."""
        return samplers.read(self.manifest.get("sampler"))

    @property
    def has_records(self) -> bool:
        """Whether the run wrote step records, whose heads its statements carry."""
        return "records" in self.manifest

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
    for name, kind in methods.SPECS.items():
        try:
            spec = methods.read(kind, manifest.get(name))
            if isinstance(spec, GaLore) and spec.gap != manifest["chunk_steps"]:
                raise ValueError("its 'gap' must be 'chunk_steps'")
        except (ValueError, TypeError) as error:
            raise BadInput(f"{path}: '{name}': {error}") from None
    try:
        samplers.read(manifest.get("sampler"))
    except ValueError as error:
        raise BadInput(f"{path}: 'sampler': {error}") from None
    if manifest.get("records", True) is not True:
        raise BadInput(f"{path}: 'records' must be true, or absent")
    return Trace(folder, manifest)


def require_range(what: str, values: Integers, low: int, high: int) -> None:
    """BadInput unless all values lie in [low, high)."""
    if values.size and (int(values.min()) < low or int(values.max()) >= high):
        raise BadInput(f"the trace holds {what} outside [{low}, {high}): {values.min()} to {values.max()}")
