"""Provers that lie about moments stored in 8 bits and compute all that follows honestly: the makers of their witnesses."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from cast_reference import cast_moment, code_value
from galore_liars import ADAM, DATA, SPEC, tables_of
from left_out import plus
from method_reference import dithered
from method_segments import Trained, data_of, lying, stored_of, train
from test_soundness import at

from zkaudit.zk.statement import Statement
from zkaudit.zk.testing.segments import statement_of
from zkaudit.zk.witness import Witness

STORED = stored_of(ADAM, (13, 12), (12, 11))
NARROW = stored_of(ADAM, (5, 4), (5, 4))  # nearly all moments saturate
GROUPED = stored_of(
    statement_of(widths=(4, 20, 3), batch=2, steps=4, rate=40), ((13, 6), 13), ((12, 5), 12), sides=("left",) * 2
)
HONEST = train(STORED, DATA)
EXACT = {"first": "exact", "second": "root"}  # what is cast
AVERAGE = {"first": "mean", "second": "square"}

Rule = Callable[[int, str, int], int]  # what a number is cast to instead, given kind and exponent of the moment


def miscast(kind: str, layer: int, rule: Rule, statement: Statement = STORED) -> Callable[[], Witness]:
    """Step 1 stores another cast of the first number of which `rule` makes another one."""
    return lambda: lying(_miscast(kind, layer, rule, statement))


@cache
def _miscast(kind: str, layer: int, rule: Rule, statement: Statement) -> Trained:
    made = HONEST if statement == STORED else train(statement, data_of(statement))
    exponents = statement.galore.of_group(f"{kind}_exponents", layer) if statement.galore else ()
    exact, stored = (made.arrays[f"{name}{layer}"][1] for name in (EXACT[kind], kind))
    for place, x in np.ndenumerate(exact):
        wrong = rule(int(x), kind, exponents[min(place[1] // 16, len(exponents) - 1)])
        if wrong != stored[place]:
            lie = at(kind, 1, layer, plus(wrong - stored[place], int(np.ravel_multi_index(place, exact.shape))))
            return train(statement, made.data, lie)
    raise AssertionError("nothing to lie about")


def next_code(x: int, kind: str, exponent: int) -> int:
    """What the code above stands for, in size; nothing else for the largest number and for none."""
    value = cast_moment(abs(x), kind, exponent)
    above = next((v for v in (code_value(code, kind, exponent) for code in range(127)) if v > value), value)
    return (above if x >= 0 else -above) if value else 0


def uncast(x: int, kind: str, exponent: int) -> int:
    """The number itself, where the range has it."""
    return x if abs(x) <= code_value(126, kind, exponent) else cast_moment(x, kind, exponent)


def unsaturated(x: int, kind: str, exponent: int) -> int:
    """What a wider range would have made of a number above the largest one."""
    return cast_moment(x, kind, exponent if abs(x) <= code_value(126, kind, exponent) else exponent + 4)


def another_group_s(x: int, kind: str, exponent: int) -> int:
    """The cast with the exponent that the layer's first group has."""
    assert GROUPED.galore
    return cast_moment(x, kind, GROUPED.galore.of_group(f"{kind}_exponents", 0)[0])


def average(kind: str, layer: int, amount: int, repair: Any = None) -> Callable[[], Witness]:
    """Another average in step 2, and what is rounded, divided and stored follows from it."""
    return lambda: tables_of(train(STORED, DATA, at(AVERAGE[kind], 2, layer, plus(amount))), repair)


def exact(layer: int, amount: int) -> Callable[[], Witness]:
    """x is another than M says; the rest makes up for it, and leaves its range."""
    return lambda: tables_of(train(STORED, DATA, at("exact", 2, layer, plus(amount))))


def before(kind: str, layer: int, change: Callable[[Any, Trained], Any]) -> Callable[[], Witness]:
    """Step 2 begins with another moment than step 1 stored."""

    def make() -> Witness:
        other = change(HONEST.arrays, layer)
        assert (other != HONEST.arrays[f"{kind}{layer}"][1]).any()
        return tables_of(train(STORED, DATA, at(f"{kind}_before", 2, layer, lambda _: other)))

    return make


def never_cast(kind: str) -> Callable[[Any, Any], Any]:
    """What step 1 cast."""
    return lambda arrays, layer: arrays[f"{EXACT[kind]}{layer}"][1]


def of_step(kind: str, step: int) -> Callable[[Any, Any], Any]:
    """What another step stored."""
    return lambda arrays, layer: arrays[f"{kind}{layer}"][step]


def swapped(kind: str, layer: int) -> Witness:
    """Steps 0 and 1 have changed places in the committed block: its pairs, and what begins with them, are others."""
    witness, name = lying(HONEST), f"{kind}{layer}"
    table, rank = witness.tables[name].copy(), SPEC.ranks[layer]
    table[:, : 2 * rank] = np.roll(table[:, : 2 * rank], rank, axis=1)
    return Witness(witness.layout, {**witness.tables, name: table}, witness.batches)


def not_decayed(kind: str, layer: int) -> Callable[[], Witness]:
    """What was before counts in full."""
    decay = dithered(SPEC.beta1, SPEC.beta2, SPEC.moment_bits, 2)[kind == "second"][0]
    held = HONEST.arrays[f"{kind}{layer}"][1] if kind == "first" else HONEST.arrays[f"{kind}{layer}"][1] ** 2
    assert held.any()
    more = ((1 << SPEC.moment_bits) - decay) * held
    return lambda: tables_of(train(STORED, DATA, at(AVERAGE[kind], 2, layer, lambda value: value + more)))


def of_another_step(kind: str, layer: int) -> Callable[[], Witness]:
    """Step 2 averages with the numbers of step 3."""
    held, fresh = HONEST.arrays[f"{kind}{layer}"][1], HONEST.arrays[f"projected{layer}"][2]
    (decay_1, weight_1, _), (decay_2, weight_2) = dithered(SPEC.beta1, SPEC.beta2, SPEC.moment_bits, 3)
    other = decay_1 * held + weight_1 * fresh
    if kind == "second":
        other = decay_2 * (held**2 + held) + weight_2 * fresh**2 + decay_2 // 4
    return lambda: tables_of(train(STORED, DATA, at(AVERAGE[kind], 2, layer, lambda _: other)))
