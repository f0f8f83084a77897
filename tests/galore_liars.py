"""Provers that lie about GaLore in one place and compute all that follows honestly: the makers of their witnesses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from left_out import altered, bumped, plus, told
from method_reference import kernel, signs
from method_segments import Trained, basis_tables, data_of, galore_of, honest, lying, next_segment, train
from test_soundness import at

from zkaudit.zk.block import LIMB
from zkaudit.zk.circuit import galore
from zkaudit.zk.circuit.arithmetic import split
from zkaudit.zk.circuit.step import Tensor
from zkaudit.zk.statement import Statement
from zkaudit.zk.tables import narrow, placed
from zkaudit.zk.testing.segments import statement_of
from zkaudit.zk.witness import Witness

ADAM = galore_of(statement_of(widths=(4, 5, 3), batch=2, steps=4, rate=40))  # layer 0 is a left one, layer 1 a right one
RANDOM = galore_of(ADAM, basis="random")
SGD = galore_of(replace(ADAM, rates=(1, 2, 1, 1)), optimizer="sgd")
assert ADAM.galore
SPEC = ADAM.galore
LAYERS = galore.layers(ADAM)
DATA = data_of(ADAM)
HONEST = train(ADAM, DATA)
LIED = {0: 1, 1: 3}  # the step in which a layer is lied about: the last one of a period


def tables_of(made: Trained, repair: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> Witness:
    """The liar's witness; `repair` puts back into its range what has left it, so that an equation is broken instead."""
    witness = lying(replace(made, data=replace(made.data, bases=DATA.bases)))
    given = {name: table.astype(np.int64) for name, table in witness.tables.items()}
    return altered(witness, **{name: narrow(table) for name, table in repair(given).items()} if repair else {})


def joined(tables: dict[str, Any], name: str, count: int) -> Any:
    return sum(tables[f"{name}.{k}"] << (LIMB * k) for k in range(count))


def clipped(name: str, bits: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Every number of a block moved to the nearest end of its range."""
    return lambda tables: {name: tables[name].clip(0, (1 << bits) - 1)}


def root_slacks(layer: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """No slack below zero; one that was makes the other one fit the second equation."""

    def repair(tables: dict[str, Any]) -> dict[str, Any]:
        above, below = (joined(tables, f"root{layer}.{side}", 2) for side in ("above", "below"))
        total, above = above + below, above.clip(0)
        width = LIMB + 1 + SPEC.moment_bits
        below = (total - above).clip(0)
        return {**split(f"root{layer}.above", above, width), **split(f"root{layer}.below", below, width)}

    return repair


def quotient_slacks(layer: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def repair(tables: dict[str, Any]) -> dict[str, Any]:
        rest, slack = (tables[f"direction{layer}.{part}"] for part in ("rest", "slack"))
        total, rest = rest + slack, rest.clip(0)
        return {f"direction{layer}.rest": rest, f"direction{layer}.slack": (total - rest).clip(0)}

    return repair


def off_by_one(name: str, layer: int, amount: int, repair: Any = None, statement: Statement = ADAM) -> Callable[[], Witness]:
    """One entry of root, direction, or moment; everything after it is computed from it."""
    step = LIED[layer]
    return lambda: tables_of(train(statement, DATA, at(name, step, layer, plus(amount))), repair)


def projected(layer: int, amount: int, fitting: bool, statement: Statement = ADAM) -> Callable[[], Witness]:
    """A projected gradient off by one. Its rest makes up for it and leaves its range; or it stays in its range."""

    def make() -> Witness:
        lies = [at("projected", LIED[layer], layer, plus(amount))]
        if fitting:
            lies.append(at("rest", LIED[layer], layer, plus(-amount << SPEC.shift)))
        return tables_of(train(statement, DATA, told(*lies)))

    return make


def spread(layer: int) -> Witness:
    """A projected gradient too large by one, and the rests of others smaller by as much in all, each within its range."""
    step, missing = LIED[layer], 1 << SPEC.shift

    def less(value: Any) -> Any:
        nonlocal missing
        flat = np.array(value, dtype=object).reshape(-1)
        for i in range(1, len(flat)):
            taken = min(missing, flat[i])
            flat[i], missing = flat[i] - taken, missing - taken
        assert missing == 0
        return flat.reshape(value.shape)

    return tables_of(train(ADAM, DATA, told(at("projected", step, layer, plus(1)), at("rest", step, layer, less))))


def average(name: str, layer: int, change: Callable[[Any], Any]) -> Callable[[], Witness]:
    """Another average in the second period's first step."""
    lie = at(name, 2, layer, change)
    return lambda: tables_of(train(ADAM, DATA, lie))


def not_decayed(layer: int, k: int) -> Callable[[Any], Any]:
    """What was before counts in full."""
    decay = kernel((SPEC.beta1, SPEC.beta2)[k], SPEC.moment_bits, SPEC.gap)[0][1]
    before = HONEST.arrays[("first", "second")[k] + str(layer)][0]
    assert before.any()
    return lambda value: value + ((1 << SPEC.moment_bits) - decay) * before


def forgotten(layer: int, k: int) -> Callable[[Any], Any]:
    """The new basis has new moments: what was before counts not at all."""
    decay = kernel((SPEC.beta1, SPEC.beta2)[k], SPEC.moment_bits, SPEC.gap)[0][1]
    return lambda value: value - decay * HONEST.arrays[("first", "second")[k] + str(layer)][0]


def other_end(kind: str, layer: int, made: Trained = HONEST) -> Witness:
    """The end commitment holds another moment."""
    witness, name = honest(made), f"end.{kind}{layer}"
    return altered(witness, **{name: bumped(witness.tables[name])})


def begun_with(kind: int, layer: int, made: Trained = HONEST) -> Witness:
    """A chain that begins with a moment that is not zero, and is honest about it."""
    moments = [moment.copy() for moment in made.moments]
    moments[2 * layer + kind][0, 0] = 7
    return honest(train(made.statement, replace(DATA, moments=moments)))


def basis(change: Callable[[Any], Any], repair: Any, layer: int = 0) -> Callable[[], Witness]:
    """Another basis in the first period, used throughout; its products fit."""

    def make() -> Witness:
        bases = {**DATA.bases, (layer, 0): change(DATA.bases[layer, 0].copy())}
        made = train(ADAM, replace(DATA, bases=bases))
        bases_of_layer = np.concatenate([bases[layer, 0], bases[layer, 1]], axis=1)
        witness = tables_of(made)
        tables = {name: table.astype(np.int64) for name, table in basis_tables(LAYERS[layer], bases_of_layer).items()}
        tables |= repair(tables) if repair else {}
        return altered(witness, **{name: placed(witness.layout, name, table) for name, table in tables.items()})

    return make


def scaled(columns: Any) -> Any:
    columns[:, 0] *= 2
    return columns


def equal(columns: Any) -> Any:
    columns[:, 1] = columns[:, 0]
    return columns


class OtherBasis(Witness):
    """One period's basis is another one in the update history, or in the projection only; the committed one elsewhere."""

    def __init__(self, witness: Witness, other: Any, in_history: bool) -> None:
        super().__init__(witness.layout, witness.tables, witness.batches)
        self.other, self.in_history, self.ended, self.projecting = other, in_history, False, False

    @property
    def end(self) -> list[Any]:
        self.ended = True
        return super().end

    def tensor(self, tensor: Tensor) -> Any:
        self.projecting |= self.ended and tensor.kind in ("activation", "gradient")  # with SGD's part, history asks for none
        table = super().tensor(tensor)
        if tensor == Tensor("basis", 0) and self.projecting != self.in_history:
            table = table.copy()
            table[: len(self.other), : 2 * SPEC.ranks[0]] = np.tile(self.other, 2)
        return table


OTHER = data_of(ADAM, seed=9).bases[0, 0]


def other_basis(in_history: bool) -> Witness:
    """Both are orthonormal; the gradient is projected with one and the weights are updated with the other."""
    committed = DATA.bases[0, 0].astype(object)
    other = OTHER.astype(object)

    def tamper(name: str, step: int, layer: int, value: Any) -> Any:
        if layer == 0 and step < SPEC.gap:
            if name == "update_basis":
                return other if in_history else committed
            if name == "basis" and not in_history:
                return other
        return value

    return OtherBasis(tables_of(train(ADAM, DATA, tamper)), OTHER, in_history)


def other_signs() -> Witness:
    """A basis of signs from another seed."""
    size = RANDOM.widths[0] + 1
    drawn = signs(SPEC.basis_bits, size, SPEC.ranks[0], 0, 0, b"\x77" * 32)

    def tamper(name: str, step: int, layer: int, value: Any) -> Any:
        return drawn if (name, step, layer) == ("basis", 0, 0) else value

    witness = tables_of(train(RANDOM, DATA, tamper))
    bases = {layer.layer: witness.bases(layer).copy() for layer in galore.layers(RANDOM)}
    bases[0][:, : SPEC.ranks[0]] = drawn.astype(np.int64)
    witness.bases = lambda layer: bases[layer.layer]
    return witness


def another_rate() -> Witness:
    """The last step's update is taken twice."""
    return tables_of(train(ADAM, DATA, at("dw", 3, 0, lambda change: 2 * change)))


def handed_on(kind: int, made: Trained = HONEST) -> tuple[Witness, dict[str, Any]]:
    """A second segment that goes on with the first layer's moments in another order, and what the first one committed to."""
    after, data = next_segment(made)
    moments = [moment[::-1] if i == kind else moment for i, moment in enumerate(data.moments)]
    assert (moments[kind] != data.moments[kind]).any()
    witness, before = honest(train(after, replace(data, moments=moments))), honest(made)
    return witness, {x.name: before.tables[x.name.replace("start", "end", 1)] for x in witness.layout.start}


def handed_on_as_committed(kind: int, made: Trained = HONEST) -> Witness:
    """The commitment is opened truly; what the first period begins with is another."""
    witness, committed = handed_on(kind, made)
    return altered(witness, **committed)
