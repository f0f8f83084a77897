"""Provers that lie about an adapter in one place and compute all that follows honestly: the makers of their witnesses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from left_out import altered, plus, told
from method_reference import method_run
from method_segments import data_of, honest, lora_of, lying, next_segment, train
from test_soundness import at

from zkaudit.zk.testing.segments import statement_of
from zkaudit.zk.witness import Witness

ADAPTED = lora_of(statement_of(widths=(4, 5, 5, 3), steps=3), (2, 2, 1), 4)  # the second layer has as many inputs as outputs
ONE_STEP = lora_of(statement_of(widths=(4, 5, 5, 3), steps=1), (2, 2, 1), 4)
DATA = data_of(ADAPTED)


def off_by_one(name: str, layer: int, amount: int, fitting: bool) -> Callable[[], Witness]:
    """A number inside an adapter, "h" or "gh". Its remainder makes up for it and leaves its range; or it stays in its range."""
    lies = [at(name, 1, layer, plus(amount))]
    if fitting:
        lies.append(at(f"{name}r", 1, layer, plus(-amount << ADAPTED.weight_bits)))
    return lambda: lying(train(ADAPTED, DATA, told(*lies)))


def other_product(name: str, layer: int) -> Callable[[], Witness]:
    """The sum of products is another one, and rescaled rightly."""
    return lambda: lying(train(ADAPTED, DATA, at(f"{name}_acc", 2, layer, plus(5))))


def update(name: str, times: int) -> Callable[[], Witness]:
    """The last step's change of the second layer's "dfirst" or "dsecond" matrix, so many times."""
    return lambda: lying(train(ADAPTED, DATA, at(name, 2, 1, lambda change: times * change)))


def second_rate_of_the_first() -> Witness:
    """The second matrices take steps at the first ones' rate, without the scale's square."""
    made = train(ONE_STEP, DATA)
    assert ONE_STEP.lora
    other = replace(ONE_STEP, lora=replace(ONE_STEP.lora, factor=1))
    return lying(replace(made, arrays=method_run(other, DATA, made.batches)))


def seen(name: str, step: int, layer: int) -> Any:
    """What an honest run has there."""
    found = []

    def tamper(told: str, t: int, j: int, value: Any) -> Any:
        if (told, t, j) == (name, step, layer):
            found.append(value)
        return value

    method_run(ADAPTED, DATA, train(ADAPTED, DATA).batches, tamper)
    return found[0]


def through_the_first_matrix() -> Witness:
    """The gradient inside the second layer's adapter is the output's times A', where it should be times B transposed."""
    wrong = seen("g", 0, 1).dot(DATA.start[2].astype(object))
    return lying(train(ADAPTED, DATA, at("gh_acc", 0, 1, lambda _: wrong)))


def through_the_second_matrix() -> Witness:
    """What the second layer's adapter hands down is the gradient inside it times B, where it should be times A' transposed."""
    inside, first, second = seen("gh", 0, 1), DATA.start[2].astype(object), DATA.start[3].astype(object)
    return lying(train(ADAPTED, DATA, at("ga_acc", 0, 0, lambda value: value + inside.dot(second - first.T))))


def not_handed_down() -> Witness:
    """The gradient passes by the adapter."""
    inside, first = seen("gh", 0, 1), DATA.start[2].astype(object)
    return lying(train(ADAPTED, DATA, at("ga_acc", 0, 0, lambda value: value - inside.dot(first.T))))


class OtherFrozen(Witness):
    """Computes with other frozen weights than its tables hold."""

    def __init__(self, witness: Witness, other: list[Any]) -> None:
        super().__init__(witness.layout, witness.tables, witness.batches)
        self.other = other

    @cached_property
    def start(self) -> list[Any]:
        return [*self.other, *super().start[len(self.other) :]]


def other_frozen() -> tuple[Witness, Witness, dict[str, Any]]:
    """A second segment with other frozen weights: it commits to them; it has the first one's commitment and computes with
    them; and that commitment's tables."""
    made = train(ADAPTED, DATA)
    after, data = next_segment(made)
    frozen = [np.array(matrix) for matrix in data.frozen]
    frozen[1][0, 0] += 1 << 20
    witness, before = honest(train(after, replace(data, frozen=frozen))), honest(made)
    committed = {block.name: before.tables[block.name] for block in witness.layout.data}
    return witness, OtherFrozen(altered(witness, **committed), frozen), committed
