"""The compiled core of this machine, where arrays are, and the check that an array is one that a core can read.

The core is built for any CPU and, on x86, once more for those with AVX-512 IFMA, several times as fast. ZKAUDIT_LANES=scalar
or ifma in the environment forces one of the two.

A place is the host, or a GPU (gpu/): memory, and the core's calls on arrays that are there. A call runs where one of its arrays
is; operands from the host are brought there. Results that have become short come back to the host, which works on them
faster than a GPU begins to.
"""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from zkaudit.zk.errors import BadInput

__all__ = [
    "HOST",
    "Array",
    "Place",
    "Small",
    "check",
    "check_small",
    "contiguous",
    "core",
    "curve_core",
    "empty",
    "home",
    "is_short",
    "place_of",
    "register",
    "set_aside",
]


def _load() -> list[Any]:
    """The modules, with threads that sleep while they wait: beside other programs, spinning ones stall calls for time slices.

    OpenMP reads the setting once, when it is loaded. The environment is left as it was.
    """
    given = "OMP_WAIT_POLICY" in os.environ
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        scalar = [import_module(f"zkaudit.zk.{name}") for name in ("_field", "_curve")]
        wide = scalar[0].has_ifma() and all(find_spec(f"{core.__name__}_ifma") for core in scalar)
        lanes = os.environ.get("ZKAUDIT_LANES") or ("ifma" if wide else "scalar")
        if lanes not in ("scalar", "ifma") or (lanes == "ifma" and not wide):
            raise BadInput(f"ZKAUDIT_LANES={lanes}: this machine has the lanes scalar{' and ifma' if wide else ''}")
        return scalar if lanes == "scalar" else [import_module(f"{core.__name__}_ifma") for core in scalar]
    finally:
        if not given:
            del os.environ["OMP_WAIT_POLICY"]


if TYPE_CHECKING:
    from zkaudit.zk import _curve as curve_core
    from zkaudit.zk import _field as core
else:
    core, curve_core = _load()

Array = npt.NDArray[np.uint64]
"""Elements: ``uint64[..., 4]``, Montgomery form, C-contiguous."""

Small = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.int32] | npt.NDArray[np.uint32] | npt.NDArray[np.int64]
"""Integers that are multiplied as they are, C-contiguous."""

_LARGE = 1 << 18  # limbs, 2 MiB
_SHORT = 1 << 16  # limbs: 2^14 elements take the host as long as a GPU takes to begin

Shape = tuple[int | None, ...]

_SMALL_TYPES = {np.dtype(name) for name in ("uint8", "uint16", "int32", "uint32", "int64")}


class Place(Protocol):
    """Memory, and the core's calls on arrays there."""

    name: str
    core: Any
    curve: Any

    def ready(self) -> str:
        """Load what the calls need; what computes here, by name."""
        ...

    def memory_bytes(self) -> int:
        """The memory that proving may fill here."""
        ...

    def empty(self, *shape: int) -> Any:
        """An array of elements with any contents."""
        ...

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """As numpy's."""
        ...

    def full(self, shape: tuple[int, ...], value: int, dtype: Any) -> Any:
        """As numpy's."""
        ...

    def put(self, array: Any) -> Any:
        """The array here; itself if it is here."""
        ...

    def get(self, array: Any) -> Any:
        """The array on the host; itself if it is there."""
        ...

    def contiguous(self, array: Any, dtype: Any = None) -> Any:
        """As numpy's ascontiguousarray."""
        ...

    def set_aside(self, array: Any) -> Any:
        """An array that is not needed for a while: on the host if memory here is scarce."""
        ...


def empty(*shape: int) -> Array:
    """An array of elements on the host with any contents; large ones take memory that earlier ones have left."""
    if prod(shape) < _LARGE:
        return np.empty(shape, np.uint64)
    return core.empty(prod(shape[:-1])).reshape(shape)


class _Host:
    """This machine's memory and CPU."""

    name = "cpu"
    core: Any = core
    curve: Any = curve_core

    def ready(self) -> str:
        return self.name

    def memory_bytes(self) -> int:
        return sys.maxsize  # what the host has is counted where segments are planned

    def empty(self, *shape: int) -> Any:
        return empty(*shape)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.zeros(shape, dtype)

    def full(self, shape: tuple[int, ...], value: int, dtype: Any) -> Any:
        return np.full(shape, value, dtype)

    def put(self, array: Any) -> Any:
        return array

    def get(self, array: Any) -> Any:
        return array

    def contiguous(self, array: Any, dtype: Any = None) -> Any:
        return np.ascontiguousarray(array, dtype)

    def set_aside(self, array: Any) -> Any:
        return array


HOST: Place = _Host()
_places: dict[type, Place] = {}

Registered = TypeVar("Registered", bound=Place)


def register(place: Registered) -> Registered:
    """Make a place known by the type of its arrays, `place.kind`."""
    _places[place.kind] = place  # type: ignore[attr-defined]
    return place


def place_of(*arrays: Any) -> Place:
    """Where the arrays are: the host unless one of them is elsewhere."""
    for array in arrays:
        found = _places.get(type(array))
        if found is not None:
            return found
    return HOST


def is_short(array: Any, work: int = 1) -> bool:
    """Whether an array belongs on the host: of elements, or of what takes `work` times as long."""
    return bool(array.size * work <= _SHORT)


def home(array: Any, work: int = 1) -> Any:
    """The array, on the host if it has become short; as it is otherwise."""
    return place_of(array).get(array) if is_short(array, work) else array


def set_aside(array: Any) -> Any:
    """Place.set_aside, wherever the array is."""
    return place_of(array).set_aside(array)


def contiguous(array: Any, dtype: Any = None) -> Any:
    """numpy's ascontiguousarray, wherever the array is."""
    return place_of(array).contiguous(array, dtype)


def check(name: str, a: Array, shape: Shape | None = None) -> None:
    """ValueError unless `a` holds elements; `shape` is the one it must have, None standing for any length."""
    if a.dtype != np.uint64 or not a.shape or a.shape[-1] != 4 or not a.flags.c_contiguous:
        raise ValueError(f"{name}: need contiguous uint64[..., 4], got {_describe(a)}")
    _check_shape(name, a.shape, shape)


def check_small(name: str, a: Small, shape: Shape | None = None) -> None:
    """ValueError unless `a` holds small integers; `shape` as in `check`."""
    if a.dtype not in _SMALL_TYPES or not a.flags.c_contiguous:
        raise ValueError(f"{name}: need contiguous uint8, uint16, int32, uint32 or int64, got {_describe(a)}")
    _check_shape(name, a.shape, shape)


def _check_shape(name: str, actual: tuple[int, ...], wanted: Shape | None) -> None:
    if wanted is None or actual == wanted:
        return
    if len(actual) != len(wanted) or any(w is not None and a != w for a, w in zip(actual, wanted, strict=True)):
        raise ValueError(f"{name}: need shape ({', '.join('any' if w is None else str(w) for w in wanted)}), got {actual}")


def _describe(a: npt.NDArray[np.generic]) -> str:
    return f"{'' if a.flags.c_contiguous else 'strided '}{a.dtype}{list(a.shape)}"
