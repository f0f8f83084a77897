"""Attacks on range checks by logUp (Haböck 2022), each in a weakened protocol and against ours (lookup.py), in the clear.

Most are real attacks on whole arguments of training whose witness breaks one range; the few that need a small field, or values
that are no small integers, are played on the identity alone.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from test_soundness import at, plus
from weakened import inverse, is_accepted, weakened

from zkaudit.zk import channel, field, kernels, layout, lookup
from zkaudit.zk.block import Block, limb_bits
from zkaudit.zk.channel import Channel, ClearProver
from zkaudit.zk.errors import BadInput
from zkaudit.zk.field import MODULUS
from zkaudit.zk.layout import Layout
from zkaudit.zk.linear import Linear
from zkaudit.zk.statement import check, largest_integer
from zkaudit.zk.testing.segments import example, prove_in_the_clear, statement_of, trained, verify_in_the_clear, witness_of
from zkaudit.zk.transcript import Transcript
from zkaudit.zk.witness import Witness

ROUNDED = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5, bits=(8, 12, 24))  # remainders: limbs of 16 and 8 bits


def rounded_down() -> Witness:
    """One rounding is a unit too low, and its remainder makes up for it: 2^24 too large, which the last limb has to show."""
    honest = trained(ROUNDED, example(ROUNDED)).arrays
    trace = trained(ROUNDED, example(ROUNDED), at("z", 1, 0, plus(-1)))
    remainder = np.array(trace.arrays["r0"], dtype=object)
    remainder[1].flat[0] = int(honest["r0"][1].flat[0]) + (1 << 24)
    trace.arrays["r0"] = remainder
    witness = witness_of(ROUNDED, trace)
    assert 1 << 8 <= witness.tables["r0.1"].max() < 1 << 16
    return witness


def accepted(witness: Witness) -> bool:
    statement = witness.layout.statement
    proof = prove_in_the_clear(statement, witness)
    return is_accepted(lambda: verify_in_the_clear(statement, witness.tables, proof))


class CountsAfterwards(ClearProver):
    """Chooses counts such that the identity holds at the one gamma that will be drawn."""

    extra: Sequence[int] = ()

    def commit(self, blocks: Sequence[Block], tables: Mapping[str, Any], name: str) -> None:
        if name == "multiplicities":
            ahead = copy.deepcopy(self.transcript)
            gamma, beta = (ahead.challenge(b"lookup") for _ in range(2))
            shifted, outside = gamma - beta * beta * 8, int(tables["r0.1"].max())
            CountsAfterwards.extra = _short_combination(
                [inverse(shifted - row) for row in range(6)], inverse(shifted - outside)
            )
            tables["count.8"][0, :6] += CountsAfterwards.extra
        super().commit(blocks, tables, name)


def test_counts_chosen_after_gamma_hide_a_value_outside_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are field elements to a verifier, so one is enough to solve for; here they are six numbers of some 45 bits, as our
    tables hold 64. They are negative as well, and none is checked: what counts is that they come before gamma."""
    monkeypatch.setattr(channel, "ClearProver", CountsAfterwards)
    with weakened(unheard=["multiplicities"]):
        assert accepted(rounded_down())
    assert min(CountsAfterwards.extra) < 0
    assert max(CountsAfterwards.extra) > sum(found.blocks[0].size for found in Layout(ROUNDED).lookups)
    assert not accepted(rounded_down())


def _short_combination(numbers: Sequence[int], target: int) -> list[int]:
    """Short c with sum of c[i] numbers[i] = target modulo r: Babai's rounding in an LLL-reduced lattice of relations."""
    n, first = len(numbers), inverse(numbers[0])
    relations = [[MODULUS] + [0] * (n - 1)]
    relations += [[-x * first % MODULUS, *(int(i == k) for i in range(1, n))] for k, x in enumerate(numbers) if k]
    basis = _reduced(relations)
    found = [target * first % MODULUS] + [0] * (n - 1)
    for v, w in reversed(list(zip(basis, _orthogonal(basis), strict=True))):
        times = round(_dot(found, w) / _dot(w, w))
        found = [x - times * y for x, y in zip(found, v, strict=True)]
    assert sum(c * x for c, x in zip(found, numbers, strict=True)) % MODULUS == target % MODULUS
    assert max(map(abs, found)) < 1 << 60
    return found


def _dot(v: Sequence[Any], w: Sequence[Any]) -> Fraction:
    return Fraction(sum(x * y for x, y in zip(v, w, strict=True)))


def _orthogonal(basis: Sequence[Sequence[int]]) -> list[list[Fraction]]:
    found: list[list[Fraction]] = []
    for v in basis:
        w = [Fraction(x) for x in v]
        for u in found:
            share = _dot(v, u) / _dot(u, u)
            w = [x - share * y for x, y in zip(w, u, strict=True)]
        found.append(w)
    return found


def _reduced(basis: list[list[int]]) -> list[list[int]]:
    """Lenstra, Lenstra and Lovász 1982, as plain as it can be."""
    basis, k = [list(v) for v in basis], 1
    while k < len(basis):
        for j in reversed(range(k)):
            u = _orthogonal(basis[: j + 1])[j]
            times = round(_dot(basis[k], u) / _dot(u, u))
            basis[k] = [x - times * y for x, y in zip(basis[k], basis[j], strict=True)]
        below, here = _orthogonal(basis[: k + 1])[k - 1 :]
        share = _dot(basis[k], below) / _dot(below, below)
        if _dot(here, here) >= (Fraction(3, 4) - share**2) * _dot(below, below):
            k += 1
        else:
            basis[k - 1], basis[k], k = basis[k], basis[k - 1], max(k - 1, 1)
    return basis


def test_values_looked_up_as_often_as_the_characteristic_vanish() -> None:
    """In a field of 97 elements a value outside the table, looked up 97 times, leaves nothing in the identity, at any gamma
    (Haböck 2022 asks for a larger characteristic for this reason). No statement that passes its check comes near r lookups."""

    def identity_holds(p: int, gamma: int) -> bool:
        rows = [1, 2, *[50] * 97]
        counts = [rows.count(t) for t in range(4)]
        left = sum(pow(gamma - v, -1, p) for v in rows)
        return (left - sum(c * pow(gamma - t, -1, p) for t, c in enumerate(counts))) % p == 0

    assert all(identity_holds(97, gamma) for gamma in range(4, 97) if gamma != 50)
    assert not any(identity_holds(MODULUS, gamma) for gamma in range(51, 97))
    largest = replace(ROUNDED, widths=(1 << 16,) * 65, rates=(1,) * 4, batch=1 << 20, rows=1 << 22, weight_bits=48)
    assert sum(found.blocks[0].size for found in Layout(largest).lookups) < 1 << 60 < MODULUS


def test_denominators_that_vanish_make_every_sum_zero() -> None:
    """Two values equal to gamma, and the root of the tree of fractions is 0 / 0 whatever else is looked up. Values come before
    gamma, so that they cannot be it."""
    table, counts = [0, 1, 2, 3], [0, 0, 0, 0]

    def numerator(values: Sequence[int], gamma: int) -> int:
        p = field.from_ints([1] * len(values) + [-c for c in counts])
        q = field.from_ints([gamma - v for v in (*values, *table)])
        while len(p) > 1:
            p, q = kernels.fraction_layer(p, q)
        return field.to_ints(p)[0]

    foreseen = Transcript(b"lookup").challenge(b"gamma")
    values = [foreseen, 1000, 2000, foreseen]
    assert numerator(values, foreseen) == 0
    bound = Transcript(b"lookup")
    bound.absorb(b"values", b"".join(v.to_bytes(32, "little") for v in values))
    assert numerator(values, bound.challenge(b"gamma")) != 0


def test_a_limb_without_its_own_table_lets_a_number_leave_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limb that is looked up is in range; the recomposed number is not."""
    looked_up = layout.Layout.lookups.func  # type: ignore[attr-defined]
    others = property(lambda self: [found for found in looked_up(self) if found.blocks[0].name != "r0.1"])
    with monkeypatch.context() as patch:
        patch.setattr(Layout, "lookups", others)
        assert accepted(rounded_down())
    assert not accepted(rounded_down())


def test_a_value_of_one_table_is_no_value_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the table's number in the fingerprint a limb of eight bits passes with a value of sixteen, counted elsewhere."""
    count, challenges = lookup.count, Channel.challenges

    def counted_elsewhere(laid: Layout, tables: Mapping[str, Any]) -> dict[str, Any]:
        found = count(laid, tables)
        (high,) = tables["r0.1"][tables["r0.1"] >= 1 << 8]
        found["count.16"][0, high] += 1
        return found

    def without_table_numbers(self: Channel, label: str, number: int) -> list[int]:
        drawn = challenges(self, label, number)
        return [drawn[0], 0] if label == "lookup" else drawn  # beta, of which a table's number is a multiple

    monkeypatch.setattr(lookup, "count", counted_elsewhere)
    with monkeypatch.context() as patch:
        patch.setattr(Channel, "challenges", without_table_numbers)
        assert accepted(rounded_down())
    assert not accepted(rounded_down())


class OtherGate(ClearProver):
    """Puts other children in place of the root's; `change` gets p0, p1, q0, q1."""

    change: Callable[..., tuple[int, int, int, int]]
    changed = False

    def send(self, values: Sequence[int], name: str) -> list[Linear]:
        if name == "gate" and not self.changed:
            self.changed = True
            p0, p1, q0, q1, _, last = values
            batch = (last * inverse(q0) - p1) * inverse(q1)
            p0, p1, q0, q1 = type(self).change(p0, p1, q0, q1)
            values = [p0, p1, q0, q1, p0 * q1, q0 * (p1 + batch * q1)]
        return super().send(values, name)


def test_children_of_a_gate_must_stand_before_they_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree's claim passes to a line through two children. A prover that knows where on the line it will be looked at takes
    children whose sum is what is claimed, and which are right at that place: here, zero in place of what a value outside its
    table leaves."""
    u = 12345

    class Chosen(OtherGate):
        @staticmethod
        def change(p0: int, p1: int, q0: int, q1: int) -> tuple[int, int, int, int]:
            right, slope = (1 - u) * p0 + u * p1, (1 - u) * inverse(u)
            zero = -q0 * right * inverse(u) * inverse(q1 - q0 * slope)
            return zero, (right - (1 - u) * zero) * inverse(u), q0, q1

    monkeypatch.setattr(channel, "ClearProver", Chosen)
    with weakened(known={"fraction child": u}):
        assert accepted(rounded_down())
    assert not accepted(rounded_down())


def test_children_of_a_gate_must_not_be_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate is the same for (p0, q0), (p1, q1) and for (p1, q1), (p0, q0). A verifier that looks half way between them accepts
    both orders, and with them a changed proof; what is proved stays true, since a fraction's neighbours are added."""

    class Swapped(OtherGate):
        @staticmethod
        def change(p0: int, p1: int, q0: int, q1: int) -> tuple[int, int, int, int]:
            return p1, p0, q1, q0

    honest = witness_of(ROUNDED, trained(ROUNDED, example(ROUNDED)))
    assert accepted(honest)
    monkeypatch.setattr(channel, "ClearProver", Swapped)
    with weakened(known={"fraction child": inverse(2)}):
        assert accepted(honest)
    assert not accepted(honest)


def test_limbs_of_as_many_bits_as_the_field_have_two_readings() -> None:
    """Sixteen limbs of 16 bits hold a number and the same number plus r: the same field element, all limbs in range. The widest
    number that we cut has 52 bits, so that its limbs say one integer."""

    def limbs(number: int, widths: Sequence[int]) -> list[int]:
        lows = [sum(widths[:k]) for k in range(len(widths))]
        return [(number >> low) % (1 << width) for low, width in zip(lows, widths, strict=True)]

    def recomposed(parts: Sequence[int]) -> int:
        return field.dot(field.from_ints(parts), field.powers(1 << 16, len(parts)))

    wide = limb_bits(256)
    one, other = limbs(77, wide), limbs(77 + MODULUS, wide)
    assert one != other
    assert recomposed(one) == recomposed(other) == 77
    with pytest.raises(BadInput, match="weight_bits"):
        check(replace(ROUNDED, weight_bits=49, start_bound=1 << 52))
    assert 1 << sum(limb_bits(48 + 4)) < MODULUS


def test_bounds_that_reach_r_let_two_integers_satisfy_one_relation() -> None:
    """With start weights as large as this later segment says, Z = A W may be z or z + r: to the relation modulo r, which can be
    no more than that, a unit with the pre-activation z + r has the small one z. The statement's check refuses these bounds;
    at the largest that it allows, two sides of a relation differ by less than r."""
    z = 1234
    inputs, weights = [1 << 15, 1], [MODULUS >> 15, MODULUS % (1 << 15) + z]
    integer = sum(a * w for a, w in zip(inputs, weights, strict=True))
    assert integer == z + MODULUS
    assert field.dot(field.from_ints(inputs), field.from_ints(weights)) == z
    later = replace(ROUNDED, segment=1, first_step=2, previous="00" * 32, start_bound=max(weights))
    with pytest.raises(BadInput, match="wrap around"):
        check(later)
    allowed, refused = 1, max(weights)
    while refused - allowed > 1:
        middle = (allowed + refused) // 2
        if largest_integer(replace(later, start_bound=middle)) < MODULUS >> 2:
            allowed = middle
        else:
            refused = middle
    check(replace(later, start_bound=allowed))
    with pytest.raises(BadInput, match="wrap around"):
        check(replace(later, start_bound=refused))
    assert 2 * largest_integer(replace(later, start_bound=allowed)) < MODULUS
