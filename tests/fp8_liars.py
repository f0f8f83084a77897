"""Provers that lie about a cast to FP8 and compute all that follows honestly: the makers of their witnesses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from cast_reference import cast, nearest_code, numbers
from left_out import plus
from method_reference import method_run
from method_segments import Trained, data_of, fp8_of, lying, train
from test_soundness import at

from zkaudit.zk.statement import Statement
from zkaudit.zk.testing.segments import statement_of
from zkaudit.zk.witness import Witness

SHAPE = (4, 6, 5, 3)
# The largest activation stands for 0.875 and the largest gradient for 0.055, so that some saturate
CASTING = fp8_of(statement_of(widths=SHAPE, steps=3, rate=40), activation=-9, gradient=-13)
CASTING_E5M2 = fp8_of(statement_of(widths=SHAPE, steps=3, rate=40), "e5m2", activation=-9)
ONE_STEP = fp8_of(statement_of(widths=SHAPE, steps=1), activation=-9, gradient=-13)
DATA = data_of(CASTING, scale=0.7)

Rule = Callable[[int, str, int], int | None]  # what a number is cast to instead, given format and shift; None: no lie here


@cache
def miscast(name: str, rule: Rule, statement: Statement = CASTING) -> tuple[Witness, int]:
    """The first number, of those that ReLU lets through, that `rule` casts otherwise; "cast" of activations or "gcast" of
    gradients. Returns the witness and the layer."""
    for seed, j in product(range(20), range(statement.layers - 1)):
        data = data_of(statement, seed, 0.7)
        arrays, form = train(statement, data).arrays, _format(statement, name, j)
        values = arrays[f"{'P' if name == 'cast' else 'ga'}{j}"]
        for (step, *place), x in np.ndenumerate(values):
            wrong = None if arrays[f"B{j}"][step, *place] else rule(x, *form)
            if wrong is not None:
                difference = wrong - arrays[f"{name}{j}"][step, *place]
                assert difference
                lie = at(name, step, j, plus(difference, int(np.ravel_multi_index(place, values[step].shape))))
                return lying(train(statement, data, lie)), j
    raise AssertionError("nothing to lie about")


def _format(statement: Statement, name: str, j: int) -> tuple[str, int]:
    """Format and shift of layer j's casts."""
    assert statement.fp8
    if name == "cast":
        return "e4m3", statement.fp8.activation_exponents[j] + statement.activation_bits
    return statement.fp8.gradient_format, statement.fp8.gradient_exponents[j] + statement.gradient_bits


def one_code_up(x: int, kind: str, shift: int) -> int | None:
    """The next larger number of the format."""
    code = nearest_code(abs(x), kind, shift) + 1
    return None if x <= 1 or code == len(numbers(kind)) else _number(code, kind, shift)


def one_code_down(x: int, kind: str, shift: int) -> int | None:
    code = nearest_code(abs(x), kind, shift) - 1
    return None if x <= 1 or code < 0 else _number(code, kind, shift)


def to_the_odd_code(x: int, kind: str, shift: int) -> int | None:
    """Of two numbers that are equally near the one whose code is odd."""
    code, exact = nearest_code(abs(x), kind, shift), abs(x) / Fraction(2) ** shift
    for other in (code - 1, code + 1):
        if 0 <= other < len(numbers(kind)) and abs(numbers(kind)[code] - exact) == abs(numbers(kind)[other] - exact):
            assert other % 2
            return _number(other, kind, shift) * (1 if x > 0 else -1)
    return None


def unsaturated(x: int, kind: str, shift: int) -> int | None:
    """What a format with more exponents would have made of a number above the largest one."""
    wider = cast(x, kind, shift + 3)
    return wider if abs(wider) > numbers(kind)[-1] * Fraction(2) ** shift else None


def saturated(x: int, kind: str, shift: int) -> int | None:
    """The largest number for one below it."""
    largest = int(numbers(kind)[-1] * Fraction(2) ** shift)
    return largest if largest // 2 < cast(x, kind, shift) < largest else None


def _number(code: int, kind: str, shift: int) -> int | None:
    number = numbers(kind)[code] * Fraction(2) ** shift
    return int(number) if number.denominator == 1 else None


def of_other_scales(**fields: Any) -> Witness:
    """Trained as another statement says: with another scale or format. All follows from that, but for the statement."""
    assert CASTING.fp8
    other = replace(CASTING, fp8=replace(CASTING.fp8, **fields))
    made = train(CASTING, DATA)
    lied = replace(made, arrays=method_run(other, made.data, made.batches))
    assert any((lied.arrays[name] != made.arrays[name]).any() for name in ("cast0", "gcast0", "gcast1"))
    return lying(lied)


class TwoScales(Witness):
    """An activation or a gradient has one scale in the matrix products, and another one in the update history."""

    def __init__(self, witness: Witness, name: str, other: Any) -> None:
        super().__init__(witness.layout, witness.tables, witness.batches)
        self.ended = False
        true = getattr(self, name)

        def tensor(j: int) -> Any:
            if j != 1 or not self.ended:
                return true(j)
            table = true(1).copy()
            table[: other.shape[1], : other.shape[0]] = other.T
            return table

        setattr(self, name, tensor)

    @property
    def end(self) -> list[Any]:
        self.ended = True
        return super().end


def two_scales(name: str) -> Witness:
    """The second layer's weights are updated with inputs, or gradients, of twice the scale."""
    made = train(ONE_STEP, DATA)
    values, kept = ("P0", "B0") if name == "activation" else ("ga1", "B1")
    kind, shift = _format(ONE_STEP, "cast" if name == "activation" else "gcast", int(values[-1]))
    other = np.vectorize(lambda x: cast(x, kind, shift + 1))(made.arrays[values][0]) * (1 - made.arrays[kept][0].astype(int))
    seen = _factors(made)
    assert (other != seen[name][:, : other.shape[1]]).any()
    seen[name] = other if name == "gradient" else np.concatenate([other, seen[name][:, -1:]], axis=1)
    lied = train(ONE_STEP, DATA, at("dw", 0, 1, lambda _: seen["activation"].T @ seen["gradient"]))
    return TwoScales(lying(lied), name, other)


def _factors(made: Trained) -> dict[str, Any]:
    """The second layer's inputs with their column of ones, and its gradients."""
    arrays = {name: made.arrays[name][0].astype(int) for name in ("B0", "cast0", "B1", "gcast1")}
    inputs = (1 - arrays["B0"]) * arrays["cast0"]
    ones = np.full((len(inputs), 1), 1 << made.statement.activation_bits)
    return {"activation": np.concatenate([inputs, ones], axis=1), "gradient": (1 - arrays["B1"]) * arrays["gcast1"]}
