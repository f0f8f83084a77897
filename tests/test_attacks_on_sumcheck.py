"""Attacks on the sumcheck itself, each against a verifier that lacks one check and against ours (sumcheck.py), in the clear.

Most are the standard list of what a verifier must not leave to the prover: see Thaler, Proofs, Arguments, and Zero-Knowledge,
section 4.1, for the checks, and Lund et al. 1992 for the bound that each one is needed for.
"""

from collections.abc import Callable, Sequence

import pytest
from test_soundness import at, plus
from weakened import inverse, is_accepted, weakened

from zkaudit.zk import field, mle, sumcheck
from zkaudit.zk.channel import Channel, ClearProver, ClearVerifier
from zkaudit.zk.field import MODULUS, Array
from zkaudit.zk.linear import Linear, polynomial_at
from zkaudit.zk.sumcheck import Products
from zkaudit.zk.testing.segments import example, prove_in_the_clear, statement_of, trained, verify_in_the_clear, witness_of

TABLE = [3, 1, 4, 1, 5, 9, 2, 6]
VARIABLES = 3
Message = list[int]
Verify = Callable[[int, ClearVerifier], tuple[list[int], Linear]]  # a claimed sum; point and last claim


def ours(claimed: int, verifier: ClearVerifier) -> tuple[list[int], Linear]:
    return sumcheck.verify(VARIABLES, 1, Linear({}, claimed), verifier, "sum")


def accepts(
    verify: Verify,
    claimed: int,
    messages: Sequence[Message],
    table: Sequence[int] = TABLE,
    reader: type[ClearVerifier] = ClearVerifier,
) -> bool:
    """Whether the verifier reduces the claim to what the table, which it has, is at the point."""
    verifier = reader(b"sum", list(messages))

    def check() -> None:
        point, claim = verify(claimed, verifier)
        verifier.require_zero(claim - mle.evaluate(field.from_ints(table), point), "value")
        verifier.settle()

    return is_accepted(check)


def messages_for(claimed: int, table: Sequence[int] = TABLE) -> list[Message]:
    """The prover's, whose polynomials always fit the claim that they answer."""
    prover = ClearProver(b"sum")
    sumcheck.prove([Products([field.from_ints(table)], [(0,)])], 1, Linear({}, claimed), prover, "sum")
    return prover.proof


def test_a_true_sum_is_accepted() -> None:
    assert accepts(ours, sum(TABLE), messages_for(sum(TABLE)))


def test_zero_polynomials_do_not_prove_a_sum_that_is_not_zero() -> None:
    """A table of zeros is proved to have any sum, if the first message is where the verifier's claim begins."""

    def claims_nothing(claimed: int, verifier: ClearVerifier) -> tuple[list[int], Linear]:
        message = verifier.receive(2, "sum")
        r, claim = sumcheck.fold_claim(message, message[0] * 2 + message[1], verifier, "sum")
        point, claim = sumcheck.verify(VARIABLES - 1, 1, claim, verifier, "sum")
        return [r, *point], claim

    nothing, messages = [0] * len(TABLE), [[0, 0]] * VARIABLES
    assert accepts(claims_nothing, 5, messages, nothing)
    assert not accepts(ours, 5, messages, nothing)


def test_a_round_whose_polynomial_does_not_add_up_is_refused() -> None:
    """The other way to leave the claim out: the true sum's messages, under any claim."""

    def adds_nothing_up(claimed: int, verifier: ClearVerifier) -> tuple[list[int], Linear]:
        point, claim = [], Linear({}, claimed)
        for _ in range(VARIABLES):
            message = verifier.receive(2, "sum")
            point.append(verifier.challenge("sumcheck round"))
            claim = polynomial_at(message, point[-1])
        return point, claim

    messages = messages_for(sum(TABLE))
    assert accepts(adds_nothing_up, 5, messages)
    assert not accepts(ours, 5, messages)


class Tolerant(ClearVerifier):
    """Takes coefficients that are missing for zeros, and lets zeros follow the last."""

    def _next(self, name: str) -> Message:
        message = super()._next(name)
        return [*message, 0][:2] if not any(message[2:]) else message


def test_coefficients_that_are_left_out_are_not_zeros() -> None:
    """A tolerant verifier has many proofs of one statement: anybody can change one that was accepted. No false sum follows,
    because the polynomials are the same."""
    constant = [2] * len(TABLE)
    messages = messages_for(sum(constant), constant)
    assert all(slope == 0 for _, slope in messages)
    shorter, longer = [message[:1] for message in messages], [[*message, 0] for message in messages]
    for changed in (shorter, longer):
        assert accepts(ours, sum(constant), changed, constant, Tolerant)
        assert not accepts(ours, sum(constant) + 1, changed, constant, Tolerant)
        assert not accepts(ours, sum(constant), changed, constant)


class SmallChallenges(ClearVerifier):
    """Challenges of six bits."""

    def challenge(self, label: str) -> int:
        return super().challenge(label) % 64


class AnyDegree(SmallChallenges):
    """Takes as many coefficients as a message has."""

    def receive(self, count: int, name: str) -> list[Linear]:
        return super().receive(len(self._proof[self._cursor]), name)


def test_a_polynomial_of_higher_degree_could_agree_with_the_true_one_at_every_challenge() -> None:
    """A verifier that reads the degree from the message, with challenges of six bits: the prover adds to the true polynomial
    one that vanishes at every challenge but 0 and 1. With degree 1 the same challenges leave it one chance in 64, and ours
    reads two coefficients whatever was sent."""

    def one_round(claimed: int, verifier: ClearVerifier) -> tuple[list[int], Linear]:
        return sumcheck.verify(1, 1, Linear({}, claimed), verifier, "sum")

    table, error, vanishing = [3, 8], 1000, [1]
    for c in range(2, 64):
        vanishing = [(low - c * high) % MODULUS for low, high in zip([0, *vanishing], [*vanishing, 0], strict=True)]
    scale = error * inverse(vanishing[0] + sum(vanishing))
    message = [v * scale % MODULUS for v in vanishing]
    message[0], message[1] = message[0] + 3, message[1] + 5
    claimed = sum(table) + error
    assert accepts(one_round, claimed, [message], table, AnyDegree)
    for reader in (SmallChallenges, ClearVerifier):
        assert not accepts(one_round, claimed, [message], table, reader)
        assert not accepts(one_round, claimed, messages_for(claimed, table), table, reader)


def test_a_sum_over_fewer_variables_than_the_table_has_is_refused() -> None:
    """A verifier that goes on while there are messages, and takes coordinates that it lacks for zeros, believes that half of
    the table's sum is all of it."""

    def while_there_are_messages(claimed: int, verifier: ClearVerifier) -> tuple[list[int], Linear]:
        rounds = len(verifier._proof)
        point, claim = sumcheck.verify(rounds, 1, Linear({}, claimed), verifier, "sum")
        return [*point, *[0] * (VARIABLES - rounds)], claim

    half = TABLE[: len(TABLE) // 2]
    messages = messages_for(sum(half), half)
    assert accepts(while_there_are_messages, sum(half), messages)
    assert not accepts(ours, sum(half), messages)


def test_weights_of_a_point_that_is_too_short_do_not_see_half_of_the_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole proof in the clear. With one coordinate too few, the rest taken for zeros, nothing is asked of the second half of
    the samples: a forward product that is wrong in the last step is accepted."""
    statement = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5)
    witness = witness_of(statement, trained(statement, example(statement), at("z_acc", 1, 0, plus(1 << 20))))

    def attack() -> bool:
        proof = prove_in_the_clear(statement, witness)
        return is_accepted(lambda: verify_in_the_clear(statement, witness.tables, proof))

    def one_too_few(channel: Channel, label: str, length: int) -> Array:
        variables = (length - 1).bit_length()
        drawn = channel.challenges(label, variables)
        if label == "product samples":
            drawn[-1] = 0
        return mle.random_weights(drawn, length)

    with monkeypatch.context() as patch:
        patch.setattr(Channel, "random_weights", one_too_few)
        assert attack()
    assert not attack()
    with pytest.raises(ValueError, match="length"):
        mle.random_weights([5], 4)


def test_a_second_sumcheck_draws_its_own_challenges() -> None:
    """A verifier that takes the first one's point for the second as well tells the prover where a false polynomial is looked
    at: one that adds up to the claim and is right there."""

    def two_sums(claimed: int, messages: Sequence[Message]) -> bool:
        verifier = ClearVerifier(b"two", list(messages))

        def check() -> None:
            for claim in (sum(TABLE), claimed):
                point, last = sumcheck.verify(VARIABLES, 1, Linear({}, claim), verifier, "sum")
                verifier.require_zero(last - mle.evaluate(field.from_ints(TABLE), point), "value")

        return is_accepted(check)

    def attack() -> bool:
        prover, claimed = ClearProver(b"two"), sum(TABLE) + 1
        point, _ = sumcheck.prove([Products([field.from_ints(TABLE)], [(0,)])], 1, Linear({}, sum(TABLE)), prover, "sum")
        low, high = sum(TABLE[0::2]), sum(TABLE[1::2])
        truth = (low + point[0] * (high - low)) % MODULUS
        slope = (2 * truth - claimed) * inverse(2 * point[0] - 1)
        message = prover.send([truth - slope * point[0], slope], "sum")
        r, claim = sumcheck.fold_claim(message, Linear({}, claimed), prover, "sum")
        rest = Products([mle.fold(field.from_ints(TABLE), r)], [(0,)])
        sumcheck.prove([rest], 1, claim, prover, "sum")
        return two_sums(claimed, prover.proof)

    with weakened(reused=["sumcheck round"]):
        assert attack()
    assert not attack()
