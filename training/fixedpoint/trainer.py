"""The exact trainer: stochastic gradient descent on a ReLU network in integers, nothing rounded but the activations.

With f, g, w fractional bits of activations, gradients and weights, and layers j = 0..L-1:
    Z_j    = [A_j, 2^f] W_j = 2^w Z'_j + R_j - 2^(w-1)      0 <= R_j < 2^w;  the last row of W_j is the bias
    A_j+1  = max(Z'_j, 0)                                   j < L-1
    G_L-1  = the loss's gradient at Z'_L-1                  loss.py
    G_j+1 W_j+1^T = 2^w GA'_j + RG_j - 2^(w-1)              without the bias row
    G_j    = GA'_j where Z'_j >= 0, else 0
    W_j   <- W_j - c_t [A_j, 2^f]^T G_j
Everything is an integer whose range is checked, so the result depends on neither machine nor threads. docs/proof-system.md
says why the ranges are what they are, docs/training.md why every product is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zkaudit.training.config import Settings
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint import exact
from zkaudit.training.fixedpoint.adapted_step import AdaptedStep
from zkaudit.training.fixedpoint.deferred import deferred_steps
from zkaudit.training.fixedpoint.projected_step import ProjectedStep, Subspace
from zkaudit.training.fixedpoint.step import Arrays, Step
from zkaudit.training.trace import stored_type

WEIGHT_MARGIN = 3  # start weights lie below 2^(w + 3)

Sink = Callable[[Arrays, Sequence[Any]], None]


def train(
    start: Sequence[Tensor],
    x: Tensor,
    y: Tensor,
    batches: NDArray[np.int64],
    settings: Settings,
    sink: Sink | None = None,
    first_step: int = 0,
    device: torch.device | str = "cpu",
    deferred: bool | None = None,
    frozen: Sequence[Tensor] = (),
    moments: Sequence[Tensor] = (),
    seed: bytes | None = None,
) -> list[Tensor]:
    """Train from `start`, the weights before `first_step`; returns the weights after the last step, int64, on the CPU.

    start: int64 (d_j + 1, d_{j+1}) a layer, the bias row last; with LoRA `frozen` are these, and `start` holds the two matrices
    of each adapter. moments: GaLore's before `first_step`, all first ones and then all second ones, (kept units, rank) a layer;
    by default zeros. seed: the batch seed, for a random basis. x: int64 (rows, d_0), scaled by 2^f. y: int64 (rows, outputs),
    one-hot, scaled by 2^f for the square loss. batches: rows of each step of the whole run, (steps, batch).
    `sink` gets, after each step, that step's arrays by their names in the trace (docs/trace-format.md) and the updated state
    (weights, then GaLore's bases and moments), something that numpy makes arrays of; both are valid during the call only.
    device: where all of it is computed; deferred: whether ranges are checked at a step's end instead of where they arise, by
    default on a GPU only. Neither changes a number. TrainingError names step, layer and value when a number leaves its range.
    """
    if first_step == 0:
        check_start([*frozen, *start], settings)
    place, numbers = torch.device(device), range(first_step, len(batches))
    is_plain = settings.galore is None and settings.lora is None
    is_deferred = is_plain and (deferred or (deferred is None and place.type != "cpu"))
    try:
        with torch.cuda.device(place) if place.type == "cuda" else nullcontext():
            weights = [matrix.to(place, torch.float64) for matrix in [*frozen, *start]]
            subspaces = _subspaces(settings, moments, seed, place)
            make = _careful(settings, subspaces, len(batches))
            given = numbers, weights, x.to(place, torch.float64), y.to(place), batches, settings
            for arrays, updated in deferred_steps(*given) if is_deferred else _steps(*given, make):
                weights = updated
                if sink is not None:
                    sink(arrays, [*map(_lazy, weights[len(frozen) :]), *_lazy_state(subspaces)])
            return [matrix.to("cpu", torch.int64) for matrix in weights[len(frozen) :]]
    except torch.cuda.OutOfMemoryError:
        raise TrainingError(
            "the GPU has too little free memory for this network, data set and batch; use --device cpu"
        ) from None


def check_start(start: Sequence[Tensor], settings: Settings) -> None:
    """TrainingError unless every start weight lies within the range that the proof commits to."""
    bits = settings.fixed_point.weight_bits
    for j, matrix in enumerate(start):
        if exact.magnitude(matrix) >= 1 << (bits + WEIGHT_MARGIN):
            largest = exact.magnitude(matrix) / 2**bits
            raise TrainingError(
                f"layer {j + 1} of {len(start)}: a start weight is as large as {largest:.4g}; they must lie below "
                f"{1 << WEIGHT_MARGIN}, so scale the start weights down"
            )


Make = Callable[[int, list[Tensor], list[int]], Step]


def _careful(settings: Settings, subspaces: list[Subspace], steps: int) -> Make:
    """What makes a step that looks at every number, of the settings' method."""

    def make(t: int, weights: list[Tensor], largest: list[int]) -> Step:
        if settings.lora is not None:
            return AdaptedStep(t, weights, largest, settings, steps)
        if settings.galore is not None:
            return ProjectedStep(t, weights, largest, settings, steps, subspaces)
        return Step(t, weights, largest, settings, steps)

    return make


def _subspaces(settings: Settings, moments: Sequence[Tensor], seed: bytes | None, place: torch.device) -> list[Subspace]:
    if settings.galore is None:
        return []
    layers = len(settings.galore.ranks)
    found = [[moment.to(place) for moment in moments[j::layers]] for j in range(layers)]
    return [Subspace(settings.galore, j, found[j], seed) for j in range(layers)]


def _lazy_state(subspaces: list[Subspace]) -> list[_Lazy]:
    """Each layer's basis, unless the seed fixes it, and with Adam its moments, in the order of the trace's state."""
    state = []
    for subspace in subspaces:
        if subspace.method.basis == "svd":
            state.append(_lazy(subspace.basis))
        if subspace.method.optimizer == "adam":
            state += [_Lazy(partial(subspace.moments.after, k)) for k in range(2)]
    return state


def _steps(
    numbers: range,
    weights: list[Tensor],
    x: Tensor,
    y: Tensor,
    batches: NDArray[np.int64],
    settings: Settings,
    make: Make,
) -> Iterator[tuple[Arrays, list[Tensor]]]:
    """Each step's arrays and the weights after it, both valid until the next is asked for."""
    largest = [exact.magnitude(matrix) for matrix in weights]
    for t in numbers:
        rows = torch.from_numpy(np.ascontiguousarray(batches[t])).to(x.device)
        arrays = make(t, weights, largest).run(x[rows], y[rows])
        yield {"batch": batches[t], **{name: _narrowed(name, value, settings) for name, value in arrays.items()}}, weights


def _narrowed(name: str, values: Tensor, settings: Settings) -> NDArray[np.generic]:
    """The array in the type that the trace stores it in."""
    return np.asarray(values.cpu().numpy()).astype(stored_type(name, settings.fixed_point.weight_bits))


class _Lazy:
    """A matrix that is made and comes to the host when numpy asks for it, which is once a chunk."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self._make = make

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._make().to(torch.int64).cpu().numpy(), dtype)


def _lazy(matrix: Tensor) -> _Lazy:
    """One that is there already."""
    return _Lazy(lambda: matrix)
