"""GaLore, LoRA and FP8 once more, slow and plain, in Python integers: an oracle, and a trainer that can be made to cheat.

Written from the formulas of zk/circuit/galore.py, lora.py and fp8.py, without the trainer's code: no torch, no floats. What the
methods leave as it is comes from the reference trainer. With P the basis of step t's period, i the step's place in it:

    R, rest = round(P^T D / 2^shift)          D = [A, 2^f]^T G; "right": R = (D P)^T
    M, V    = decay[i + 1] (m, v) + sum of weights[l] (R, R^2)[i - l],     S = floor(sqrt(V / 2^b)),    U = floor(M / (S + eps))
    W      -= c_t P U,      at a period's end m, v = floor(M / 2^b), floor(V / 2^b)

Moments stored in 8 bits: M = d m + w R and V = d' (s^2 + s + 1/4) + w' R^2 with public d, w, d', w' of the step, and after it
m, s = cast(floor((M + o) / 2^b)), cast(S) with a public o."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor, isqrt
from typing import Any

import numpy as np
from cast_reference import cast, cast_moment

from zkaudit.zk.statement import Statement
from zkaudit.zk.testing.reference_trainer import (
    HIDDEN_RANGE,
    SIGNED_RANGE,
    OutOfRange,
    Tamper,
    _integers,
    _Reference,
    _with_ones,
)

Array = Any  # a numpy array of Python integers


@dataclass(frozen=True)
class Data:
    """What a segment's training begins with. Moments: first and second of each layer, (kept units, rank), zeros if none are
    given. Bases by (layer, period), (units, rank), where the seed does not fix them."""

    inputs: Any
    targets: Any
    start: list[Any]  # the trained matrices: the layers', or the two of each adapter
    frozen: list[Any] = field(default_factory=list)
    moments: list[Any] = field(default_factory=list)
    bases: dict[tuple[int, int], Any] = field(default_factory=dict)


def method_run(statement: Statement, data: Data, batches: Any, tamper: Tamper | None = None) -> dict[str, Array]:
    """Every array of the statement's steps, stacked over steps: those of reference_run; casts "cast" and "gcast"; inside an
    adapter h, hr, gh, ghr; GaLore's projected, rest, mean, square, root, direction, (rank, kept units) each; first and second,
    stacked over periods. Then the state at the end: end.w by matrix, end.first and end.second by layer.

    `tamper(name, step, layer, value)` is the reference trainer's hook; its steps count from the segment's first.
    """
    run = _Methods(statement, data, tamper)
    x, y = _integers(data.inputs), _integers(data.targets)
    weights = [_integers(matrix) for matrix in data.start]
    for step, rows in enumerate(batches):
        weights = run.step(step, x[list(rows)], y[list(rows)], weights, int(statement.rates[step]))
    found = {name: np.stack(values) for name, values in run.arrays.items()}
    found |= {f"end.w{i}": matrix for i, matrix in enumerate(weights)}
    for name in ("first", "second"):
        found |= {f"end.{name}{j}": found[f"{name}{j}"][-1].T for j in range(run.layers) if f"{name}{j}" in found}
    return found


class _Methods(_Reference):
    def __init__(self, statement: Statement, data: Data, tamper: Tamper | None) -> None:
        s = self.statement = statement
        super().__init__(list(s.widths), s.loss, (s.activation_bits, s.gradient_bits, s.weight_bits), tamper)
        self.data, self.frozen = data, [_integers(matrix) for matrix in data.frozen]
        moments = [_integers(moment).T for moment in data.moments]
        self.moments = {j: (moments[2 * j], moments[2 * j + 1]) for j in range(len(moments) // 2)}
        self.basis: dict[int, Array] = {}
        self.fresh: dict[int, list[Array]] = {}

    def step(self, number: int, inputs: Array, targets: Array, weights: list[Array], rate: int) -> list[Array]:
        self.number, last, lora = number, self.layers - 1, self.statement.lora
        layers, adapters = weights, dict[int, tuple[Array, Array]]()
        if lora is not None:
            layers, pairs = self.frozen, zip(weights[::2], weights[1::2], strict=True)
            adapters = {j: pair for (j, _), pair in zip(lora.adapters, pairs, strict=True)}
        a = self.said("input", 0, inputs)
        targets = self.said("target", last, targets)
        activations, signs, hidden = [], [], {}
        for j in range(self.layers):
            activations.append(_with_ones(a, 1 << self.f))
            product = activations[j].dot(layers[j])
            if j in adapters:
                hidden[j] = self.inside("h", j, a.dot(adapters[j][0]))
                product = product + hidden[j].dot(adapters[j][1])
            z = self.rescaled("z_acc", "z", "r", j, product)
            self.require(z, SIGNED_RANGE if j == last else HIDDEN_RANGE, "z", j)
            if j < last:
                b = self.kept("B", j, _integers(z < 0))
                p = self.kept("P", j, z + HIDDEN_RANGE * b)
                signs.append(b)
                a = (1 - b) * self.cast("cast", j, p)
        gradient = self.said("g", last, self.loss_gradient(z, targets))
        updated = list(weights)
        for j in reversed(range(self.layers)):
            received = gradient.dot(layers[j][:-1].T)
            if j in adapters:
                first, second = adapters[j]
                inside = self.inside("gh", j, gradient.dot(second.T))
                received = received + inside.dot(first.T)
                m = 2 * list(adapters).index(j)
                change = self.said("dfirst", j, activations[j][:, :-1].T.dot(inside))
                updated[m] = self.said("first_adapter", j, first - rate * change)
                change = self.said("dsecond", j, hidden[j].T.dot(gradient))
                assert lora
                updated[m + 1] = self.said("second_adapter", j, second - rate * lora.factor // lora.divisor * change)
            elif lora is None:
                change = self.said("dw", j, self.change(j, activations[j], gradient))
                updated[j] = self.said("w", j, weights[j] - rate * change)
            if j:
                received = self.rescaled("ga_acc", "ga", "rg", j - 1, received)
                self.require(received, SIGNED_RANGE, "ga", j - 1)
                gradient = self.said("g", j - 1, (1 - signs[j - 1]) * self.cast("gcast", j - 1, received))
        return updated

    def inside(self, name: str, j: int, product: Array) -> Array:
        """What lies inside an adapter."""
        number = self.rescaled(f"{name}_acc", name, f"{name}r", j, product)
        self.require(number, SIGNED_RANGE, name, j)
        return number

    def cast(self, name: str, j: int, values: Array) -> Array:
        """FP8's casts, or the values as they are."""
        s = self.statement
        if s.fp8 is None:
            return values
        if name == "cast":
            kind, given, bits = "e4m3", s.fp8.activation_exponents[j], self.f
        else:
            kind, given, bits = s.fp8.gradient_format, s.fp8.gradient_exponents[j], self.g
        casts = np.empty(values.shape, object)
        for (row, unit), x in np.ndenumerate(values):
            exponent = given if isinstance(given, int) else given[unit // 16]
            casts[row, unit] = cast(x, kind, exponent + bits)
        return self.kept(name, j, casts)

    def change(self, j: int, activation: Array, gradient: Array) -> Array:
        """What the rate is multiplied with: D, or P U."""
        galore = self.statement.galore
        if galore is None:
            return activation.T.dot(gradient)
        if self.number % galore.gap == 0:
            self.basis[j] = self.said("basis", j, self._basis(j))
            self.fresh[j] = []
        basis, is_left = self.basis[j], galore.sides[j] == "left"
        whole = activation.T.dot(gradient)
        total = basis.T.dot(whole) if is_left else whole.dot(basis).T
        total = self.said("projected_acc", j, total) + (1 << (galore.shift - 1))
        projected = self.kept("projected", j, total // (1 << galore.shift))
        self.kept("rest", j, total % (1 << galore.shift))
        self.require_below(projected, SIGNED_RANGE, "projected", j)
        direction = self._adam(j, projected) if galore.is_adam else projected
        product = self.said("update_basis", j, basis).dot(direction)
        return product if is_left else product.T

    def _basis(self, j: int) -> Array:
        s, galore = self.statement, self.statement.galore
        assert galore
        period = (s.first_step + self.number) // galore.gap
        if galore.is_committed:
            return _integers(self.data.bases[j, period])
        units = s.widths[j] + 1 if galore.sides[j] == "left" else s.widths[j + 1]
        return signs(galore.basis_bits, units, galore.ranks[j], j, period, bytes.fromhex(s.batch_seed))

    def _adam(self, j: int, projected: Array) -> Array:
        galore = self.statement.galore
        assert galore
        if j not in self.moments:
            self.moments[j] = projected * 0, projected * 0
        if galore.is_stored:
            return self._stored_adam(j, projected)
        self.fresh[j].append(projected)
        i, one = len(self.fresh[j]) - 1, 1 << galore.moment_bits
        averages = []
        for k, (name, beta) in enumerate((("mean", galore.beta1), ("square", galore.beta2))):
            powers, weights = kernel(beta, galore.moment_bits, galore.gap)
            average = powers[i + 1] * self.moments[j][k]
            for lag in range(i + 1):
                average = average + weights[lag] * self.fresh[j][i - lag] ** (k + 1)
            averages.append(self.kept(name, j, average))
        mean, square = averages
        root = self.kept("root", j, np.vectorize(lambda v: isqrt(max(v, 0) // one), otypes=[object])(square))
        self.require_below(root + galore.epsilon, (1 << 16) + 1, "root", j)
        direction = self.kept("direction", j, mean // (root + galore.epsilon))
        self.require_below(direction, SIGNED_RANGE, "direction", j)
        if i + 1 == galore.gap or self.number + 1 == self.statement.steps:
            self.moments[j] = self.kept("first", j, mean // one), self.kept("second", j, square // one)
        return direction

    def _stored_adam(self, j: int, projected: Array) -> Array:
        galore = self.statement.galore
        assert galore
        first, second = (self.said(f"{name}_before", j, self.moments[j][k]) for k, name in enumerate(("first", "second")))
        bits, step = galore.moment_bits, self.statement.first_step + self.number
        one, (decay_1, weight_1, offset), (decay_2, weight_2) = 1 << bits, *dithered(galore.beta1, galore.beta2, bits, step)
        mean = self.kept("mean", j, decay_1 * first + weight_1 * projected)
        square = self.kept("square", j, decay_2 * (second**2 + second) + weight_2 * projected**2 + decay_2 // 4)
        exact = self.kept("exact", j, (mean + offset) // one)
        self.kept("exact_rest", j, mean + offset - exact * one)
        root = self.kept("root", j, np.vectorize(lambda v: isqrt(max(v, 0) // one), otypes=[object])(square))
        for name, values, low, limit in (("exact", exact, -SIGNED_RANGE, SIGNED_RANGE), ("root", root, 0, 1 << 16)):
            if self.tamper is None and ((values < low).any() or (values >= limit).any()):
                raise OutOfRange(f"{name}, step {self.number}, layer {j}")
        self.require_below(root + galore.epsilon, (1 << 16) + 1, "root", j)
        direction = self.kept("direction", j, mean // (root + galore.epsilon))
        self.require_below(direction, SIGNED_RANGE, "direction", j)
        stored = []
        for name, values, exponents in (
            ("first", exact, galore.first_exponents[j]), ("second", root, galore.second_exponents[j]),
        ):  # fmt: skip
            casts = np.empty(values.shape, object)
            for (place, unit), x in np.ndenumerate(values):
                exponent = exponents if isinstance(exponents, int) else exponents[unit // 16]
                casts[place, unit] = cast_moment(x, name, exponent)
            stored.append(self.kept(name, j, casts))
        self.moments[j] = stored[0], stored[1]
        return direction

    def require_below(self, values: Array, limit: int, name: str, layer: int) -> None:
        if self.tamper is None and (abs(values) >= limit).any():
            raise OutOfRange(f"{name}, step {self.number}, layer {layer}")


def kernel(beta: int, bits: int, length: int) -> tuple[list[int], list[int]]:
    """Powers of beta / 2^10 with 20 bits more than `bits`, each rounded down from the one before, and 1 - beta / 2^10 times
    them, both rounded to `bits` fractional bits."""
    power, powers, weights = 1 << (bits + 20), [], []
    for _ in range(length + 1):
        powers.append((power + (1 << 19)) >> 20)
        weights.append(((power * (1024 - beta) // 1024) + (1 << 19)) >> 20)
        power = power * beta // 1024
    return powers, weights[:length]


def dithered(beta1: int, beta2: int, bits: int, step: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Decay and weight of the first moment, and what is added before it is rounded; decay and weight of the second. Nearest
    integers to 2^bits times the rates and their complements, times g and g^2, where g goes from 15/16 to 17/16; what is added
    goes from 0 to 1."""
    g = Fraction(15, 16) + Fraction((step + 1) * 49471 % 65536, 8 * 65536)
    rates = [(Fraction(beta, 1024), 1 - Fraction(beta, 1024)) for beta in (beta1, beta2)]
    (decay_1, weight_1), (decay_2, weight_2) = (
        [floor(2**bits * rate * g**power + Fraction(1, 2)) for rate in pair] for power, pair in enumerate(rates, 1)
    )
    return (decay_1, weight_1, (step + 1) * 37345 % 65536 * 2**bits // 65536), (decay_2, weight_2)


def signs(basis_bits: int, units: int, rank: int, layer: int, period: int, seed: bytes) -> Array:
    """The basis that the batch seed fixes: bit after bit of SHAKE-256, highest bit of each byte first, row after row."""
    size = isqrt(4**basis_bits // units)
    name = layer.to_bytes(8, "little") + period.to_bytes(8, "little")
    stream = hashlib.shake_256(b"zkaudit basis" + seed + name).digest((units * rank + 7) // 8)
    entries = [size if stream[i // 8] >> (7 - i % 8) & 1 else -size for i in range(units * rank)]
    return _integers(entries).reshape(units, rank)
