"""What a protocol must be: complete, bound to its statement, sound. Each check raises CounterExample, shrunk, or returns.

    assert_complete   every true statement's proof is accepted
    assert_bound      no proof is accepted for another statement, and every challenge depends on all of the statement
    assert_sound      no cheat is accepted (cheats.py)

The number of examples is `examples`, else the protocol's, else that of the hypothesis profile in force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.strategies import DrawFn, SearchStrategy

from zkaudit.zk.testing.cheats import Attempt, Cheat, Scene, attempts, chosen
from zkaudit.zk.testing.line import Coins
from zkaudit.zk.testing.protocol import CounterExample, Protocol, Run, challenges_of, refusal, run

T = TypeVar("T")


class NotApplicable(Exception):
    """A cheat that finds nothing to do in a protocol: a swap where no two messages have one form."""


def assert_complete(protocol: Protocol, examples: int | None = None) -> None:
    """CounterExample if an honest proof is refused, or a prover or verifier fails on one."""

    def accepted(instance: tuple[Any, Any]) -> None:
        statement, witness = instance
        spoken = _honest(protocol, statement, witness)
        if (reason := refusal(protocol, statement, spoken.messages, spoken.coins)) is not None:
            raise CounterExample(f"{protocol.name} is not complete\n  statement  {statement!r}\n  refused    {reason}")

    search(accepted, protocol.instances(), examples or protocol.examples)


def assert_bound(protocol: Protocol, examples: int | None = None) -> None:
    """CounterExample if a part of the statement can be changed under a proof, or a derived challenge does not depend on it."""

    def bound(instance: tuple[Any, Any]) -> None:
        statement, witness = instance
        spoken = _honest(protocol, statement, witness)
        before = challenges_of(protocol, statement, spoken.messages, spoken.coins)
        for what, other in protocol.mutations(statement):
            after = challenges_of(protocol, other, spoken.messages, spoken.coins)
            for number, (old, new) in enumerate(zip(before, after, strict=False)):
                if old.derived and old.value == new.value:
                    raise CounterExample(
                        f"{protocol.name} is not bound to its statement\n  statement  {statement!r}\n  changed    {what}\n"
                        f"  found      challenge {number} '{old.name}' stays the same"
                    )
            if not protocol.holds(other) and refusal(protocol, other, spoken.messages, spoken.coins) is None:
                raise CounterExample(
                    f"{protocol.name} is not bound to its statement\n  statement  {statement!r}\n  changed    {what}\n"
                    "  found      the proof is accepted all the same"
                )

    search(bound, protocol.instances(), examples or protocol.examples)


def assert_sound(protocol: Protocol, cheats: str | Sequence[str | Cheat] = "all", examples: int | None = None) -> None:
    """CounterExample if a cheat is accepted. `cheats`: "all", names with commas, or a sequence of names and cheats.

    NotApplicable if none of them finds anything to do.
    """
    picked = chosen(protocol, cheats) if isinstance(cheats, str) else _picked(protocol, cheats)
    if sum(_tried(protocol, cheat, examples) for cheat in picked) == 0:
        raise NotApplicable(f"{', '.join(cheat.name for cheat in picked)}: nothing of the kind in {protocol.name}")


def _picked(protocol: Protocol, cheats: Sequence[str | Cheat]) -> list[Cheat]:
    return [cheat if isinstance(cheat, Cheat) else chosen(protocol, [cheat])[0] for cheat in cheats]


def _tried(protocol: Protocol, cheat: Cheat, examples: int | None) -> int:
    """How often the cheat was tried, each time in vain."""
    tried = 0

    def refused(attempt: Attempt | None) -> None:
        nonlocal tried
        if attempt is None:
            return
        tried += 1
        found = attempt.found
        if found is None and refusal(protocol, attempt.statement, attempt.messages, attempt.coins or Coins()) is None:
            found = "accepted"
        if found:
            raise CounterExample(
                f"{protocol.name} is not sound\n  cheat      {cheat.name}: {attempt.what}\n"
                f"  statement  {attempt.statement!r}\n  found      {found}"
            )

    search(refused, attempts(cheat, scenes(protocol)), examples or protocol.examples)
    return tried


def scenes(protocol: Protocol) -> SearchStrategy[Scene]:
    """True statements, and false ones if the protocol says which, each with a run and with a run on another."""
    instances, lies = protocol.instances(), protocol.lies()

    @st.composite
    def scene(draw: DrawFn) -> Scene:
        true = lies is None or draw(st.booleans())
        statement, witness = draw(instances if true or lies is None else lies)
        other_statement, other_witness = draw(instances)
        spoken, other = (_honest(protocol, *pair) for pair in ((statement, witness), (other_statement, other_witness)))
        return Scene(protocol, statement, witness, spoken, other, true)

    return scene()


def search(check: Callable[[T], None], strategy: SearchStrategy[T], examples: int | None) -> None:
    """Run `check` on what the strategy draws; the first failure is shrunk and raised."""
    chosen_settings = settings(
        max_examples=examples or settings().max_examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
    )

    seen: list[CounterExample] = []

    def example(drawn: Any) -> None:
        try:
            check(drawn)
        except CounterExample as error:
            seen.append(error)
            raise

    try:
        chosen_settings(given(strategy)(example))()
    except CounterExample as error:
        raise CounterExample(str(error)) from error.__cause__
    except Flaky:  # provers draw at random, so what was found once need not be found again
        if not seen:
            raise
        raise CounterExample(f"{seen[-1]}\n  (in {len(seen)} of the tries; it depends on the prover's coins)") from None


def _honest(protocol: Protocol, statement: Any, witness: Any) -> Run:
    try:
        return run(protocol, statement, witness)
    except Exception as error:
        raise CounterExample(
            f"the prover of {protocol.name} fails with {type(error).__name__}: {error}\n  statement  {statement!r}"
        ) from error
