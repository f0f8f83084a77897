"""What a worker gets that does not see the run's folder: the part of the trace that its segment needs, in memory.

It is not unpacked into files, so that a worker which is killed leaves no secrets behind. (Ray itself writes objects to a disk
when its store is full.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk import segments
from zkaudit.zk.engine.job import Job, Supplies
from zkaudit.zk.errors import BadInput
from zkaudit.zk.trace import Trace, read_trace


@dataclass(frozen=True)
class ShippedTrace(Trace):
    """A part of the trace `folder` of another machine; `contents` are its files' bytes by name."""

    contents: Mapping[str, NDArray[np.uint8]]

    def _read(self, name: str, kind: str, shape: tuple[int, ...]) -> Any:
        held, expected = self.contents.get(name), int(np.prod(shape)) * np.dtype(kind).itemsize
        if held is None or held.nbytes != expected:
            found = "is missing" if held is None else f"has {held.nbytes} bytes"
            raise BadInput(f"{self.folder / name} {found}; {expected} bytes are expected for shape {shape}")
        return held.view(kind).reshape(shape)


def ship(job: Job) -> Supplies:
    """Read what the job needs into memory; BadInput if the run's folder does not hold it."""
    trace, s = read_trace(job.run / "trace"), job.statement
    paths = _files(trace.folder, int(trace.manifest["chunk_steps"]), s.first_step, s.first_step + s.steps)
    contents = {str(path.relative_to(trace.folder)): np.fromfile(path, np.uint8) for path in paths}
    return Supplies(ShippedTrace(trace.folder, trace.manifest, contents), segments.openings(job.run, s))


def _files(folder: Path, chunk_steps: int, first: int, end: int) -> Iterator[Path]:
    """Data, the chunks of steps first .. end - 1, and the weights stored before them."""
    yield from folder.glob("data.*.bin")
    chunks = range(first // chunk_steps, (end - 1) // chunk_steps + 1)
    yield from folder.glob(f"chunk-{chunks.start - 1:05d}/weights*.bin" if chunks.start else "start.w*.bin")
    for chunk in chunks:
        yield from folder.glob(f"chunk-{chunk:05d}/*.bin")
