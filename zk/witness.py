"""The witness: every committed table of a segment, made from the trace that a training run left.

`segment_witness` builds it. The virtual tensors (activations, gradients) follow from the tables alone, so that what is proved
is what is committed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from zkaudit.zk import exact, field
from zkaudit.zk.backend import HOST, Place, contiguous, place_of
from zkaudit.zk.block import LIMB, SIGN_OFFSET, limb_bits, padded
from zkaudit.zk.circuit import casts, energy, fp8, galore, lora
from zkaudit.zk.circuit.arithmetic import split
from zkaudit.zk.circuit.galore_witness import galore_tables, moments_after
from zkaudit.zk.circuit.step import Tensor
from zkaudit.zk.circuit.step import pairs as step_pairs
from zkaudit.zk.errors import BadInput
from zkaudit.zk.layout import Layout, exponential_table
from zkaudit.zk.statement import ACTIVATION_RANGE
from zkaudit.zk.tables import data_tables, narrow, placed, start_limb_tables, weight_tables
from zkaudit.zk.trace import Integers, Trace, require_range


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
    moments = [x for layer in galore.layers(s) for x in moments_after(layer, witness.tables)]
    if is_stored and not (_follow(witness) and all(map(np.array_equal, moments, end[len(layout.trained) :]))):
        raise BadInput(f"the trace's weights after step {stored_at - 1} do not follow from its updates")
    tables |= {name: place.put(placed(layout, name, values)) for name, values in energy.tables(witness).items()}
    if s.segment == 0:
        tables |= start_limb_tables(layout, tables)
    return witness


class Witness:
    """Tables by block name, and the network's virtual tensors in terms of them."""

    def __init__(self, layout: Layout, tables: Mapping[str, Any], batches: Integers) -> None:
        self.layout, self.tables, self.batches = layout, tables, batches
        self.activation = cache(self._activation)
        self.gradient = cache(self._gradient)
        self.bases = cache(self._bases)

    @cached_property
    def start(self) -> list[Integers]:
        """The matrices before the first step, (rows, columns) with the bias row last."""
        return [self._matrix("start", m) for m in range(len(self.layout.matrices))]

    @cached_property
    def end(self) -> list[Integers]:
        """After the last step, likewise."""
        return [self._matrix("end", m) for m in range(len(self.layout.matrices))]

    @property
    def end_state(self) -> list[Integers]:
        """What the end commitment is about, as trace.state_before has it."""
        moments = [x for layer in galore.layers(self.layout.statement) for x in moments_after(layer, self.tables)]
        return [self.end[m] for m in self.layout.trained] + moments

    def tensor(self, tensor: Tensor) -> Any:
        """A factor of the step's products and updates (circuit/step.py), transposed: (units, padded samples)."""
        j = tensor.layer
        if tensor.kind == "activation":
            return self.activation(j)
        if tensor.kind == "input":
            return self.activation(j)[:-1]
        if tensor.kind == "gradient":
            return self.gradient(j)
        if tensor.kind in ("hidden", "hidden_gradient"):
            return self._adapted(f"{'h' if tensor.kind == 'hidden' else 'gh'}{j}")
        layer = galore.layers(self.layout.statement)[j]
        return self._steps_basis(layer) if tensor.kind == "basis" else self._direction(layer)

    def _adapted(self, name: str) -> Any:
        """What lies inside an adapter."""
        s = self.layout.statement
        return self._signed(name, s.lora.ranks[int(name.lstrip("gh"))] if s.lora else 0, s.steps * s.batch)

    def _direction(self, layer: galore.Projected) -> Any:
        name = "direction" if layer.spec.is_adam else "projected"
        return self._signed(f"{name}{layer.layer}", layer.kept, layer.samples)

    def _bases(self, layer: galore.Projected) -> Any:
        """A layer's bases, (units, periods * rank), signed."""
        if layer.spec.is_committed:
            return self._signed(f"basis{layer.layer}", layer.over, layer.periods * layer.rank)
        return narrow(layer.public_basis)

    def _steps_basis(self, layer: galore.Projected) -> Any:
        """The basis of each step, (units, padded samples)."""
        bases = place_of(self.bases(layer)).get(self.bases(layer))
        step, place = np.divmod(np.arange(layer.samples), layer.rank)
        table = np.zeros((layer.over, padded(layer.samples)), np.int32)
        table[:, : layer.samples] = bases[: layer.over, step // layer.spec.gap * layer.rank + place]
        return self._place.put(table)

    def _signed(self, name: str, units: int, count: int) -> Any:
        """The real entries of a block without its offset, zeros beside them."""
        block = self.tables[name]
        table = self._place.zeros((units, block.shape[1]), np.int32)
        np.subtract(block[:units, :count], np.int32(SIGN_OFFSET), out=table[:, :count], casting="unsafe")
        return table

    def _activation(self, j: int) -> Any:
        """A_j with the bias column, transposed: (d_j + 1, padded samples)."""
        s = self.layout.statement
        count, width = s.steps * s.batch, s.widths[j]
        if j == 0:
            inputs = np.take(self.tables["x"][:width], self._place.put(self.batches.reshape(-1)), axis=1)
            table = self._place.zeros((width + 1, self.layout.samples), np.result_type(inputs.dtype, np.int32))
            np.subtract(inputs, table.dtype.type(SIGN_OFFSET), out=table[:width, :count])
        else:
            name = fp8.cast_name("p", j - 1) if s.fp8 else f"p{j - 1}"
            positive, value = 1 - self._signs(j - 1)[:width, :count], self.tables[name][:width, :count]
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
            name = fp8.cast_name("ga", j) if s.fp8 else f"ga{j}"
            signs, value = self._signs(j)[:width, :count], self.tables[name][:width, :count]
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

    def _matrix(self, name: str, m: int) -> Integers:
        matrix = self.layout.matrices[m]
        name = f"{self.layout.prefix(m, name)}{matrix.name}"
        inputs = matrix.rows - matrix.has_bias
        parts = [self.tables[name][: matrix.columns, :inputs].T]
        if matrix.has_bias:
            parts.append(self.tables[f"{name}.bias"][:, : matrix.columns])
        return contiguous(np.concatenate(parts))  # type: ignore[no-any-return]


def _run_tables(trace: Trace, layout: Layout, place: Place) -> dict[str, Any]:
    """Data and layers of the layout's steps: all from which activations and gradients follow."""
    tables = data_tables(layout, *trace.data(), trace.frozen())
    for j in range(layout.statement.layers):
        tables |= _layer_tables(trace, layout, j, place)
    tables |= _adapter_tables(trace, layout)
    tables |= {name: placed(layout, name, values) for name, values in galore_tables(trace, layout).items()}
    for cast in casts.of_moments(layout.statement):
        tables[cast.result] = casts.cast_block(layout.statement, cast, tables[cast.argument])
    return {name: place.put(table) for name, table in tables.items()}


def _layer_tables(trace: Trace, layout: Layout, j: int, place: Place) -> dict[str, Any]:
    s = layout.statement
    wide, remainder = "<u4" if s.weight_bits <= 32 else "<i8", limb_bits(s.weight_bits)

    def samples(name: str, kind: str, at: Place = HOST) -> Integers:
        return trace.samples(name, kind, j, s.first_step, s.steps, at)

    def large(name: str, kind: str) -> Any:
        return samples(name, kind, place)

    tables = _limb_tables(layout, f"r{j}", large(f"r{j}", wide), remainder)
    if j < s.layers - 1:
        z = large(f"z{j}", "<i4")
        require_range(f"pre-activations of layer {j}", z, -(1 << ACTIVATION_RANGE), 1 << ACTIVATION_RANGE)
        gradient = large(f"ga{j}", "<i4")
        require_range(f"gradients of layer {j}", gradient, -SIGN_OFFSET, SIGN_OFFSET)
        tables |= {
            f"p{j}": _words(layout, f"p{j}", z),  # z modulo 2^16
            f"b{j}": _words(layout, f"b{j}", z, shift=63, kind=np.uint8),
            f"ga{j}": _words(layout, f"ga{j}", gradient, offset=SIGN_OFFSET),
        }
        for name in ("p", "ga") if s.fp8 else ():
            cast = casts.of_layer(s, name, j)
            tables[cast.result] = casts.cast_block(s, cast, tables[cast.argument])
        return tables | _limb_tables(layout, f"rg{j}", large(f"rg{j}", wide), remainder)
    z = samples(f"z{j}", "<i4").astype(np.int64)
    if s.loss == "square":
        require_range(f"pre-activations of layer {j}", z, -SIGN_OFFSET, SIGN_OFFSET)
        return tables | {"z": placed(layout, "z", z + SIGN_OFFSET)}
    quotient, rho = samples("p", "<i4").astype(np.int64), samples("rho", "<i8").astype(np.int64)
    softmax = softmax_tables(z, quotient, rho, s.activation_bits)
    return tables | {name: placed(layout, name, values) for name, values in softmax.items()}


def _adapter_tables(trace: Trace, layout: Layout) -> dict[str, Any]:
    """What lies inside LoRA's adapters, and the remainders of its rescaling."""
    s, tables = layout.statement, dict[str, Any]()
    for j, _ in s.lora.adapters if s.lora else ():
        for name in lora.NUMBERS:
            number, rest = (trace.adapted(f"{name}{part}", j, s.first_step, s.steps) for part in ("", "r"))
            require_range(f"numbers inside the adapter of layer {j}", number, -SIGN_OFFSET, SIGN_OFFSET)
            tables[f"{name}{j}"] = placed(layout, f"{name}{j}", number + SIGN_OFFSET)
            split_rest = split(f"{name}{j}.r", rest, s.weight_bits)
            tables |= {part: placed(layout, part, values) for part, values in split_rest.items()}
    return tables


def _limb_tables(layout: Layout, prefix: str, values: Integers, bits: list[int]) -> dict[str, Any]:
    """Block `prefix`.k holds limb k of `values`; what exceeds the last limb's bits stays in it, for the range check to find."""
    if int(values.min()) < 0 or int(values.max()) >> (LIMB * len(bits)):
        limbs = split(prefix, place_of(values).get(values).astype(np.int64), sum(bits))
        return {name: placed(layout, name, limb) for name, limb in limbs.items()}
    return {f"{prefix}.{k}": _words(layout, f"{prefix}.{k}", values, shift=LIMB * k) for k in range(len(bits))}


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
    require_range("distances to the largest output", distance, 0, 1 << ACTIVATION_RANGE)
    exponential = exponential_table(activation_bits)[distance].astype(np.int64)
    total = exponential.sum(axis=0, keepdims=True)
    one_hot = (np.arange(len(z))[:, None] == distance.argmin(axis=0)).astype(np.int64)
    tables = {"m": maximum + SIGN_OFFSET, "d": distance, "e": exponential, "h": one_hot, "q": quotient}
    tables["s"] = np.repeat(total, len(z), axis=0)
    return tables | split("rho", rho, 2 * LIMB) | split("sigma", total - 1 - rho, 2 * LIMB)


def _weights_before(trace: Trace, layout: Layout) -> list[Integers]:
    """What the layout's segment begins with, from the nearest stored state and the updates since."""
    s = layout.statement
    step, weights = trace.state_before(s.first_step)
    if step < s.first_step:
        rates = tuple(trace.manifest["learning_rate"][step : s.first_step])
        between = Layout(replace(s, first_step=step, rates=rates, segment=1))
        weights = _after(weights, Witness(between, _run_tables(trace, between, HOST), trace.batches(step, len(rates))))
    return weights


def _after(weights: Sequence[Integers], witness: Witness) -> list[Integers]:
    """Weights, and moments if there are any, after the witness's steps."""
    layout, updated = witness.layout, []
    pairs = step_pairs(layout)
    for m, matrix in zip(layout.trained, weights, strict=False):
        pair = pairs[m]
        left, right = (place_of(x).get(x).astype(np.int64) for x in (witness.tensor(pair.left), witness.tensor(pair.right)))
        total = matrix.astype(np.int64)
        for t, rate in enumerate(pair.rates):
            step = slice(t * pair.per_step, (t + 1) * pair.per_step)
            total = total - rate * exact.product(left[:, step], right[:, step].T, rate)
        updated.append(total)
    return updated + [moments for layer in galore.layers(layout.statement) for moments in moments_after(layer, witness.tables)]


def _follow(witness: Witness) -> bool:
    """Whether the end weights follow from the witness's steps, by random combinations of rows and columns (Freivalds 1977)."""
    for m, pair in step_pairs(witness.layout).items():
        before, after = witness.start[m], witness.end[m]
        used, rates = len(pair.rates) * pair.per_step, field.from_ints(np.repeat(pair.rates, pair.per_step).tolist())
        rows, columns = (field.from_wide_bytes(os.urandom(64 * n)) for n in before.shape)
        change = np.subtract(after, before, dtype=np.int64)
        left = field.combine(rows, contiguous(witness.tensor(pair.left)))[:used]
        right = field.combine(columns, contiguous(witness.tensor(pair.right)))[:used]
        if (field.evaluate_small(change, rows, columns) + field.dot(field.mul(left, rates), right)) % field.MODULUS:
            return False
    return True
