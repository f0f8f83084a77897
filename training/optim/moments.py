"""How an optimizer keeps a moment between steps: as it is, or in 8 bits a number.

"int8" is block_int8.py, "fp8" COAT's expanded E4M3 (fp8/expansion.py) in groups of 128. An entry of the state then holds codes
of the moment's shape, and entries beside it what reads them: `name`_scale, or `name`_largest and `name`_power. A moment of
fewer than `SMALLEST` numbers is kept as it is; whoever uses these functions lists it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zkaudit.training.fp8.expansion import Expanded, contract, expand
from zkaudit.training.optim.block_int8 import dequantize, quantize

STATES = ("float32", "int8", "fp8")
SMALLEST = 4096  # numbers in a moment from which it is worth it
READERS = ("scale", "largest", "power")


def keep(state: dict[str, Any], name: str, values: Tensor, states: str, *, signed: bool) -> None:
    """Put a moment into an optimizer's state; unsigned values must be >= 0."""
    for reader in READERS:
        state.pop(f"{name}_{reader}", None)
    if not is_compressed(values.numel(), states):
        state[name] = values
    elif states == "int8":
        state[name], state[f"{name}_scale"] = quantize(values, signed)
    else:
        state[name], state[f"{name}_largest"], state[f"{name}_power"] = expand(values)


def kept(state: dict[str, Any], name: str, dtype: torch.dtype, *, signed: bool) -> Tensor:
    """What `keep` put there; not a copy if it is not compressed."""
    stored: Tensor = state[name]
    if f"{name}_scale" in state:
        return dequantize(stored, state[f"{name}_scale"], signed, dtype)
    if f"{name}_power" in state:
        return contract(Expanded(stored, state[f"{name}_largest"], state[f"{name}_power"])).to(dtype)
    return stored


def is_compressed(numbers: int, states: str) -> bool:
    """Whether a moment of so many numbers is kept in 8 bits."""
    return states != "float32" and numbers >= SMALLEST
