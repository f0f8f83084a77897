"""Attacks on Pedersen commitments and on how messages are summed: two openings of one commitment, small order, reused
blindings, and a change of what was sent. Each is carried out in a weakened world and against ours."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from curve_points import P, of_small_order, ours
from test_torsion import verdict as verdict_of_a_product
from weakened import DOMAIN, ENTRIES, TABLE, Returning, is_accepted, verifier_of, weakened

from zkaudit.zk import curve, field, generators, hyrax, mle, pedersen
from zkaudit.zk.channel import Blinder, Channel
from zkaudit.zk.curve import Points
from zkaudit.zk.field import Array
from zkaudit.zk.hiding import HidingProver
from zkaudit.zk.layout import Layout
from zkaudit.zk.linear import Linear
from zkaudit.zk.tables import weight_tables
from zkaudit.zk.testing.segments import end_weights, example, hidden_proof, statement_of, trained
from zkaudit.zk.verifier import verify_segment

SMALL = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5)
POINT = [5, 6, 7, 8]
LARGE = 1 << 12  # generators of each family that are compared


def opened(table: Any) -> Linear:
    return Linear({}, field.evaluate_small(table, field.full(1, 1), mle.eq_table(POINT)))


def opens_as(rows: Points, blindings: Array, table: Any) -> bool:
    """Whether a prover convinces the verifier that these rows hold the table."""
    prover, encoded = HidingProver(DOMAIN, 4, Blinder(), check=False), curve.compress(rows)
    prover.transcript.absorb(b"rows", encoded)
    prover.adopt([TABLE], {"t": table}, blindings)
    prover.open([TABLE], [1], POINT, opened(table))
    prover.settle()
    verifier = verifier_of(prover)
    verifier.transcript.absorb(b"rows", encoded)
    verifier.adopt([TABLE], encoded)
    verifier.open([TABLE], [1], POINT, opened(table))
    return is_accepted(verifier.settle)


RELATIONS: dict[str, Callable[[Points], Points]] = {
    "a column twice": lambda columns: columns[1:2],
    "a column and its multiple": lambda columns: curve.mul(columns[1:2], field.from_ints([3])),
    "a multiple of the blinding's": lambda columns: curve.mul(pedersen.blinding(), field.from_ints([3])),
}


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_known_relation_between_generators_gives_a_commitment_two_openings(
    relation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pedersen 1991: binding is that nobody knows a relation. With one, what is taken from a column goes to another one, or to
    the blinding. Ours are hashed to the curve, so that nobody could choose them (RFC 9380)."""
    honest = pedersen.columns

    def related(count: int) -> Points:
        columns = honest(count)
        return np.concatenate([RELATIONS[relation](columns), columns[1:]])

    def attack() -> list[bool]:
        rows, blindings = hyrax.commit([TABLE], ENTRIES, 4, Blinder())
        other = ENTRIES["t"].copy()
        other[0, 0] += 1  # of the first generator, k times what gives way to it
        k = 1 if relation == "a column twice" else 3
        if "blinding" in relation:
            second = field.sub(blindings, k)
        else:
            other[0, 1] -= k
            second = blindings
        return [opens_as(rows, blindings, ENTRIES["t"]), opens_as(rows, second, other)]

    with monkeypatch.context() as patch:
        patch.setattr(pedersen, "columns", related)
        assert attack() == [True, True]
    assert attack() == [True, False]


def test_a_slot_s_generator_twice_lets_two_numbers_of_a_message_change_places(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = pedersen.slots

    def twice(count: int) -> Points:
        slots = honest(max(count, 2))
        return np.concatenate([slots[1:2], slots[1:]])[:count]

    def message(first: int, scalars: Array) -> Points:
        count = len(scalars) - 1
        return curve.msm(scalars, np.concatenate([pedersen.slots(first + count)[first:], pedersen.blinding()]))

    def attack(values: Sequence[int]) -> bool:
        prover = Returning()
        prover.commit([TABLE], ENTRIES, "table")
        first = prover.send([3, 4], "pair")[0]
        prover.values[:] = values
        prover.require_zero(first - values[0], "the first number")
        prover.open([TABLE], [1], POINT, opened(ENTRIES["t"]))
        prover.settle()
        verifier = verifier_of(prover)
        verifier.receive_commitment([TABLE], "table")
        verifier.require_zero(verifier.receive(2, "pair")[0] - values[0], "the first number")
        verifier.open([TABLE], [1], POINT, opened(ENTRIES["t"]))
        return is_accepted(verifier.settle)

    with monkeypatch.context() as patch:
        patch.setattr(pedersen, "slots", twice)
        patch.setattr(pedersen, "message", message)
        assert attack([3, 4])
        assert attack([4, 3])
    assert attack([3, 4])
    assert not attack([4, 3])


def test_no_two_generators_have_a_relation_that_can_be_seen() -> None:
    """Of all families together no two are the same, negatives, or images under the curve's endomorphism (x, y) -> (w x, y),
    which multiplies by a known number: these have one y, up to its sign. All are of order r."""
    families = [generators.prefix(domain, LARGE) for domain in (generators.COLUMNS_DOMAIN, generators.SLOTS_DOMAIN)]
    points = np.concatenate([*families, pedersen.blinding(), pedersen.inner_product(), curve.GENERATOR])
    ys = [int.from_bytes(row[6:].tobytes(), "little") for row in points]
    assert len({min(y, P - y) for y in ys}) == len(points) == 2 * LARGE + 3
    assert curve.in_subgroup(points).all()
    assert points.any(axis=1).all()


@pytest.mark.parametrize("order", [3, 11])
def test_a_whole_proof_may_have_parts_of_small_order_and_says_the_same(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every row commitment, those of the statement included: accepted, and refused with end weights that are false."""
    small, commit = ours(of_small_order(order)[:1]), hyrax.commit

    def with_small_parts(*given: Any) -> tuple[Points, Array]:
        points, blindings = commit(*given)
        return curve.add(points, np.repeat(small, len(points), axis=0)), blindings

    def another_end(witness: Any) -> dict[str, Any]:
        return {"end0": witness.tables["end0"] + 1}

    monkeypatch.setattr(hyrax, "commit", with_small_parts)
    file = hidden_proof(example(SMALL), SMALL)
    assert not curve.in_subgroup(curve.decompress(file.statement.data + file.statement.end, subgroup=False)).any()
    verify_segment(file)
    false = hidden_proof(example(SMALL), SMALL, check_trace=False, change=another_end)
    assert not is_accepted(lambda: verify_segment(false))


def test_without_the_cofactor_a_verdict_on_points_of_small_order_is_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier that neither looks at the subgroup nor multiplies by the cofactor asks that parts of order 3 cancel as well.
    It refuses most and accepts some proofs of one true statement: like verifiers of signatures that disagree about some
    (Chalkias et al. 2020, "Taming the many EdDSAs"). False statements it refuses as ours does."""
    small = ours(of_small_order(3)[:1])
    with monkeypatch.context() as patch:
        patch.setattr(curve, "is_torsion", lambda point: not point.any())
        assert any(verdict_of_a_product(small, 12, 12) for _ in range(100))
        assert not all(verdict_of_a_product(small, 12, 12) for _ in range(100))
        assert not any(verdict_of_a_product(small, 13, 13) for _ in range(10))
    assert all(verdict_of_a_product(small, 12, 12) for _ in range(10))


class Late(Returning):
    """Hides a correction of message 0 on that message's slot in a later commitment, when it knows the challenge between."""

    def _write_points(self, points: Points, name: str) -> None:
        if name == "late":
            wanted = self.drawn["after early"]
            points = curve.add(points, curve.mul(pedersen.slots(1), field.from_ints([wanted - self.values[0]])))
            self.values[0] = wanted
        super()._write_points(points, name)


def guess(channel: Channel, take: Callable[[str], Linear]) -> None:
    """The first number is the challenge that comes after it."""
    early, drawn = take("early"), channel.challenge("after early")
    take("late")
    channel.require_zero(early - drawn, "early is the challenge")
    channel.open([TABLE], [1], POINT, opened(ENTRIES["t"]))
    channel.settle()


def test_a_late_change_of_an_earlier_message_is_rejected() -> None:
    """Messages are summed before the final argument. With equal weights a correction can come in any of them; weighed with
    d^i, d drawn after the last, it lands on another power of d."""

    def attack() -> bool:
        prover = Late()
        prover.commit([TABLE], ENTRIES, "table")
        guess(prover, lambda name: prover.send([3], name)[0])
        verifier = verifier_of(prover)
        verifier.receive_commitment([TABLE], "table")
        return is_accepted(lambda: guess(verifier, lambda name: verifier.receive(1, name)[0]))

    with weakened(known={"weigh messages": 1}):
        assert attack()
    assert not attack()


class Constant(Blinder):
    """One blinding for everything."""

    def scalars(self, count: int) -> Array:
        return field.full(count, 123456789)


def test_a_blinding_that_serves_twice_shows_what_changed_between_two_commitments() -> None:
    """Whoever suspects one of a few data sets takes the start weights' row from the end weights' and finds the update. The
    proofs with one blinding are valid: no verifier can see it, so drawing afresh is the prover's duty (`channel.Blinder`)."""

    def suspects(blinder: Blinder) -> list[int]:
        file, layout = hidden_proof(example(SMALL, seed=2), SMALL, blinder), Layout(SMALL)
        verify_segment(file)
        rows = [curve.decompress(encoded)[:1] for encoded in (file.statement.start, file.statement.end)]
        shown = curve.add(rows[1], curve.neg(rows[0]))
        found = []
        for seed in range(4):
            data = example(SMALL, seed)
            end = end_weights(trained(file.statement, data), SMALL.layers)
            tables = {**weight_tables(layout, "start", data[2]), **weight_tables(layout, "end", end)}
            update = tables["end0"].astype(np.int64) - tables["start0"].astype(np.int64)
            expected = curve.msm_rows([update.reshape(1, -1)], pedersen.columns(1 << SMALL.columns))
            if curve.equal(shown, expected):
                found.append(seed)
        return found

    assert suspects(Constant()) == [2]
    assert suspects(Blinder()) == []
