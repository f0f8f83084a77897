"""The line between a prover and a verifier: what they say, in order, and the challenges between.

A protocol under test speaks through it. The prover's end may carry an intruder that alters messages as they leave, so that
the prover goes on as if it had meant them; the verifier's end reads messages that were recorded, altered or made up."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import shake_256
from typing import Any

import numpy as np

from zkaudit.zk.testing.kinds import Kind


class Rejected(Exception):
    """What a verifier raises; the message names the check that failed."""


class Waiting(Exception):
    """A verifier asked for a message that has not come yet."""


@dataclass(frozen=True, eq=False)
class Message:
    """One message as it was sent."""

    name: str
    value: Any
    kind: Kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and self.name == other.name and same(self.value, other.value)

    def carrying(self, value: Any) -> Message:
        """The same message with another value."""
        return Message(self.name, value, self.kind)


@dataclass(frozen=True)
class Drawn:
    """A challenge: its name, its value, how many messages came before it, and whether it was derived from what was said."""

    name: str
    value: int
    after: int
    derived: bool


class Coins:
    """Challenges that do not depend on what is said: a verifier's in an interactive dialogue, or a programmed oracle's."""

    def __init__(self, seed: bytes | None = None, programmed: bool = False) -> None:
        self._seed, self.programmed = os.urandom(16) if seed is None else seed, programmed

    def toss(self, number: int, below: int) -> int:
        """The challenge with this number, from 0 to `below` - 1."""
        size = (below.bit_length() + 7) // 8 + 16
        return int.from_bytes(shake_256(self._seed + number.to_bytes(8, "little")).digest(size), "little") % below


Intruder = Callable[[int, Message], Any]  # number of a message and the message -> the value that leaves in its place


class _End:
    def __init__(self, coins: Coins | None) -> None:
        self.coins = coins or Coins()
        self.challenges: list[Drawn] = []
        self._exchanged = 0

    def challenge(self, name: str, below: int, derive: Callable[[], int] | None = None) -> int:
        """A challenge from 0 to `below` - 1: the verifier's coins, or what `derive` makes of the dialogue (Fiat-Shamir)."""
        derived = derive is not None and not self.coins.programmed
        value = derive() if derive is not None and derived else self.coins.toss(len(self.challenges), below)
        self.challenges.append(Drawn(name, value, self._exchanged, derived))
        return value


class ProverLine(_End):
    """The prover's end."""

    def __init__(self, intruder: Intruder | None = None, coins: Coins | None = None) -> None:
        super().__init__(coins)
        self.messages: list[Message] = []
        self._intruder = intruder

    def send(self, name: str, value: Any, kind: Kind) -> Any:
        """Send a message. Returns what left, which the prover must absorb and go on from: an intruder may have changed it."""
        message = Message(name, value, kind)
        if self._intruder is not None:
            message = message.carrying(self._intruder(len(self.messages), message))
        self.messages.append(message)
        self._exchanged += 1
        return message.value

    def foresee(self, number: int, below: int) -> int:
        """For simulators only: the challenge with this number, before it is drawn."""
        return self.coins.toss(number, below)


class VerifierLine(_End):
    """The verifier's end. With `lenient`, requirements are noted and not enforced, to see which challenges follow.

    With `patient`, a message that is missing is Waiting, not Rejected.
    """

    def __init__(
        self, messages: Sequence[Message], coins: Coins | None = None, lenient: bool = False, patient: bool = False
    ) -> None:
        super().__init__(coins)
        self._messages, self._lenient, self._patient = messages, lenient, patient

    def receive(self, name: str, kind: Kind) -> Any:
        """The next message; Rejected if there is none or it is not of this kind."""
        if self._exchanged >= len(self._messages):
            raise Waiting(name) if self._patient else Rejected(f"the proof ends before message '{name}'")
        message = self._messages[self._exchanged]
        value = message.value
        of_the_kind = isinstance(value, bytes) or type(message.kind) is type(kind)  # bytes can be taken for anything
        if not of_the_kind or not kind.admits(value):
            raise Rejected(f"message '{name}' is malformed")
        self._exchanged += 1
        return value

    def require(self, condition: bool, name: str) -> None:
        """A check; Rejected, under this name, if it fails."""
        if not condition and not self._lenient:
            raise Rejected(f"the check '{name}' fails")

    def finish(self) -> None:
        """The end of the dialogue: nothing may follow."""
        self.require(self._exchanged == len(self._messages), "nothing follows the last message")


def same(a: Any, b: Any) -> bool:
    """Whether two values of messages are equal."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b)
