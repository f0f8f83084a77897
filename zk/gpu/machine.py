"""What runs kernels: a GPU, or its twin. Arrays of a machine are of a type of their own, which tells where they are."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk.backend import core as host

WORKERS = 1 << 16  # threads of a sum, at most: enough to fill a GPU
ITEMS = 8  # of a sum for each of its threads, at least
LEFT = 128  # partial sums that are added up on the host
JOINED = 32  # partial sums that one thread adds up


class Machine(Protocol):
    """Memory and kernels."""

    name: str
    kind: type[Any]
    xp: Any  # numpy's functions for arrays of this machine

    def ready(self) -> str:
        """Load every kernel; the machine's name for people."""
        ...

    def memory_bytes(self) -> int:
        """All of its memory."""
        ...

    def is_scarce(self) -> bool:
        """Whether more than half of the memory is in use. An allocation that does not fit is a MemoryError."""
        ...

    def launch(self, kernel: str, threads: int, body: bytes) -> None:
        """Run a kernel's body (cuda/gpu/kernel.cuh) for every i < threads."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: Any = np.uint64) -> Any:
        """An array with any contents."""
        ...

    def put(self, array: Any) -> Any:
        """The array in this machine's memory; itself if it is there."""
        ...

    def get(self, array: Any) -> NDArray[Any]:
        """The array in the host's memory."""
        ...

    def put_bytes(self, data: bytes) -> Any:
        """Bytes in this machine's memory."""
        ...

    def pointer(self, array: Any) -> int:
        """Where its data begin."""
        ...


def run(machine: Machine, kernel: str, threads: int, *fields: Any) -> None:
    """Launch a kernel with these fields: arrays of the machine are pointers, host arrays their bytes, integers int64."""
    if threads > 0:
        machine.launch(kernel, threads, packed(machine, fields))


def packed(machine: Machine, fields: Sequence[Any]) -> bytes:
    """A struct of such fields."""
    parts = []
    for field in fields:
        if isinstance(field, int):
            parts.append(struct.pack("<q", field))
        elif isinstance(field, machine.kind):
            parts.append(struct.pack("<Q", machine.pointer(field)))
        elif field is None:
            parts.append(bytes(8))
        else:
            parts.append(field.tobytes())
    return b"".join(parts)


def count(a: Any) -> int:
    """Elements of an array of elements."""
    return int(a.size) // 4


def reduce(machine: Machine, kernel: str, outputs: int, n: int, *fields: Any) -> NDArray[np.uint64]:
    """The sums of a kernel that is a `Reduce`, over [0, n): host elements, (outputs, 4)."""
    workers = max(1, min(n // ITEMS, WORKERS))
    partial = machine.empty((outputs, workers, 4))
    run(machine, kernel, workers, *fields, partial, n, workers)
    return added_up(machine, partial)


def added_up(machine: Machine, partial: Any) -> NDArray[np.uint64]:
    """The sum of each row of partial sums (outputs, workers, 4): host elements, (outputs, 4)."""
    outputs, workers = partial.shape[:2]
    while workers > 2 * LEFT:
        parts = max(LEFT, workers // JOINED)
        fewer = machine.empty((outputs, parts, 4))
        run(machine, "sum_rows", outputs * parts, partial, fewer, workers, parts)
        partial, workers = fewer, parts
    out = np.empty((outputs, 4), np.uint64)
    for k, row in enumerate(machine.get(partial)):
        host.total(np.ascontiguousarray(row), out[k : k + 1])
    return out
