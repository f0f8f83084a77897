"""The witness: every committed table of a segment, made from the trace that a training run left.

`segment_witness` builds it. The virtual tensors (activations, gradients) follow from the tables alone, so that what is proved
is what is committed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from zkaudit.zk import field
from zkaudit.zk.backend import HOST, Place, contiguous, place_of
from zkaudit.zk.errors import BadInput
from zkaudit.zk.layout import LIMB, SIGN_OFFSET, Layout, exponential_table, limb_bits
from zkaudit.zk.statement import ACTIVATION_RANGE, EXPONENTIAL_BITS, WEIGHT_MARGIN
from zkaudit.zk.trace import Integers, Trace


def segment_witness(trace: Trace, layout: Layout, batches: Integers, place: Place = HOST) -> Witness:
    """All tables of the layout's segment, at `place`; BadInput names what lies outside its range or does not follow."""
    s = layout.statement
    tables = _run_tables(trace, layout, place)
    start = _weights_before(trace, layout)
    witness = Witness(layout, tables, batches)
    stored_at, end = trace.state_before(s.first_step + s.steps)
    is_stored = stored_at == s.first_step + s.steps
    if not is_stored:
        end = _after(start, witness)
    tables |= {**weight_tables(layout, "start", start, place), **weight_tables(layout, "end", end, place)}
    if is_stored and not _follow(witness):
        raise BadInput(f"the trace's weights after step {stored_at - 1} do not follow from its updates")
    if s.segment == 0:
        tables |= start_limb_tables(layout, tables)
    return witness


class Witness:
    """Tables by block name, and the network's virtual tensors in terms of them."""

    def __init__(self, layout: Layout, tables: Mapping[str, Any], batches: Integers) -> None:
        self.layout, self.tables, self.batches = layout, tables, batches
        self.activation = cache(self._activation)
        self.gradient = cache(self._gradient)

    @cached_property
    def start(self) -> list[Integers]:
        """Start weights of each layer, (d + 1, d') with the bias row last."""
        return self._weights("start")

    @cached_property
    def end(self) -> list[Integers]:
        """End weights, likewise."""
        return self._weights("end")

    def _activation(self, j: int) -> Any:
        """A_j with the bias column, transposed: (d_j + 1, padded samples)."""
        s = self.layout.statement
        count, width = s.steps * s.batch, s.widths[j]
        if j == 0:
            inputs = np.take(self.tables["x"][:width], self._place.put(self.batches.reshape(-1)), axis=1)
            table = self._place.zeros((width + 1, self.layout.samples), np.result_type(inputs.dtype, np.int32))
            np.subtract(inputs, table.dtype.type(SIGN_OFFSET), out=table[:width, :count])
        else:
            positive, value = 1 - self._signs(j - 1)[:width, :count], self.tables[f"p{j - 1}"][:width, :count]
            kind = np.result_type(positive.dtype, value.dtype, np.uint16)
            table = self._place.zeros((width + 1, self.layout.samples), kind)
            np.multiply(positive, value, out=table[:width, :count])
        table[width, :count] = 1 << s.activation_bits
        return table

    def _gradient(self, j: int) -> Any:
        """G_j, transposed: (d_{j+1}, padded samples)."""
        s = self.layout.statement
        count, width = s.steps * s.batch, s.widths[j + 1]
        if j < s.layers - 1:
            signs, value = self._signs(j)[:width, :count], self.tables[f"ga{j}"][:width, :count]
            table = self._place.zeros((width, self.layout.samples), np.result_type(signs.dtype, value.dtype, np.int32))
            np.subtract(value, table.dtype.type(SIGN_OFFSET), out=table[:, :count])
            table[:, :count] *= 1 - signs
            return table
        target = np.take(self.tables["y"][:width], self._place.put(self.batches.reshape(-1)), axis=1).astype(np.int64)
        table = self._place.zeros((width, self.layout.samples), np.int64)
        if s.loss == "cross_entropy":
            table[:, :count] = self.tables["q"][:width, :count] - (target << s.gradient_bits)
        else:
            output = self.tables["z"][:width, :count].astype(np.int64) - SIGN_OFFSET
            table[:, :count] = (output - target) << (s.gradient_bits - s.activation_bits)
        return narrow(table)

    def _signs(self, j: int) -> Any:
        """Layer j's sign bits, in a type that also holds their complements."""
        signs = self.tables[f"b{j}"]
        return signs if signs.dtype == np.uint8 and int(signs.max()) <= 1 else signs.astype(np.int64)

    @property
    def _place(self) -> Place:
        return place_of(self.tables["x"])

    def _weights(self, name: str) -> list[Integers]:
        widths = self.layout.statement.widths
        return [
            contiguous(np.concatenate([self.tables[f"{name}{j}"][:units, :d].T, self.tables[f"{name}{j}.bias"][:, :units]]))
            for j, (d, units) in enumerate(itertools.pairwise(widths))
        ]


def data_tables(layout: Layout, x: Integers, y: Integers) -> dict[str, Any]:
    """The committed data set: inputs with offset, targets as they are."""
    _require_range("inputs", x, -SIGN_OFFSET, SIGN_OFFSET)
    _require_range("targets", y, 0, 1 << LIMB)
    return {"x": placed(layout, "x", (x + SIGN_OFFSET).T), "y": placed(layout, "y", y.T)}


def weight_tables(layout: Layout, name: str, weights: Sequence[Integers], place: Place = HOST) -> dict[str, Any]:
    """Weights (d + 1, outputs), the bias row last, as the blocks called `name`; made at `place`."""
    tables = {}
    for j, matrix in enumerate(weights):
        matrix = place.put(matrix)
        tables[f"{name}{j}"] = placed(layout, f"{name}{j}", matrix[:-1].T)
        tables[f"{name}{j}.bias"] = placed(layout, f"{name}{j}.bias", matrix[-1:])
    return tables


def start_limb_tables(layout: Layout, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Limbs of the start weights, padding included, after adding the offset that makes them non-negative."""
    width = layout.statement.weight_bits + WEIGHT_MARGIN
    limbs: dict[str, Any] = {}
    for block in layout.start:
        weights = tables[block.name]
        _require_range("start weights", weights, -(1 << width), 1 << width)
        words = np.add(weights, 1 << width, dtype=np.int64).astype("<i8", copy=False).view("<u2").reshape(*weights.shape, 4)
        for k, _ in enumerate(limb_bits(width + 1)):
            limbs[f"{block.name}.{k}"] = contiguous(words[..., k])
    return limbs


def _run_tables(trace: Trace, layout: Layout, place: Place) -> dict[str, Any]:
    """Data and layers of the layout's steps: all from which activations and gradients follow."""
    tables = data_tables(layout, *trace.data())
    for j in range(layout.statement.layers):
        tables |= _layer_tables(trace, layout, j, place)
    return {name: place.put(table) for name, table in tables.items()}


def _layer_tables(trace: Trace, layout: Layout, j: int, place: Place) -> dict[str, Any]:
    s = layout.statement
    wide, remainder = "<u4" if s.weight_bits <= 32 else "<i8", limb_bits(s.weight_bits)

    def samples(name: str, kind: str, at: Place = HOST) -> Integers:
        return trace.samples(name, kind, j, s.first_step, s.steps, at)

    def large(name: str, kind: str) -> Any:
        return samples(name, kind, place)

    tables = _limb_tables(layout, f"r{j}.", large(f"r{j}", wide), remainder)
    if j < s.layers - 1:
        z = large(f"z{j}", "<i4")
        _require_range(f"pre-activations of layer {j}", z, -(1 << ACTIVATION_RANGE), 1 << ACTIVATION_RANGE)
        gradient = large(f"ga{j}", "<i4")
        _require_range(f"gradients of layer {j}", gradient, -SIGN_OFFSET, SIGN_OFFSET)
        tables |= {
            f"p{j}": _words(layout, f"p{j}", z),  # z modulo 2^16
            f"b{j}": _words(layout, f"b{j}", z, shift=63, kind=np.uint8),
            f"ga{j}": _words(layout, f"ga{j}", gradient, offset=SIGN_OFFSET),
        }
        return tables | _limb_tables(layout, f"rg{j}.", large(f"rg{j}", wide), remainder)
    z = samples(f"z{j}", "<i4").astype(np.int64)
    if s.loss == "square":
        _require_range(f"pre-activations of layer {j}", z, -SIGN_OFFSET, SIGN_OFFSET)
        return tables | {"z": placed(layout, "z", z + SIGN_OFFSET)}
    quotient, rho = samples("p", "<i4").astype(np.int64), samples("rho", "<i8").astype(np.int64)
    softmax = softmax_tables(z, quotient, rho, s.activation_bits)
    return tables | {name: placed(layout, name, values) for name, values in softmax.items()}


def _limb_tables(layout: Layout, prefix: str, values: Integers, bits: list[int]) -> dict[str, Any]:
    """Block `prefix`k holds limb k of `values`; what exceeds the last limb's bits stays in it, for the range check to find."""
    if int(values.min()) < 0 or int(values.max()) >> (LIMB * len(bits)):
        limbs = _limbs(prefix, place_of(values).get(values).astype(np.int64), bits)
        return {name: placed(layout, name, limb) for name, limb in limbs.items()}
    return {f"{prefix}{k}": _words(layout, f"{prefix}{k}", values, shift=LIMB * k) for k in range(len(bits))}


def _words(layout: Layout, name: str, values: Integers, offset: int = 0, shift: int = 0, kind: type[Any] = np.uint16) -> Any:
    """The lowest bits of (values + offset) >> shift, `values` of shape (units, samples), in the block's padded table."""
    block, at = layout.named[name], place_of(values)
    table = at.zeros((block.highs, block.lows), kind)
    write = at.core.words8 if kind is np.uint8 else at.core.words16
    write(at.contiguous(values.T), offset, shift, table)
    return table


def softmax_tables(z: Integers, quotient: Integers, rho: Integers, activation_bits: int) -> dict[str, Any]:
    """The loss layer's tables from outputs (classes, samples), quotients and remainders of the same shape."""
    maximum = z.max(axis=0, keepdims=True)
    distance = maximum - z
    _require_range("distances to the largest output", distance, 0, 1 << ACTIVATION_RANGE)
    exponential = exponential_table(activation_bits)[distance].astype(np.int64)
    total = exponential.sum(axis=0, keepdims=True)
    one_hot = (np.arange(len(z))[:, None] == distance.argmin(axis=0)).astype(np.int64)
    tables = {"m": maximum + SIGN_OFFSET, "d": distance, "e": exponential, "h": one_hot, "q": quotient}
    tables["s"] = np.repeat(total, len(z), axis=0)
    return tables | _limbs("rho.", rho, [LIMB, LIMB]) | _limbs("sigma.", total - 1 - rho, [LIMB, LIMB])


def narrow(table: Integers) -> Any:
    """The same integers in the smallest type the core reads."""
    low, high = (int(table.min()), int(table.max())) if table.size else (0, 0)
    for kind in (np.uint8, np.uint16, np.int32, np.uint32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return contiguous(table, kind)
    return contiguous(table, np.int64)


def placed(layout: Layout, name: str, values: Integers) -> Any:
    """`values` in the corner of the block's padded table; exponentials are padded with the table's row for distance 0."""
    block = layout.named[name]
    table = place_of(values).full((block.highs, block.lows), 1 << EXPONENTIAL_BITS if name == "e" else 0, np.int64)
    table[: values.shape[0], : values.shape[1]] = values
    return narrow(table)


def _weights_before(trace: Trace, layout: Layout) -> list[Integers]:
    """Start weights of the layout's segment, from the nearest stored state and the updates since."""
    s = layout.statement
    step, weights = trace.state_before(s.first_step)
    if step < s.first_step:
        rates = tuple(trace.manifest["learning_rate"][step : s.first_step])
        between = Layout(replace(s, first_step=step, rates=rates, segment=1))
        weights = _after(weights, Witness(between, _run_tables(trace, between, HOST), trace.batches(step, len(rates))))
    return weights


def _after(weights: Sequence[Integers], witness: Witness) -> list[Integers]:
    """Weights after the witness's steps."""
    s = witness.layout.statement
    updated = []
    for j, matrix in enumerate(weights):
        a, g = (place_of(x).get(x).astype(np.int64) for x in (witness.activation(j), witness.gradient(j)))
        total = matrix.astype(np.int64)
        for t, rate in enumerate(s.rates):
            step = slice(t * s.batch, (t + 1) * s.batch)
            total = total - rate * _exact_product(a[:, step], g[:, step].T, rate)
        updated.append(total)
    return updated


def _follow(witness: Witness) -> bool:
    """Whether the end weights follow from the witness's steps, by random combinations of rows and columns (Freivalds 1977)."""
    s = witness.layout.statement
    used, rates = s.steps * s.batch, field.from_ints(np.repeat(s.rates, s.batch).tolist())
    for j, (before, after) in enumerate(zip(witness.start, witness.end, strict=True)):
        rows, columns = (field.from_wide_bytes(os.urandom(64 * n)) for n in before.shape)
        change = np.subtract(after, before, dtype=np.int64)
        a, g = field.combine(rows, witness.activation(j))[:used], field.combine(columns, witness.gradient(j))[:used]
        if (field.evaluate_small(change, rows, columns) + field.dot(field.mul(a, rates), g)) % field.MODULUS:
            return False
    return True


def _exact_product(a: Integers, b: Integers, rate: int) -> Integers:
    """a @ b by float64 products of 16-bit halves of b, each exact below 2^53; BadInput if rate times it could leave 63 bits."""
    largest = int(np.abs(a).max(initial=0)) * a.shape[1]
    if largest << LIMB >= 1 << 53 or largest * int(np.abs(b).max(initial=0)) * rate >= 1 << 62:
        raise BadInput("the trace's updates are too large for exact 64-bit arithmetic: lower the batch, rate or gradient_bits")
    high, low = b >> LIMB, b & ((1 << LIMB) - 1)
    left = a.astype(np.float64)
    product: Integers = ((left @ high).astype(np.int64) << LIMB) + (left @ low).astype(np.int64)
    return product


def _limbs(prefix: str, values: Integers, bits: list[int]) -> dict[str, Any]:
    """`prefix`k -> limb k; what exceeds the last limb's bits stays in it, for the range check to find."""
    last = len(bits) - 1
    shifted = [values >> (LIMB * k) for k in range(len(bits))]
    return {f"{prefix}{k}": value if k == last else value & ((1 << LIMB) - 1) for k, value in enumerate(shifted)}


def _require_range(what: str, values: Integers, low: int, high: int) -> None:
    if values.size and (int(values.min()) < low or int(values.max()) >= high):
        raise BadInput(f"the trace holds {what} outside [{low}, {high}): {values.min()} to {values.max()}")
