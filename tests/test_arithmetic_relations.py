"""Square root and division by themselves: tables are exact, and any other root or quotient is refused, in the clear.

Each relation is proved alone: its ranges, its claims about one committed block of numbers, and the gather that settles them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weakened import is_accepted

from zkaudit.zk import gather, lookup
from zkaudit.zk.block import LIMB, SIGN_OFFSET, Block, Lookup
from zkaudit.zk.channel import Channel, ClearProver, ClearVerifier
from zkaudit.zk.circuit.arithmetic import Quotient, Root, Shape, split
from zkaudit.zk.claims import Claim
from zkaudit.zk.errors import BadInput
from zkaudit.zk.field import Array
from zkaudit.zk.layout import Layout
from zkaudit.zk.tables import narrow
from zkaudit.zk.testing.segments import statement_of

SHAPE = Shape(4, 8, 3, 5)
NUMBER = Block("number", SHAPE.highs, SHAPE.lows)
EPSILON = 3
Relation = Root | Quotient


@dataclass(frozen=True)
class Alone(Layout):
    """The blocks of one relation, and those it speaks of."""

    relation: Relation

    @cached_property
    def _ranged(self) -> list[tuple[Block, int]]:
        divisor = [(Block("divisor", SHAPE.highs, SHAPE.lows), LIMB)] if isinstance(self.relation, Quotient) else []
        return [*divisor, *self.relation.ranges()]

    @cached_property
    def witness(self) -> list[Block]:
        return [NUMBER, *(block for block, _ in self._ranged)]

    @cached_property
    def lookups(self) -> list[Lookup]:
        return [Lookup(bits, (block,)) for block, bits in self._ranged]

    @cached_property
    def blocks(self) -> list[Block]:
        return [*self.witness, *self.multiplicities]


def claims(layout: Alone, channel: Channel) -> list[Claim]:
    def add(claim: Claim, coefficient: int, units: Array, samples: Array) -> None:
        claim.add_block(NUMBER, coefficient, units, samples)

    return layout.relation.claims(layout.named, channel, add)


def accepted(relation: Relation, values: dict[str, Any]) -> bool:
    """Whether these numbers, (units, samples) a block, satisfy the relation and its ranges."""
    layout = Alone(statement_of(), relation)
    tables = {}
    for block in layout.witness:
        table = np.zeros((block.highs, block.lows), np.int64)
        table[: SHAPE.units, : SHAPE.samples] = values[block.name]
        tables[block.name] = narrow(table)
    prover = ClearProver(b"arithmetic")
    prover.commit(layout.witness, tables, "witness")
    tables |= lookup.count(layout, tables)
    prover.commit(layout.multiplicities, tables, "multiplicities")
    found = lookup.prove(layout, tables, prover)
    gather.prove([*found, *claims(layout, prover)], tables, layout, prover)
    verifier = ClearVerifier(b"arithmetic", prover.proof)

    def verify() -> None:
        verifier.receive_commitment(layout.witness, "witness")
        verifier.receive_commitment(layout.multiplicities, "multiplicities")
        left = lookup.verify(layout, verifier)
        gather.verify([*left, *claims(layout, verifier)], layout, verifier)
        verifier.settle()

    return is_accepted(verify)


def matrices(low: int, high: int) -> st.SearchStrategy[Any]:
    """Numbers of all sizes, (units, samples), ends and neighbours of squares among them."""
    entry = st.integers(low, high) | st.integers(max(low, -9), 9) | st.sampled_from([low, high])
    size = SHAPE.units * SHAPE.samples
    return st.lists(entry, min_size=size, max_size=size).map(lambda x: np.array(x).reshape(SHAPE.units, SHAPE.samples))


@st.composite
def squares(draw: st.DrawFn) -> tuple[Root, Any]:
    """A relation, and what it takes roots of; near perfect squares where a root is easily off."""
    bits = draw(st.integers(1, 14))
    root, numbers = Root("root", SHAPE, bits), draw(matrices(0, (1 << (32 + bits)) - 1))
    if draw(st.booleans()):
        roots = np.array([isqrt(x >> bits) for x in numbers.flat]).reshape(numbers.shape)
        numbers = ((roots**2) << bits) - draw(st.integers(0, 1))
    return root, numbers.clip(0)


@st.composite
def fractions(draw: st.DrawFn) -> tuple[Any, Any]:
    """Numerators and divisors, quotients of 16 bits with a sign; exact multiples and their neighbours among them."""
    divisors = draw(matrices(EPSILON, 1 << LIMB))
    quotients = draw(matrices(1 - SIGN_OFFSET, SIGN_OFFSET - 1))
    rests = draw(matrices(0, 1 << 40)) % divisors if draw(st.booleans()) else (divisors - 1) * draw(st.integers(0, 1))
    return quotients * divisors + rests, divisors


def joined(tables: dict[str, Any], name: str) -> Any:
    return tables[f"{name}.0"] + (tables[f"{name}.1"] << LIMB)


@given(squares())
def test_roots_and_slacks_are_exact(case: tuple[Root, Any]) -> None:
    relation, numbers = case
    tables = relation.tables(numbers)
    assert tables["root"].tolist() == [[isqrt(x // 2**relation.bits) for x in row] for row in numbers.tolist()]
    above, below = joined(tables, "root.above"), joined(tables, "root.below")
    low, high = ((tables["root"] + k) ** 2 << relation.bits for k in (0, 1))
    assert ((above == numbers - low) & (below == high - 1 - numbers)).all()
    for block, bits in relation.ranges():
        assert ((tables[block.name] >= 0) & (tables[block.name] < 1 << bits)).all()


@given(st.integers(1, 14))
def test_a_root_beyond_16_bits_is_refused(bits: int) -> None:
    relation, largest = Root("root", SHAPE, bits), (1 << (32 + bits)) - 1
    assert int(relation.tables(np.full((3, 5), largest))["root"].max()) == (1 << 16) - 1
    with pytest.raises(BadInput, match="'root' leaves 16 bits"):
        relation.tables(np.full((3, 5), largest + 1))


@given(fractions())
def test_quotients_and_rests_are_exact(case: tuple[Any, Any]) -> None:
    numerators, divisors = case
    relation = Quotient("quotient", "divisor", EPSILON, SHAPE)
    tables = relation.tables(numerators, divisors)
    pairs = list(zip(numerators.ravel().tolist(), divisors.ravel().tolist(), strict=True))
    assert (tables["quotient"] - SIGN_OFFSET).ravel().tolist() == [n // d for n, d in pairs]
    assert tables["quotient.rest"].ravel().tolist() == [n % d for n, d in pairs]
    assert tables["quotient.slack"].ravel().tolist() == [d - 1 - n % d for n, d in pairs]
    for block, bits in relation.ranges():
        assert ((tables[block.name] >= 0) & (tables[block.name] < 1 << bits)).all()


@pytest.mark.parametrize(("numerator", "divisor"), [(1 << 15, 1), (-(1 << 15), 1), (5, (1 << 16) + 1)])
def test_a_quotient_or_divisor_beyond_16_bits_is_refused(numerator: int, divisor: int) -> None:
    with pytest.raises(BadInput, match="'quotient' or its divisor leaves 16 bits"):
        Quotient("quotient", "divisor", 1, SHAPE).tables(np.full((3, 5), numerator), np.full((3, 5), divisor))


places = st.tuples(st.integers(0, SHAPE.units - 1), st.integers(0, SHAPE.samples - 1))
amounts = st.sampled_from([1, -1]) | st.integers(-5, 5).filter(bool)


@settings(max_examples=8)
@given(squares(), places, amounts)
def test_a_false_root_is_refused(case: tuple[Root, Any], place: tuple[int, int], amount: int) -> None:
    """With slacks that fit it, of which one is negative; with that one zero; and with those of the true root."""
    relation, numbers = case
    true = {"number": numbers, **relation.tables(numbers)}
    assert accepted(relation, true)
    false = true["root"].copy()
    false[place] += amount
    above = numbers - (false**2 << relation.bits)
    total = ((2 * false + 1) << relation.bits) - 1
    width = LIMB + 1 + relation.bits
    for fit in (above, above.clip(0), above.clip(0, total.clip(0))):
        slacks = {**split("root.above", fit, width), **split("root.below", total - fit, width)}
        assert not accepted(relation, {**true, "root": false, **slacks})
    assert not accepted(relation, {**true, "root": false})


@settings(max_examples=8)
@given(fractions(), places, amounts)
def test_a_false_quotient_is_refused(case: tuple[Any, Any], place: tuple[int, int], amount: int) -> None:
    """With a rest and slack that fit it, of which one is negative; with that one zero; and with those of the true quotient."""
    numerators, divisors = case
    relation = Quotient("quotient", "divisor", EPSILON, SHAPE)
    true = {"number": numerators, "divisor": divisors - EPSILON, **relation.tables(numerators, divisors)}
    assert accepted(relation, true)
    false = true["quotient"].copy()
    false[place] += amount
    rest = numerators - (false - SIGN_OFFSET) * divisors
    for fit in (rest, rest.clip(0), rest.clip(0, divisors - 1)):
        changed = {"quotient": false, "quotient.rest": fit, "quotient.slack": divisors - 1 - fit}
        assert not accepted(relation, {**true, **changed})
    assert not accepted(relation, {**true, "quotient": false})


@pytest.mark.parametrize("name", ["root.above", "root.below", "number"])
def test_a_slack_that_is_another_is_refused(name: str) -> None:
    """Each of a root's equations by itself: the second one is all that holds `below`."""
    relation, numbers = Root("root", SHAPE, 10), np.arange(15).reshape(3, 5) ** 5 + 7000
    true = {"number": numbers, **relation.tables(numbers)}
    block = name if name == "number" else f"{name}.0"
    other = true[block].copy()
    other[1, 2] += 1 if other[1, 2] < (1 << 16) - 1 else -1
    assert not accepted(relation, {**true, block: other})
