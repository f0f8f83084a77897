"""The trace folder that a training run leaves for the prover; docs/trace-format.md describes it.

`TraceWriter` writes it chunk by chunk. The set-up (manifest, data, start weights) and every chunk are written under a temporary
name, flushed to the disk and renamed, so that a run killed at any moment goes on after its last whole chunk."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from zkaudit.training.config import RunConfig
from zkaudit.training.errors import TrainingError
from zkaudit.training.private_file import create, synchronise, synchronise_folder, writing
from zkaudit.training.provable import as_manifest
from zkaudit.zk.samplers import Sampler, written

FORMAT = "zkaudit-trace"
VERSION = 1
CHUNK_BYTES = 1 << 22  # a chunk takes about as much, or as much as the weights stored with it
LONGEST_CHUNK = 1024

Integers = NDArray[np.int64]


def manifest_of(config: RunConfig, widths: Sequence[int], rows: int, sampler: Sampler | None = None) -> dict[str, Any]:
    """The manifest of a run with this many training rows; sampler: what draws its batches, if that is no uniform one."""
    settings, bits = config.settings_for(tuple(widths)), config.fixed_point
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "widths": list(widths),
        "loss": settings.loss,
        "batch": settings.batch,
        "steps": len(settings.rates),
        "rows": rows,
        "activation_bits": bits.activation_bits,
        "gradient_bits": bits.gradient_bits,
        "weight_bits": bits.weight_bits,
        "learning_rate": list(settings.rates),
        "seed": config.training.seed,
    }
    for name in ("galore", "lora", "fp8"):
        if (method := getattr(settings, name)) is not None:
            manifest[name] = as_manifest(method)
    if sampler is not None:
        manifest["sampler"] = written(sampler)
    if config.training.records:
        manifest["records"] = True
    return {**manifest, "chunk_steps": _chunk_steps(manifest)}


def step_arrays(manifest: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> element type and shape of everything that one step adds to its chunk."""
    widths, batch = manifest["widths"], manifest["batch"]
    shapes: dict[str, tuple[int, ...]] = {"batch": (batch,)}
    for j, units in enumerate(widths[1:]):
        names = ("z", "r", "ga", "rg") if j < len(widths) - 2 else ("z", "r")
        shapes |= {f"{name}{j}": (batch, units) for name in names}
    if manifest["loss"] == "cross_entropy":
        shapes |= {name: (batch, widths[-1]) for name in ("p", "rho")}
    for j, rank in enumerate(manifest.get("lora", {}).get("ranks", ())):
        shapes |= {f"{name}{j}": (batch, rank) for name in ("h", "hr", "gh", "ghr") if rank}
    for j, (kept, _, rank) in enumerate(_subspaces(manifest)):
        shapes |= {f"{name}{j}": (rank, kept) for name in ("projected", "rest")}
    return {name: (stored_type(name, manifest["weight_bits"]), shape) for name, shape in shapes.items()}


def state_arrays(manifest: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, int]]]:
    """Name -> element type and shape of what is stored at a chunk's end: trained matrices, GaLore's bases and moments."""
    shapes = {f"weights{i}": ("<i8", shape) for i, shape in enumerate(trained_shapes(manifest))}
    for j, (kept, over, rank) in enumerate(_subspaces(manifest)):
        if manifest["galore"]["basis"] == "svd":
            shapes[f"basis{j}"] = ("<i4", (over, rank))
        if manifest["galore"]["optimizer"] == "adam":
            shapes |= {f"{name}{j}": ("<i8", (kept, rank)) for name in ("first", "second")}
    return shapes


def trained_shapes(manifest: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Of the trained matrices: each layer's with its bias as last row, with LoRA the two of each adapter instead."""
    pairs = list(itertools.pairwise(manifest["widths"]))
    if "lora" not in manifest:
        return [(d + 1, units) for d, units in pairs]
    ranks = [(j, rank) for j, rank in enumerate(manifest["lora"]["ranks"]) if rank]
    return [shape for j, rank in ranks for shape in ((pairs[j][0], rank), (rank, pairs[j][1]))]


def _subspaces(manifest: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """Of each layer with GaLore: units that are kept, units that the basis lies over, and the rank."""
    if "galore" not in manifest:
        return []
    galore, found = manifest["galore"], []
    for (d, units), side, rank in zip(itertools.pairwise(manifest["widths"]), galore["sides"], galore["ranks"], strict=True):
        found.append((units, d + 1, rank) if side == "left" else (d + 1, units, rank))
    return found


def stored_type(name: str, weight_bits: int) -> str:
    """The element type of a step's array: remainders of rescalings are as wide as the weights' fraction."""
    kind = name.rstrip("0123456789")
    if kind in ("r", "rg"):
        return "<u4" if weight_bits <= 32 else "<i8"
    return "<i8" if kind in ("batch", "rho", "rest", "hr", "ghr") else "<i4"


class TraceWriter:
    """Writes a trace. `done` steps are on the disk in whole chunks, `written` counts the ones since as well."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.steps, self._chunk_steps = int(manifest["steps"]), int(manifest["chunk_steps"])
        self._arrays = step_arrays(manifest)
        self._state = state_arrays(manifest)
        self._part = folder / ".chunk.part"
        self._files: dict[str, BinaryIO] = {}
        chunks = 0
        while self._chunk(chunks).is_dir():
            chunks += 1
        self.done = self.written = min(chunks * self._chunk_steps, self.steps)

    @classmethod
    def create(
        cls,
        folder: Path,
        manifest: Mapping[str, Any],
        x: Integers,
        y: Integers,
        start: Sequence[Integers],
        frozen: Sequence[Integers] = (),
    ) -> Self:
        """Make the folder with its manifest, quantised data, start weights and LoRA's frozen ones; all of it or nothing."""
        part = folder.with_name(f".{folder.name}.part")
        content = {"data.x.bin": (x, "<i4"), "data.y.bin": (y, "<i4")}
        content |= {f"start.w{i}.bin": (matrix, "<i8") for i, matrix in enumerate(start)}
        content |= {f"frozen.w{j}.bin": (matrix, "<i8") for j, matrix in enumerate(frozen)}
        with writing(part):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(mode=0o700)
            try:
                for name, (array, kind) in content.items():
                    _write_file(part / name, np.ascontiguousarray(array, kind).data)
                _write_file(part / "manifest.json", json.dumps(manifest).encode())
                synchronise_folder(part)
                part.rename(folder)
                synchronise_folder(folder.parent)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return cls(folder, manifest)

    @classmethod
    def resume(cls, folder: Path, manifest: Mapping[str, Any], x: Integers, y: Integers) -> Self:
        """Go on with the trace in `folder`; TrainingError if it was begun with another configuration or other data."""
        path = folder / "manifest.json"
        try:
            stored = json.loads(path.read_bytes())
            same_data = all(
                (folder / name).read_bytes() == np.ascontiguousarray(array, "<i4").tobytes()
                for name, array in (("data.x.bin", x), ("data.y.bin", y))
            )
        except OSError as error:
            raise TrainingError(f"cannot read {error.filename}: {error.strerror}") from None
        except ValueError as error:
            raise TrainingError(f"{path} is not JSON: {error}") from None
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise TrainingError(f"{path} is not the manifest of a {FORMAT}")
        for key in (*manifest, *sorted(stored.keys() - manifest.keys())):
            if stored.get(key) != manifest.get(key):
                there, asked = _short(stored.get(key)), _short(manifest.get(key))
                raise TrainingError(f"{folder} holds a run with {key} = {there}, not {asked}: give the new run another folder")
        if not same_data:
            raise TrainingError(f"{folder} holds a run on other data: give the new run another folder")
        return cls(folder, manifest)

    @property
    def complete(self) -> bool:
        """Whether the run has ended."""
        return (self.folder / "complete").exists()

    def start(self) -> list[Integers]:
        """The trained matrices before the first step: (inputs + 1, outputs) a layer, or LoRA's adapters."""
        shapes = trained_shapes(self.manifest)
        return [_read(self.folder / f"start.w{i}.bin", "<i8", shape) for i, shape in enumerate(shapes)]

    def frozen(self) -> list[Integers]:
        """LoRA's frozen weights, (inputs + 1, outputs) a layer; none otherwise."""
        pairs = itertools.pairwise(self.manifest["widths"]) if "lora" in self.manifest else ()
        return [_read(self.folder / f"frozen.w{j}.bin", "<i8", (d + 1, units)) for j, (d, units) in enumerate(pairs)]

    def weights(self) -> list[Integers]:
        """The trained matrices after `done` steps."""
        return self.state("weights") if self.done else self.start()

    def state(self, kind: str) -> list[Integers]:
        """What the last whole chunk stores of a kind, "weights", "basis", "first" or "second", in the order of layers."""
        chunk = self._chunk((self.done - 1) // self._chunk_steps)
        named = [(name, *how) for name, how in self._state.items() if name.rstrip("0123456789") == kind]
        return [_read(chunk / f"{name}.bin", stored, shape) for name, stored, shape in named]

    def last_batch(self) -> Integers:
        """The data rows of step `done - 1`, one of the stored ones."""
        path = self._chunk((self.done - 1) // self._chunk_steps) / "batch.bin"
        batches = _read(path, "<i8", (-1, self.manifest["batch"]))
        return np.asarray(batches[-1])

    def write(self, arrays: Mapping[str, NDArray[np.generic]], state: Sequence[Any]) -> None:
        """Add one step: its arrays by name, and the state after it, as `state_arrays` has it, stored at the end of a chunk."""
        with writing(self.folder):
            try:
                if not self._files:
                    self._open_chunk()
                for name, (kind, shape) in self._arrays.items():
                    if arrays[name].shape != shape:
                        raise ValueError(f"array '{name}' has shape {arrays[name].shape}, not {shape}")
                    self._files[name].write(np.ascontiguousarray(arrays[name]).astype(kind, casting="safe", copy=False).data)
                self.written += 1
                if self.written % self._chunk_steps == 0 or self.written == self.steps:
                    self._close_chunk(state)
            except BaseException:
                self._abandon_chunk()
                raise

    def finish(self) -> None:
        """Mark the run as complete."""
        if self.done != self.steps:
            raise ValueError(f"{self.done} of {self.steps} steps are written")
        with writing(self.folder):
            synchronise(create(self.folder / "complete"))
            synchronise_folder(self.folder)

    def _open_chunk(self) -> None:
        shutil.rmtree(self._part, ignore_errors=True)
        self._part.mkdir(mode=0o700)
        for name in self._arrays:
            self._files[name] = create(self._part / f"{name}.bin")

    def _close_chunk(self, state: Sequence[Any]) -> None:
        for file in self._files.values():
            synchronise(file)
        for (name, (kind, _)), array in zip(self._state.items(), state, strict=True):
            _write_file(self._part / f"{name}.bin", np.ascontiguousarray(array, kind).data)
        synchronise_folder(self._part)
        self._part.rename(self._chunk((self.written - 1) // self._chunk_steps))
        synchronise_folder(self.folder)
        self._files, self.done = {}, self.written

    def _abandon_chunk(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # closing flushes, which fails again on a full disk
                file.close()
        self._files, self.written = {}, self.done
        shutil.rmtree(self._part, ignore_errors=True)

    def _chunk(self, number: int) -> Path:
        return self.folder / f"chunk-{number:05d}"


def _chunk_steps(manifest: Mapping[str, Any]) -> int:
    """A power of two: the longest chunk within the size aimed at. With GaLore a chunk is a period, which has one basis."""
    if "galore" in manifest:
        return int(manifest["galore"]["gap"])
    arrays = step_arrays(manifest).values()
    step_bytes = sum(np.dtype(kind).itemsize * int(np.prod(shape)) for kind, shape in arrays)
    weight_bytes = 8 * sum((d + 1) * units for d, units in itertools.pairwise(manifest["widths"]))
    fitting = max(1, max(CHUNK_BYTES, weight_bytes) // step_bytes)
    return int(min(LONGEST_CHUNK, 1 << (fitting.bit_length() - 1)))


def _write_file(path: Path, content: Any) -> None:
    file = create(path)
    with file:
        file.write(content)
        synchronise(file)


def _read(path: Path, kind: str, shape: tuple[int, ...]) -> Integers:
    try:
        return np.fromfile(path, kind).reshape(shape).astype(np.int64)
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise TrainingError(f"{path} has {os.path.getsize(path)} bytes, which do not fit its shape {shape}") from None


def _short(value: object) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
