"""Weak Fiat-Shamir, carried out: whatever a transcript leaves out, a prover chooses when it knows the challenges.

"Frozen Heart" (Trail of Bits, advisories of April 2022 on Bulletproofs, PlonK and Girault's scheme; Dao et al. 2023, "Weak
Fiat-Shamir attacks on modern proof systems") is the family. Every test leaves one thing out of the transcript and forges with
it; with our transcript, which absorbs everything before the next challenge is drawn, the same prover fails.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from weakened import ENTRIES, TABLE, Returning, inverse, is_accepted, verifier_of, weakened

from zkaudit.zk import argument, curve, field, hiding, hyrax, mle, pedersen, sumcheck
from zkaudit.zk.channel import Blinder, Channel
from zkaudit.zk.field import MODULUS
from zkaudit.zk.linear import Linear
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.statement import Statement
from zkaudit.zk.sumcheck import Products
from zkaudit.zk.testing.segments import example, hidden_proof, statement_of
from zkaudit.zk.verifier import verify_segment

TRUE_SUM = int(ENTRIES["t"].sum())
POINT = [5, 6, 7, 8]


def announce(channel: Channel, claimed: int) -> Linear:
    """A public claim, which is part of the statement."""
    channel.transcript.absorb(b"claim", claimed.to_bytes(32, "little"))
    return Linear({}, claimed)


def verify_sum(claimed: int, prover: Returning) -> None:
    """The table's entries add up to `claimed`."""
    verifier = verifier_of(prover)
    verifier.receive_commitment([TABLE], "table")
    point, claim = sumcheck.verify(4, 1, announce(verifier, claimed), verifier, "sum")
    value = verifier.receive(1, "value")[0]
    verifier.require_zero(claim - value, "value")
    verifier.open([TABLE], [1], point, value)
    verifier.settle()


def end_sum(prover: Returning, point: list[int], claim: Linear) -> None:
    """The table's value at the point, as it is."""
    table = Products([field.from_small(ENTRIES["t"][0])], [(0,)])
    for r in point:
        table.fold(r)
    value = prover.send(field.to_ints(table.tables[0]), "value")[0]
    prover.require_zero(claim - value, "value")
    prover.open([TABLE], [1], point, value)


def test_a_claim_that_is_not_absorbed_can_be_solved_for() -> None:
    """The prover sends round polynomials of its liking and then states the sum with which the batched requirements vanish."""

    def dialogue(claimed: int) -> Returning:
        prover = Returning(blinder=Blinder(b"the same each time"))
        prover.commit([TABLE], ENTRIES, "table")
        claim, point = announce(prover, claimed), []
        for _ in range(4):
            r, claim = sumcheck.fold_claim(prover.send([0, 0], "sum"), claim, prover, "sum")
            point.append(r)
        end_sum(prover, point, claim)
        return prover

    def attack() -> bool:
        claimed = dialogue(0).shortfall()  # the first requirement is that the polynomial's sum less the claim be zero
        assert claimed != TRUE_SUM
        prover = dialogue(claimed)
        prover.settle()
        return is_accepted(lambda: verify_sum(claimed, prover))

    with weakened(unheard=["claim"]):
        assert attack()
    assert not attack()


class EndAfterwards(Returning):
    """Once it knows all challenges, puts end weights of its choice in place of those it trained.

    A unit of layer 0 that does not exist takes what the opening's column weights then ask for, so all weights proper are free.
    """

    change: ClassVar[list[int]] = []  # of the entries of layer 0's row: 4 inputs for each of 3 units and of one of padding

    def settle(self) -> None:
        assert self._opened is not None
        opening = self._opened[0]
        before = [block.name for block in self._order].index("end0")
        row = sum(block.rows(self.columns) for block in self._order[:before])
        weights = field.to_ints(opening.columns)
        change = [0] * len(weights)
        change[0], change[5] = 123456, -7
        change[12] = -(weights[0] * change[0] + weights[5] * change[5]) * inverse(weights[12])
        EndAfterwards.change = change
        late = field.mul(field.from_ints(change), field.to_ints(opening.row_weights[row : row + 1])[0])
        combined = hyrax.combine_rows
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hyrax, "combine_rows", lambda *given: field.add(combined(*given), late))
            super().settle()


def without_end(statement: Statement, channel: Channel) -> None:
    for name, data in statement.sections()[:-1]:
        channel.transcript.absorb(name, data)


def test_an_end_commitment_that_is_not_absorbed_can_be_chosen_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole proof of training that ends in weights which no training gave. The end commitment's first row is layer 0."""
    monkeypatch.setattr(hiding, "HidingProver", EndAfterwards)
    statement = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5)

    def attack() -> bool:
        file = hidden_proof(example(statement), statement, check_trace=False)
        rows = curve.decompress(file.statement.end)
        difference = curve.msm(field.from_ints(EndAfterwards.change), pedersen.columns(1 << statement.columns))
        rows[:1] = curve.add(rows[:1], difference)
        changed = replace(file.statement, end=curve.compress(rows))
        return is_accepted(lambda: verify_segment(ProofFile(changed, file.proof)))

    with monkeypatch.context() as patch:
        patch.setattr(argument, "_absorb", without_end)
        assert attack()
    assert not attack()


def test_a_round_polynomial_that_is_not_absorbed_can_be_fitted_to_its_challenge() -> None:
    """The last one has two coefficients: one for the claim, one for the table's value at the point."""

    def attack() -> bool:
        claimed = TRUE_SUM + 1
        prover, total = Returning(), claimed
        prover.commit([TABLE], ENTRIES, "table")
        table, point, claim = Products([field.from_small(ENTRIES["t"][0])], [(0,)]), [], announce(prover, claimed)
        for _ in range(4):
            asked, (at_zero,) = total, table.round_values(1)
            message = prover.send([at_zero, asked - 2 * at_zero], "sum")
            r, claim = sumcheck.fold_claim(message, claim, prover, "sum")
            total = (at_zero + r * (asked - 2 * at_zero)) % MODULUS
            table.fold(r)
            point.append(r)
        truth = field.to_ints(table.tables[0])[0]
        slope = (2 * truth - asked) * inverse(2 * r - 1)
        prover.send_again([truth - slope * r, slope], "sum")
        end_sum(prover, point, claim)
        prover.settle()
        return is_accepted(lambda: verify_sum(claimed, prover))

    with weakened(unheard=["sum"]):
        assert attack()
    assert not attack()


def open_truly(channel: Channel) -> None:
    """The table is opened as it is."""
    low = mle.eq_table(POINT)
    channel.open([TABLE], [1], POINT, Linear({}, field.evaluate_small(ENTRIES["t"], field.full(1, 1), low)))


def begun(kind: type[Returning] = Returning) -> Returning:
    prover = kind()
    prover.commit([TABLE], ENTRIES, "table")
    return prover


def settled(prover: Returning) -> Returning:
    open_truly(prover)
    prover.settle()
    return prover


def verdict(prover: Returning, middle: Callable[[Any], None]) -> bool:
    """Whether the dialogue is accepted whose messages and requirements are those of `middle`."""
    verifier = verifier_of(prover)
    verifier.receive_commitment([TABLE], "table")
    middle(verifier)
    open_truly(verifier)
    return is_accepted(verifier.settle)


@pytest.mark.parametrize("item", ["product mask", "product"])
def test_what_is_said_of_a_product_and_not_absorbed_can_make_up_for_a_false_one(item: str) -> None:
    """What is required at last is e^2 z + e cross + square = X Y. The mask `square` takes any z, if e does not depend on it; a
    revealed factor X takes what the batched requirements lack, if their challenge does not depend on it."""

    def product(verifier: Any) -> None:
        x, y, z = verifier.receive(3, "numbers")
        verifier.require_product(x, y, z, "product")

    def attack() -> bool:
        prover = begun()
        x, y, z = prover.send([3, 4, 13], "numbers")
        prover.require_product(x, y, z, "product")
        lie = prover.drawn["product"] ** 2 * (13 - 3 * 4)
        if item == "product mask":
            prover.send_again([*prover.values[-4:-1], prover.values[-1] - lie], item)
        else:
            square = prover.foreseen("batch requirements") ** 2  # X stands in the first and, times Y, in the third requirement
            revealed_x, revealed_y = prover.scalars_of(item, 2)
            prover.overwrite_scalars(item, [revealed_x + square * lie * inverse(1 + square * revealed_y), revealed_y])
        return verdict(settled(prover), product)

    with weakened(unheard=[item]):
        assert attack()
    assert not attack()


def test_a_last_message_that_the_batch_challenge_does_not_see_can_make_up_for_a_lie() -> None:
    """The "last challenge attack" on gnark's PLONK verifier (Ciobotaru et al. 2024): the challenge that batches the checks was
    drawn without the last prover's message, which then cancels a false check."""

    def two_numbers(verifier: Any) -> None:
        early, late = verifier.receive(1, "early")[0], verifier.receive(1, "late")[0]
        verifier.require_zero(early - 7, "early is seven")
        verifier.require_zero(late - 5, "late is five")

    def attack() -> bool:
        prover = begun()
        early, late = prover.send([3], "early")[0], prover.send([5], "late")[0]
        prover.require_zero(early - 7, "early is seven")
        prover.require_zero(late - 5, "late is five")
        prover.send_again([5 + 4 * inverse(prover.foreseen("batch requirements"))], "late")
        return verdict(settled(prover), two_numbers)

    with weakened(unheard=["late"]):
        assert attack()
    assert not attack()


def both_three_and_seven(verifier: Any) -> None:
    number = verifier.receive(1, "number")[0]
    verifier.require_zero(number - 7, "the number is seven")
    verifier.require_zero(number - 3, "the number is three")


def contradiction(kind: type[Returning] = Returning) -> Returning:
    """A dialogue in which one number is required to be seven and to be three, honest but for that."""
    prover = begun(kind)
    number = prover.send([3], "number")[0]
    prover.require_zero(number - 7, "the number is seven")
    prover.require_zero(number - 3, "the number is three")
    return prover


@pytest.mark.parametrize("item", ["mask", "masked value", "fold"])
def test_an_item_of_the_inner_product_argument_that_is_not_absorbed_can_make_up_for_a_lie(item: str) -> None:
    """Frozen Heart in Bulletproofs. What the final equation lacks is a known multiple of the point U, since a prover knows its
    own lie and every challenge; the item that no challenge depends on takes it: A before "mask", the value of the masked
    vector, or L of the last folding."""

    def attack() -> bool:
        prover = settled(contradiction())
        lacking = prover.drawn["mask"] * prover.shortfall() % MODULUS
        if item == "masked value":
            prover.overwrite_scalars(item, [prover.scalars_of(item, 1)[0] + lacking])
        else:
            weight = 1 if item == "mask" else inverse(prover.drawn["fold"])
            multiple = field.from_ints([lacking * prover.drawn["bind value"] * weight])
            point = curve.add(prover.point_of(item), curve.mul(pedersen.inner_product(), multiple))
            prover.overwrite(item, curve.compress(point))
        return verdict(prover, both_three_and_seven)

    with weakened(unheard=[item]):
        assert attack()
    assert not attack()


SCALE = 11


class Carrying(Returning):
    """Puts what the first requirement lacks beside the number, on the point that carries values."""

    def _write_points(self, points: Any, name: str) -> None:
        if name == "number":
            points = curve.add(points, curve.mul(pedersen.inner_product(), field.from_ints([SCALE * (3 - 7)])))
        super()._write_points(points, name)


def test_a_value_point_that_is_known_before_the_commitments_lets_a_message_carry_a_value() -> None:
    """In Bulletproofs (Bünz et al. 2018, section 3) the claimed product is bound to the argument by a point that is scaled
    after the claim. If the scale is known earlier, a commitment can hold what the first requirement lacks."""

    def attack() -> bool:
        return verdict(settled(contradiction(Carrying)), both_three_and_seven)

    with weakened(known={"bind value": SCALE}):
        assert attack()
    assert not attack()
