"""The trainer's semantics once more, slow and plain, in Python integers: an oracle, and a trainer that can be made to cheat.

Written from the formulas of docs/proof-system.md without the trainer's code: no torch, no floats, no ranges that could wrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import ROUND_FLOOR, Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np

HIDDEN_RANGE, SIGNED_RANGE, DISTANCES = 1 << 16, 1 << 15, 1 << 16

Array = Any  # a numpy array of Python integers
Tamper = Callable[[str, int, int, Array], Array]


class OutOfRange(Exception):
    """An honest run left a range: which array, step and layer."""


def reference_run(
    widths: Sequence[int], loss: str, f: int, g: int, w: int, rates: Sequence[int],
    x: Any, y: Any, start_weights: Sequence[Any], batches: Any, tamper: Tamper | None = None,
) -> dict[str, Array]:  # fmt: skip
    """Every array of the run, stacked over steps: z, r, P, B, ga, rg by layer, p, rho, m, d, e, and the weights end.w by layer.

    `tamper(name, step, layer, value)` may change an intermediate right after it was computed; all that follows from it is
    computed honestly, and no range is checked then.
    """
    run = _Reference(list(widths), loss, (f, g, w), tamper)
    x, y = _integers(x), _integers(y)
    weights = [_integers(matrix) for matrix in start_weights]
    for step, rows in enumerate(batches):
        weights = run.step(step, x[list(rows)], y[list(rows)], weights, int(rates[step]))
    return {name: np.stack(values) for name, values in run.arrays.items()} | {f"end.w{j}": v for j, v in enumerate(weights)}


class _Reference:
    def __init__(self, widths: list[int], loss: str, bits: tuple[int, int, int], tamper: Tamper | None) -> None:
        self.layers, self.loss, self.tamper = len(widths) - 1, loss, tamper
        self.f, self.g, self.w = bits
        self.number = 0
        self.arrays: dict[str, list[Array]] = {}

    def step(self, number: int, inputs: Array, targets: Array, weights: list[Array], rate: int) -> list[Array]:
        self.number, last = number, self.layers - 1
        a = self.said("input", 0, inputs)
        targets = self.said("target", last, targets)
        activations, signs = [], []
        for j in range(self.layers):
            activations.append(_with_ones(a, 1 << self.f))
            z = self.rescaled("z_acc", "z", "r", j, activations[j].dot(weights[j]))
            self.require(z, SIGNED_RANGE if j == last else HIDDEN_RANGE, "z", j)
            if j < last:
                b = self.kept("B", j, _integers(z < 0))
                p = self.kept("P", j, z + HIDDEN_RANGE * b)
                signs.append(b)
                a = (1 - b) * p
        gradients: list[Array] = [None] * self.layers
        gradients[last] = self.said("g", last, self.loss_gradient(z, targets))
        for j in reversed(range(last)):
            received = self.rescaled("ga_acc", "ga", "rg", j, gradients[j + 1].dot(weights[j + 1][:-1].T))
            self.require(received, SIGNED_RANGE, "ga", j)
            gradients[j] = self.said("g", j, (1 - signs[j]) * received)
        updated = []
        for j in range(self.layers):
            change = self.said("dw", j, activations[j].T.dot(gradients[j]))
            updated.append(self.said("w", j, weights[j] - rate * change))
        return updated

    def rescaled(self, accumulated: str, quotient: str, remainder: str, j: int, product: Array) -> Array:
        total = self.said(accumulated, j, product) + (1 << (self.w - 1))
        result = self.kept(quotient, j, total // (1 << self.w))
        self.kept(remainder, j, total % (1 << self.w))
        return result

    def loss_gradient(self, z: Array, targets: Array) -> Array:
        if self.loss == "square":
            return (z - targets) * (1 << (self.g - self.f))
        m = self.softmax_part("m", z.max(axis=1)[:, None])
        d = self.softmax_part("d", m - z)
        if self.tamper is None and (d >= DISTANCES).any():
            raise OutOfRange(f"d, step {self.number}")
        e = self.softmax_part("e", np.vectorize(lambda distance: exponential(distance, self.f), otypes=[object])(d))
        total = e.sum(axis=1)[:, None]
        p = self.softmax_part("p", e * (1 << self.g) // total)
        self.softmax_part("rho", e * (1 << self.g) - p * total)
        return p - targets * (1 << self.g)

    def require(self, values: Array, limit: int, name: str, layer: int) -> None:
        if self.tamper is None and ((values < -limit).any() or (values >= limit).any()):
            raise OutOfRange(f"{name}, step {self.number}, layer {layer}")

    def kept(self, name: str, layer: int, value: Array) -> Array:
        value = self.said(name, layer, value)
        self.arrays.setdefault(f"{name}{layer}", []).append(value)
        return value

    def softmax_part(self, name: str, value: Array) -> Array:
        value = self.said(name, self.layers - 1, value)
        self.arrays.setdefault(name, []).append(value)
        return value

    def said(self, name: str, layer: int, value: Array) -> Array:
        return value if self.tamper is None else _integers(self.tamper(name, self.number, layer, value))


@cache
def exponential(distance: int, f: int) -> int:
    """floor(2^16 exp(-distance / 2^f)) with fifty digits."""
    with localcontext() as context:
        context.prec = 50
        return int((65536 * (Decimal(-distance) / 2**f).exp()).to_integral_value(ROUND_FLOOR))


def _with_ones(a: Array, one: int) -> Array:
    return np.concatenate([a, np.full((len(a), 1), one, object)], axis=1)


def _integers(values: Any) -> Array:
    """The same numbers as Python integers."""
    array = np.asarray(values)
    result = np.empty(array.shape, object)
    result[...] = np.vectorize(int, otypes=[object])(array) if array.size else array
    return result
