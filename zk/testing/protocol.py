"""A protocol under test: what a user writes, and one run of it.

Subclass `Protocol` with the instances to try, the prover and the verifier, both speaking through a line. Then
`assert_complete`, `assert_bound`, `assert_sound`, `assert_hiding` and `assert_sessions` examine it, or `pytest --zk-cheats=all`
does all of that for every instance of a `Protocol` in a test module."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis.strategies import SearchStrategy

from zkaudit.zk.testing.line import Coins, Drawn, Intruder, Message, ProverLine, Rejected, VerifierLine, Waiting

if TYPE_CHECKING:
    from zkaudit.zk.testing.cheats import Cheat


class CounterExample(AssertionError):
    """A protocol that is not what it should be; the message says what was done and what came of it."""


class Protocol(ABC):
    """Statements and witnesses are any objects. A statement that is a dataclass has its fields changed one by one."""

    rejections: tuple[type[Exception], ...] = ()  # raised by `verify` besides Rejected
    malleable: frozenset[str] = frozenset()  # messages of which another value may be accepted as well
    secrets_of: Callable[[Any], list[bytes]] | None = None  # byte strings of a witness that may stand in no message
    runs: int = 120  # of prover and simulator that are compared for hiding
    examples: int | None = None  # for each check; the hypothesis profile's number if None

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def simulable(self) -> bool:
        """Whether there is a simulator, so that hiding can be checked."""
        return type(self).simulate is not Protocol.simulate

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """All exceptions by which `verify` may refuse."""
        return (Rejected, *self.rejections)

    @abstractmethod
    def instances(self) -> SearchStrategy[tuple[Any, Any]]:
        """True statements, each with a witness."""

    @abstractmethod
    def prove(self, statement: Any, witness: Any, line: ProverLine) -> None:
        """The prover. It must go on from what `line.send` returns."""

    @abstractmethod
    def verify(self, statement: Any, line: VerifierLine) -> None:
        """The verifier: Rejected, or one of `rejections`, unless it accepts."""

    def lies(self) -> SearchStrategy[tuple[Any, Any]] | None:
        """False statements, each with whatever a cheating prover would use as its witness."""
        return None

    def holds(self, statement: Any) -> bool | None:
        """Whether a statement is true, where that can be told: a true one may share a proof that says little."""
        return None

    def mutations(self, statement: Any) -> Iterator[tuple[str, Any]]:
        """Other statements, each with what was changed: for a dataclass, every field in turn."""
        return mutated_fields(statement)

    def simulate(self, statement: Any, line: ProverLine) -> None:
        """The messages of a run made without a witness, knowing the challenges beforehand: `line.foresee`."""
        raise NotImplementedError

    def cheats(self) -> Sequence[Cheat]:
        """Ways to cheat that only this protocol offers."""
        return ()


@dataclass(frozen=True)
class Run:
    """One run of a prover."""

    statement: Any
    messages: tuple[Message, ...]
    challenges: tuple[Drawn, ...]
    coins: Coins


def run(protocol: Protocol, statement: Any, witness: Any, intruder: Intruder | None = None, coins: Coins | None = None) -> Run:
    """Let the prover speak."""
    line = ProverLine(intruder, coins)
    protocol.prove(statement, witness, line)
    return Run(statement, tuple(line.messages), tuple(line.challenges), line.coins)


Simulator = Callable[[Any, ProverLine], None]


def simulated(protocol: Protocol, statement: Any, coins: Coins, simulator: Simulator | None = None) -> Run:
    """Let the simulator speak: the protocol's own unless another is given."""
    line = ProverLine(coins=coins)
    (simulator or protocol.simulate)(statement, line)
    return Run(statement, tuple(line.messages), tuple(line.challenges), line.coins)


def refusal(protocol: Protocol, statement: Any, messages: Sequence[Message], coins: Coins) -> str | None:
    """Why the verifier refuses these messages; None if it accepts them.

    An exception that is no rejection is a CounterExample: a verifier may not fall over what it is sent.
    """
    try:
        protocol.verify(statement, VerifierLine(messages, coins))
    except protocol.refusals as error:
        return str(error)
    except Exception as error:
        raise CounterExample(f"the verifier of {protocol.name} fails with {type(error).__name__}: {error}") from error
    return None


def challenges_of(protocol: Protocol, statement: Any, messages: Sequence[Message], coins: Coins) -> list[Drawn]:
    """The challenges that the verifier draws on these messages, as far as it gets without enforcing what it requires."""
    line = VerifierLine(messages, coins, lenient=True)
    try:
        protocol.verify(statement, line)
    except (ArithmeticError, LookupError, ValueError, TypeError, Waiting):
        pass  # messages can lead anywhere once nothing is enforced
    except protocol.refusals:
        pass  # malformed ones are refused all the same
    return line.challenges


def mutated_fields(statement: Any) -> Iterator[tuple[str, Any]]:
    """For each field of a dataclass, statements that differ in it."""
    if not dataclasses.is_dataclass(statement) or isinstance(statement, type):
        raise TypeError(f"a statement of type {type(statement).__name__} needs a `mutations` method: it is no dataclass")
    for field in dataclasses.fields(statement):
        for what, value in _others(getattr(statement, field.name)):
            yield f"'{field.name}' {what}", dataclasses.replace(statement, **{field.name: value})


def _others(value: Any) -> Iterator[tuple[str, Any]]:
    """Values of the same type that differ."""
    if isinstance(value, bool):
        yield "negated", not value
    elif isinstance(value, int):
        yield "plus 1", value + 1
        yield "minus 1", value - 1
    elif isinstance(value, str):
        yield "with a letter more", value + "a"
        if value:
            yield "with its last letter changed", value[:-1] + chr(ord(value[-1]) ^ 1)
    elif isinstance(value, bytes):
        yield "with a byte more", value + b"\0"
        if value:
            yield "with its first byte changed", bytes([value[0] ^ 1]) + value[1:]
            yield "with its last byte changed", value[:-1] + bytes([value[-1] ^ 1])
    elif isinstance(value, tuple):
        for i, entry in enumerate(value):
            for what, other in _others(entry):
                yield f"entry {i} {what}", (*value[:i], other, *value[i + 1 :])
        if len(value) > 1 and value[0] != value[1]:
            yield "with two entries swapped", (value[1], value[0], *value[2:])
        if value:
            yield "with its last entry left out", value[:-1]
            yield "with its last entry doubled", (*value, value[-1])
    elif value is None:
        return  # an optional field that is absent: what else it could hold is for the protocol's own `mutations`
    elif dataclasses.is_dataclass(value):
        yield from mutated_fields(value)
    else:
        raise TypeError(f"no other values are known for a {type(value).__name__}: give the protocol a `mutations` method")
