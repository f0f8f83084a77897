"""A machine as a place: what zk/backend.py hands out for arrays that are there."""

from __future__ import annotations

from functools import partial
from typing import Any

from zkaudit.zk import backend
from zkaudit.zk.errors import BadInput
from zkaudit.zk.gpu import leaves, points, rounds, rows, small, vector
from zkaudit.zk.gpu.machine import Machine

RESERVED = 1 << 30  # bytes of a machine for tables of points and what others have there
NAMES = ("cpu", "cuda", "auto", "twin")
CALLS = {
    vector: ("add", "sub", "mul", "neg", "inverse", "total", "dot", "outer_sum", "exclusive_cumsum", "fold", "blocked_dot"),
    small: (
        *("dot_small", "combine", "combine_all", "segment_dot", "evaluate_small", "affine", "words8", "words16", "histogram"),
        *("ternary_sums", "fold_small"),
    ),
    rounds: ("products_round", "fraction_layer", "fraction_round", "fraction_fold", "fraction_fold_round"),
    leaves: ("leaf_round", "leaf_write", "leaf_layer"),
}

_opened: dict[str, backend.Place] = {}


def place(name: str) -> backend.Place:
    """Where to compute: "cpu", "cuda", "twin", or "auto": a GPU if there is one. BadInput where that is not to be had."""
    if name == "auto":
        try:
            return place("cuda")
        except BadInput:
            return backend.HOST
    if name == "cpu":
        return backend.HOST
    if name not in NAMES:
        raise BadInput(f"device '{name}' is not known; choose one of {', '.join(NAMES)}")
    if name not in _opened:
        _opened[name] = backend.register(DevicePlace(_machine(name)))
    return _opened[name]


def _machine(name: str) -> Machine:
    if name == "twin":
        from zkaudit.zk.gpu.twin import Twin

        return Twin()
    from zkaudit.zk.gpu.cuda import Cuda

    return Cuda()


class _Calls:
    """The compiled core's calls, run by a machine."""

    def __init__(self, machine: Machine, calls: dict[Any, tuple[str, ...]]) -> None:
        for module, names in calls.items():
            for name in names:
                setattr(self, name, partial(getattr(module, name), machine))


class DevicePlace:
    """See backend.Place."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.name, self.kind = machine.name, machine.kind
        self.core: Any = _Calls(machine, CALLS)
        self.curve: Any = _Calls(machine, {rows: ("msm_rows",), points: ("msm", "fold")})

    def ready(self) -> str:
        return self.machine.ready()

    def memory_bytes(self) -> int:
        return max(0, self.machine.memory_bytes() - RESERVED)

    def empty(self, *shape: int) -> Any:
        return self.machine.empty(shape)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.machine.xp.zeros(shape, dtype)

    def full(self, shape: tuple[int, ...], value: int, dtype: Any) -> Any:
        return self.machine.xp.full(shape, value, dtype)

    def put(self, array: Any) -> Any:
        return self.machine.put(array)

    def get(self, array: Any) -> Any:
        return self.machine.get(array)

    def contiguous(self, array: Any, dtype: Any = None) -> Any:
        return self.machine.xp.ascontiguousarray(array, dtype)

    def set_aside(self, array: Any) -> Any:
        return self.machine.get(array) if self.machine.is_scarce() else array
