"""Small segments trained with GaLore, LoRA or FP8: their statements, data, traces in memory and witnesses, honest or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cast_reference import cast, cast_moment
from method_reference import Data, method_run

from zkaudit.zk import methods
from zkaudit.zk.backend import HOST, Place
from zkaudit.zk.block import SIGN_OFFSET
from zkaudit.zk.circuit import galore
from zkaudit.zk.circuit.arithmetic import split
from zkaudit.zk.circuit.galore import Projected
from zkaudit.zk.circuit.moments import SECOND_BITS
from zkaudit.zk.layout import Layout
from zkaudit.zk.methods import FP8, Exponents, GaLore, LoRA
from zkaudit.zk.sampling import batch_rows
from zkaudit.zk.statement import Statement, check, end_bound
from zkaudit.zk.tables import placed, weight_tables
from zkaudit.zk.testing.segments import MemoryTrace, Tamper, example, statement_of
from zkaudit.zk.witness import Witness, segment_witness

Tables = dict[str, Any]


def galore_of(statement: Statement, **changes: Any) -> Statement:
    """The statement with GaLore; `changes` are of its fields."""
    layers, product_bits = statement.layers, statement.activation_bits + statement.gradient_bits
    ranks = tuple(min(2, d, units) for d, units in zip(statement.widths, statement.widths[1:], strict=False))
    bits = changes.get("basis_bits", 10)
    spec = GaLore(
        optimizer="adam", basis="svd", gap=2, ranks=ranks, sides=tuple(("left", "right")[j % 2] for j in range(layers)),
        basis_bits=bits, shift=product_bits + bits + 2 - 12, moment_bits=10, beta1=896, beta2=1008, epsilon=4,
    )  # fmt: skip
    return _checked(replace(statement, galore=replace(spec, **changes)))


def stored_of(statement: Statement, first: Exponents = (), second: Exponents = (), **changes: Any) -> Statement:
    """The statement with GaLore and moments stored in 8 bits; by default over ranges of 2^13 and 2^12."""
    layers = statement.layers
    return galore_of(statement, first_exponents=first or (13,) * layers, second_exponents=second or (12,) * layers, **changes)


def lora_of(statement: Statement, ranks: tuple[int, ...], factor: int = 1, divisor: int = 1) -> Statement:
    """The statement with LoRA; its rates become multiples of the divisor."""
    rates = tuple(rate * divisor for rate in statement.rates)
    return _checked(replace(statement, lora=LoRA(ranks, factor, divisor), rates=rates))


def fp8_of(statement: Statement, kind: str = "e4m3", activation: int = -1, gradient: int | None = None) -> Statement:
    """The statement with FP8, one scale for all activations and one for all gradients."""
    hidden, gradient = statement.layers - 1, (-6 if kind == "e4m3" else -14) if gradient is None else gradient
    return _checked(replace(statement, fp8=FP8((activation,) * hidden, (gradient,) * hidden, kind)))


def _checked(statement: Statement) -> Statement:
    check(statement)
    return statement


PLAIN = statement_of(steps=4, rate=40)
SQUARE = statement_of(steps=4, rate=40, loss="square")
WIDE = statement_of(widths=(5, 20, 18, 3), steps=4, rate=40)
VARIANTS: dict[str, Statement] = {
    "galore": galore_of(PLAIN),
    "galore, whole gap": galore_of(PLAIN, gap=4),
    "galore, broken gap": galore_of(PLAIN, gap=3),
    "galore, gap of 1": galore_of(PLAIN, gap=1, sides=("right", "left", "left")),
    "galore, random": galore_of(PLAIN, basis="random"),
    "galore, sgd": galore_of(replace(PLAIN, rates=(1, 2, 1, 1)), optimizer="sgd"),
    "galore, random sgd": galore_of(replace(SQUARE, rates=(1, 2, 1, 1)), optimizer="sgd", basis="random", gap=3),
    "galore, square": galore_of(SQUARE, ranks=(4, 1, 3), sides=("left", "left", "right")),
    "galore, stored": stored_of(PLAIN),
    "galore, stored, whole gap": stored_of(PLAIN, (15, 11, 14), (16, 9, 1), gap=4, basis="random"),
    "galore, stored, square": stored_of(SQUARE, gap=1, beta1=0, sides=("right", "left", "left")),
    "galore, stored by groups": stored_of(WIDE, ((13, 9), (8, 15), 12), ((12, 11), 10, 16), sides=("left",) * 3),
    "lora": lora_of(PLAIN, (2, 3, 1), 9, 4),
    "lora in the middle": lora_of(PLAIN, (0, 2, 0)),
    "lora, square": lora_of(SQUARE, (3, 0, 2), 4),
    "fp8": fp8_of(PLAIN),
    "fp8, e5m2": fp8_of(PLAIN, "e5m2"),
    "fp8, square": fp8_of(SQUARE, activation=-6),
    "fp8 by groups": _checked(replace(fp8_of(WIDE), fp8=FP8(((-1, -5), -3), (-6, (-9, -7)), "e4m3"))),
    "fp8 with galore": fp8_of(galore_of(PLAIN)),
    "fp8 with galore, stored": fp8_of(stored_of(PLAIN)),
    "fp8 with lora": fp8_of(lora_of(PLAIN, (2, 0, 2)), "e5m2"),
}


def data_of(statement: Statement, seed: int = 0, scale: float = 0.35) -> Data:
    """Random data, start weights and what the statement's method needs beside them."""
    s, rng = statement, np.random.default_rng([seed, 1])
    inputs, targets, start = example(statement, seed, scale)
    if s.lora is None:
        bases = {}
        for layer in galore.layers(s):
            first = s.first_step // layer.spec.gap
            bases |= {(layer.layer, first + k): orthonormal(layer, rng) for k in range(layer.periods)}
        return Data(inputs, targets, start, bases=bases)
    adapters, limit = [], int(scale * 2**s.weight_bits)
    for j, rank in s.lora.adapters:
        adapters += [rng.integers(-limit, limit, shape) for shape in ((s.widths[j], rank), (rank, s.widths[j + 1]))]
    return Data(inputs, targets, adapters, frozen=start)


def orthonormal(layer: Projected, rng: np.random.Generator) -> Any:
    """A random basis as a trainer could have it: the nearest integers to 2^p times orthonormal columns, (units, rank)."""
    columns = np.linalg.qr(rng.normal(size=(layer.over, layer.rank)))[0]
    return np.rint(columns * 2.0**layer.spec.basis_bits).astype(np.int64)


class MethodTrace(MemoryTrace):
    """The trace of a segment, in memory, with what the methods store."""

    first: int
    given: Data

    def frozen(self) -> list[Any]:
        return list(self.given.frozen)

    def bases(self, layer: Projected) -> Any:
        first = layer.statement.first_step // layer.spec.gap
        return np.concatenate([self.given.bases[layer.layer, first + k] for k in range(layer.periods)], axis=1)

    def _steps(self, name: str, kind: str, shape: tuple[int, ...], first: int, steps: int, place: Place = HOST) -> Any:
        return super()._steps(name, kind, shape, first - self.first, steps, place)


@dataclass(frozen=True)
class Trained:
    """A segment's statement, what it began with, and all arrays of its training."""

    statement: Statement
    data: Data
    arrays: dict[str, Any]

    @property
    def batches(self) -> Any:
        s = self.statement
        return batch_rows(bytes.fromhex(s.batch_seed), s.rows, s.batch, s.first_step, s.steps)

    @property
    def end(self) -> list[Any]:
        """Trained matrices and moments after the last step."""
        names = [f"end.w{i}" for i in range(len(self.data.start))]
        names += [f"end.{kind}{j}" for j in range(self.statement.layers) for kind in ("first", "second")]
        return [self.arrays[name].astype(np.int64) for name in names if name in self.arrays]

    @property
    def trace(self) -> MethodTrace:
        """What a trainer would have left of it."""
        s = self.statement
        steps, before = s.first_step + s.steps, [1] * s.first_step
        manifest = {"widths": list(s.widths), "batch": s.batch, "steps": steps, "rows": s.rows}
        manifest |= {"learning_rate": [*before, *s.rates]}
        specs = {name: methods.written(spec) for name in methods.SPECS if (spec := getattr(s, name)) is not None}
        trace = MethodTrace(Path(), manifest | specs)
        state = [np.asarray(matrix).astype(np.int64) for matrix in [*self.data.start, *self.moments]]
        given = {"inputs": self.data.inputs, "targets": self.data.targets, "states": {s.first_step: state}}
        trace.__dict__.update(given, arrays=self.arrays, first=s.first_step, given=self.data)
        return trace

    @property
    def moments(self) -> list[Any]:
        """Those that the segment begins with."""
        shapes = [(x.kept, x.rank) for x in galore.layers(self.statement) if x.spec.is_adam for _ in range(2)]
        return self.data.moments or [np.zeros(shape, np.int64) for shape in shapes]


def train(statement: Statement, data: Data | None = None, tamper: Tamper | None = None) -> Trained:
    """Train the statement's steps on `data`, by default random."""
    made = Trained(statement, data_of(statement) if data is None else data, {})
    return replace(made, arrays=method_run(statement, made.data, made.batches, tamper))


def honest(made: Trained) -> Witness:
    """The witness as the prover makes it."""
    return segment_witness(made.trace, Layout(made.statement), made.batches)


def lying(made: Trained, **tables: Any) -> Witness:
    """The witness of training that was tampered with: the prover's, with what the methods commit to as the arrays say."""
    witness = honest(made)
    return Witness(witness.layout, {**witness.tables, **method_tables(made), **tables}, witness.batches)


def next_segment(before: Trained, bases: dict[tuple[int, int], Any] | None = None) -> tuple[Statement, Data]:
    """Statement and data of the segment after it, of as many steps."""
    s = before.statement
    after = replace(
        s, segment=s.segment + 1, first_step=s.first_step + s.steps, start_bound=end_bound(s), previous=s.digest(),
        rates=s.rates[::-1],
    )  # fmt: skip
    check(after)
    trained, fresh = len(before.data.start), data_of(after, 5)
    start, moments = before.end[:trained], before.end[trained:]
    return after, replace(before.data, start=start, moments=moments, bases=bases or fresh.bases)


def method_tables(made: Trained) -> Tables:
    """What the methods commit to, and the end, straight from the arrays; rests and slacks fit them, whatever they say."""
    s, layout, found = made.statement, Layout(made.statement), dict[str, Any]()
    for j in range(s.layers - 1) if s.fp8 else ():
        found |= {f"p{j}.cast": _samples(made, f"cast{j}"), f"ga{j}.cast": _gradient_casts(made, j)}
    for j, _ in s.lora.adapters if s.lora else ():
        for name in ("h", "gh"):
            found[f"{name}{j}"] = _samples(made, f"{name}{j}") + SIGN_OFFSET
            found |= split(f"{name}{j}.r", _samples(made, f"{name}r{j}"), s.weight_bits)
    for layer in galore.layers(s):
        found |= _galore_tables(made, layer)
    tables = {name: placed(layout, name, values) for name, values in found.items()}
    return tables | weight_tables(layout, "end", made.end)


def _gradient_casts(made: Trained, j: int) -> Any:
    s, highs = made.statement, Layout(made.statement).named[f"ga{j}.cast"].highs
    assert s.fp8
    kind, shifts = s.fp8.gradient_format, [x + s.gradient_bits for x in s.fp8.of_group("gradient_exponents", j)]
    padding = [cast(-SIGN_OFFSET, kind, shift) for shift in shifts]
    return _whole(_samples(made, f"gcast{j}"), highs, Layout(s).samples, padding) + SIGN_OFFSET


def _whole(casts: Any, highs: int, lows: int, padding: list[int]) -> Any:
    """A whole block: beside the casts stands what padding, a stored zero, is cast to, in each group of units."""
    table = np.repeat([[padding[min(unit // 16, len(padding) - 1)]] for unit in range(highs)], lows, axis=1)
    table[: casts.shape[0], : casts.shape[1]] = casts
    return table


def _galore_tables(made: Trained, layer: Projected) -> Tables:
    j, spec = layer.layer, layer.spec
    rest = split(f"projected{j}.rest", _samples(made, f"rest{j}"), spec.shift)
    found = {f"projected{j}": _samples(made, f"projected{j}") + SIGN_OFFSET, **rest}
    if spec.is_committed:
        found |= basis_tables(layer, made.trace.bases(layer))
    if not spec.is_adam:
        return found
    mean, square, root, direction = (_samples(made, f"{name}{j}") for name in ("mean", "square", "root", "direction"))
    above = square - (root * root << spec.moment_bits)
    below = ((2 * root + 1) << spec.moment_bits) - 1 - above
    slack = 17 + spec.moment_bits
    found |= {f"root{j}": root, **split(f"root{j}.above", above, slack), **split(f"root{j}.below", below, slack)}
    divided, divisor = mean - direction * (root + spec.epsilon), root + spec.epsilon
    found |= {f"direction{j}": direction + SIGN_OFFSET, f"direction{j}.rest": divided}
    found[f"direction{j}.slack"] = divisor - 1 - divided
    if spec.is_stored:
        return found | _stored_tables(made, layer)
    ends = [min((k + 1) * spec.gap, layer.statement.steps) - 1 for k in range(layer.periods)]
    for k, (kind, average) in enumerate((("first", "mean"), ("second", "square"))):
        after = list(made.arrays[f"{kind}{j}"].astype(np.int64))
        last = made.arrays[f"{average}{j}"][ends].astype(np.int64)
        rests = [value - (moment << spec.moment_bits) for value, moment in zip(last, after, strict=True)]
        moments = np.concatenate([made.moments[2 * j + k], *(moment.T for moment in after)], axis=1)
        found[f"{kind}{j}.rest"] = np.concatenate([rest.T for rest in rests], axis=1)
        found |= {f"first{j}": moments + SIGN_OFFSET} if kind == "first" else split(f"second{j}", moments, SECOND_BITS)
    return found


def _stored_tables(made: Trained, layer: Projected) -> Tables:
    j, shape = layer.layer, layer.shape
    found = {f"first{j}.exact": _samples(made, f"exact{j}") + SIGN_OFFSET, f"first{j}.rest": _samples(made, f"exact_rest{j}")}
    for kind, offset in (("first", SIGN_OFFSET), ("second", 0)):
        padding = [cast_moment(-offset, kind, exponent) for exponent in layer.spec.of_group(f"{kind}_exponents", j)]
        found[f"{kind}{j}"] = _whole(_samples(made, f"{kind}{j}"), shape.highs, shape.lows, padding) + offset
    return found


def basis_tables(layer: Projected, bases: Any) -> Tables:
    """A basis's two blocks, their products fitting."""
    j, spec, rank = layer.layer, layer.spec, layer.rank
    each = [bases[:, k * rank : (k + 1) * rank] for k in range(layer.periods)]
    products = [b.T @ b - (np.eye(rank, dtype=np.int64) << (2 * spec.basis_bits)) + spec.product_bound for b in each]
    return {f"basis{j}": bases + SIGN_OFFSET, f"basis{j}.products": np.concatenate(products, axis=1)}


def _samples(made: Trained, name: str) -> Any:
    """(units, samples) of an array over (step, sample or place, unit)."""
    values = made.arrays[name].astype(np.int64)
    return values.reshape(-1, values.shape[-1]).T
