"""The compiled core of this machine, and the check that an array is one it can read.

The core is built for any CPU and, on x86, once more for those with AVX-512 IFMA, several times as fast. ZKAUDIT_LANES=scalar
or ifma in the environment forces one of the two.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zkaudit.zk.errors import BadInput

__all__ = ["Array", "Small", "check", "check_small", "core", "curve_core", "empty"]


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

Shape = tuple[int | None, ...]

_SMALL_TYPES = {np.dtype(name) for name in ("uint8", "uint16", "int32", "uint32", "int64")}


def empty(*shape: int) -> Array:
    """An array of elements with any contents; large ones take memory that earlier ones have left."""
    if prod(shape) < _LARGE:
        return np.empty(shape, np.uint64)
    return core.empty(prod(shape[:-1])).reshape(shape)


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
