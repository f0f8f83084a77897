"""Random combinations whose coefficients are known too early: two lies that cancel, accepted then and refused by ours.

Fiat-Shamir's order is what stops all of these: every coefficient is drawn after all that it joins.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from test_attacks_on_lookups import rounded_down
from weakened import ENTRIES, TABLE, Returning, inverse, is_accepted, verifier_of, weakened

from zkaudit.zk import channel, field, gather, lookup, mle
from zkaudit.zk.channel import ClearProver, ClearVerifier
from zkaudit.zk.claims import Claim
from zkaudit.zk.linear import Linear
from zkaudit.zk.testing.segments import example, prove_in_the_clear, statement_of, trained, verify_in_the_clear, witness_of

SMALL = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5)
WITNESS = witness_of(SMALL, trained(SMALL, example(SMALL)))
LAYOUT = WITNESS.layout
TABLES = {**WITNESS.tables, **lookup.count(LAYOUT, WITNESS.tables)}
KNOWN = 5


class Adjusting(ClearProver):
    """Adds to the values that it claims of blocks at the gather's point; keeps what is then required of them."""

    def __init__(self, changes: Mapping[int, int]) -> None:
        super().__init__(b"claims")
        self.changes, self.first = changes, 0
        self.gathered = Linear()

    def send(self, values: Sequence[int], name: str) -> list[Linear]:
        if name == "block values":
            self.first = self.slots
            values = [value + self.changes.get(i, 0) for i, value in enumerate(values)]
        return super().send(values, name)

    def require_zero(self, expression: Linear, name: str) -> None:
        if name == "gathered claims":
            self.gathered = expression
        super().require_zero(expression, name)


def sums(values: Sequence[Linear]) -> list[Claim]:
    """The entries of the inputs and of the first end weights add up to two hidden values."""
    claims = [Claim(value) for value in values]
    for claim, name in zip(claims, ("x", "end0"), strict=True):
        block = LAYOUT.named[name]
        claim.add_block(block, 1, field.full(block.highs, 1), field.full(block.lows, 1))
    cube, counts = Claim(Linear()), LAYOUT.named["count.16"]
    cube.add_block(counts, 0, field.full(1, 1), field.zeros(counts.lows))
    return [*claims, cube]


def claimed(lies: Sequence[int], changes: Mapping[int, int]) -> Adjusting:
    """The gather of both sums, each wrong by its lie."""
    prover = Adjusting(changes)
    prover.adopt(LAYOUT.blocks, TABLES)
    true = [int(TABLES[name].astype(object).sum()) for name in ("x", "end0")]
    values = prover.send([value + lie for value, lie in zip(true, lies, strict=True)], "sums")
    gather.prove(sums(values), TABLES, LAYOUT, prover)
    return prover


def accepted(prover: ClearProver) -> bool:
    verifier = ClearVerifier(b"claims", prover.proof)
    verifier.adopt(LAYOUT.blocks, TABLES)
    return is_accepted(lambda: gather.verify(sums(verifier.receive(2, "sums")), LAYOUT, verifier))


def test_true_sums_are_accepted() -> None:
    assert accepted(claimed([0, 0], {}))
    assert not accepted(claimed([1, 0], {}))


def test_claims_joined_by_a_known_coefficient_can_be_false_together() -> None:
    def attack() -> bool:
        return accepted(claimed([1000, -1000 * inverse(KNOWN)], {}))

    with weakened(known={"gather claims": KNOWN}):
        assert attack()
    assert not attack()


def test_openings_joined_by_a_known_coefficient_can_be_false_together() -> None:
    """One sum is false, and so must its block's value at the point be; another block, of which nothing is claimed, makes up for
    it in the opening."""

    def attack() -> bool:
        missed = claimed([1000, 0], {})
        names = [block.name for block in LAYOUT.blocks]
        wrong, other = names.index("x"), names.index("y")
        change = -missed.value(missed.gathered) * inverse(missed.gathered.terms[missed.first + wrong])
        makes_up = -change * pow(KNOWN, wrong - other, field.MODULUS)
        return accepted(claimed([1000, 0], {wrong: change, other: makes_up}))

    with weakened(known={"open blocks": KNOWN}):
        assert attack()
    assert not attack()


def test_requirements_joined_by_a_known_coefficient_can_be_false_together() -> None:
    """On the hiding channel, where all requirements of a proof are settled as one."""

    def require(either: Any, take: Any) -> bool:
        one, other = take()
        either.require_zero(one - 7, "one is seven")
        either.require_zero(other - 5, "the other is five")
        point = [5, 6, 7, 8]
        value = field.evaluate_small(ENTRIES["t"], field.full(1, 1), mle.eq_table(point))
        either.open([TABLE], [1], point, Linear({}, value))
        return is_accepted(either.settle)

    def attack() -> bool:
        prover = Returning()
        prover.commit([TABLE], ENTRIES, "table")
        require(prover, lambda: prover.send([3, 5 + 4 * inverse(KNOWN)], "numbers"))
        verifier = verifier_of(prover)
        verifier.receive_commitment([TABLE], "table")
        return require(verifier, lambda: verifier.receive(2, "numbers"))

    with weakened(known={"batch requirements": KNOWN}):
        assert attack()
    assert not attack()


class OtherRoot(ClearProver):
    """Adds to the denominator of the root; keeps the root's children."""

    more = 0
    gate: Sequence[int] = ()

    def send(self, values: Sequence[int], name: str) -> list[Linear]:
        if name == "root":
            values = [values[0] + OtherRoot.more]
            OtherRoot.gate = ()
        if name == "gate" and not OtherRoot.gate:
            OtherRoot.gate = values
        return super().send(values, name)


def test_a_numerator_and_a_denominator_joined_by_a_known_coefficient_can_be_false_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A whole argument with a rounding out of range, so that the tree of fractions has a root that is not zero. It is claimed
    to be zero all the same, and the denominator takes the rest."""
    monkeypatch.setattr(channel, "ClearProver", OtherRoot)
    monkeypatch.setattr(OtherRoot, "more", 0)

    def attack() -> bool:
        witness = rounded_down()
        statement = witness.layout.statement
        OtherRoot.more = 0
        prove_in_the_clear(statement, witness)
        p0, p1, q0, q1 = OtherRoot.gate[:4]
        OtherRoot.more = (p0 * q1 + p1 * q0) * inverse(KNOWN)
        assert OtherRoot.more % field.MODULUS
        proof = prove_in_the_clear(statement, witness)
        return is_accepted(lambda: verify_in_the_clear(statement, witness.tables, proof))

    with weakened(known={"fraction batch": KNOWN}):
        assert attack()
    assert not attack()
