"""How a protocol speaks: messages of scalars, requirements on them, challenges, and one opening of committed tables.

A protocol is written once against these verbs. On the clear channel of this file messages travel as they are and every
requirement is checked where it is made: that is what soundness tests use. The hiding channel (hiding.py) sends commitments
only and settles all requirements together at the end.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from hashlib import shake_256
from typing import Any

import numpy as np

from zkaudit.zk import field, mle
from zkaudit.zk.backend import contiguous, place_of
from zkaudit.zk.block import Block
from zkaudit.zk.errors import BadInput, InvalidProof
from zkaudit.zk.field import MODULUS, Array
from zkaudit.zk.linear import Linear
from zkaudit.zk.transcript import Transcript

Tables = Mapping[str, Any]  # block name -> small integers of shape (highs, lows)


class Blinder:
    """Uniform scalars from the operating system; from a seed in tests, where proofs must repeat byte for byte.

    No blinding may serve twice: where two messages share one, a known multiple of it cancels and what they hide shows. Scalars
    from the system never repeat, whatever process draws them, and a blinder without a seed carries nothing to another process
    that could. A seeded one repeats on purpose, so it must not be made outside tests.
    """

    def __init__(self, seed: bytes | None = None) -> None:
        self._seed, self._drawn = seed, 0

    def child(self, label: str) -> Blinder:
        """The blinder for one purpose, which can draw in another process and in any order.

        With a seed it follows from seed and label alone, so one label must stand for one thing that is always blinded alike.
        Without a seed it is as fresh as this one.
        """
        if self._seed is None:
            return Blinder()
        framed = len(self._seed).to_bytes(8, "little") + self._seed + label.encode()
        return Blinder(shake_256(b"zkaudit blinder child" + framed).digest(32))

    def scalars(self, count: int) -> Array:
        """`count` fresh scalars, shape (count, 4)."""
        if self._seed is None:
            return field.from_wide_bytes(os.urandom(64 * count))
        self._drawn += 1
        return field.from_wide_bytes(shake_256(self._seed + self._drawn.to_bytes(8, "little")).digest(64 * count))

    def scalar(self) -> int:
        """One fresh scalar."""
        return field.to_ints(self.scalars(1))[0]


class Channel(ABC):
    """What both sides can do."""

    def __init__(self, domain: bytes) -> None:
        self.transcript = Transcript(domain)
        self.slots = 0

    def challenge(self, label: str) -> int:
        """A field element neither side could foresee."""
        return self.transcript.challenge(label.encode())

    def challenges(self, label: str, count: int) -> list[int]:
        """A vector of challenges."""
        return [self.challenge(label) for _ in range(count)]

    def random_weights(self, label: str, length: int) -> Array:
        """The first `length` entries of the eq table of a random point: weights for a batched relation, (length, 4)."""
        return mle.random_weights(self.challenges(label, (length - 1).bit_length()), length)

    def new_slots(self, count: int) -> list[Linear]:
        """Expressions for the next `count` slots."""
        first = self.slots
        self.slots += count
        return [Linear({slot: 1}) for slot in range(first, self.slots)]

    @abstractmethod
    def require_zero(self, expression: Linear, name: str) -> None:
        """`expression` must vanish; `name` says what it means."""

    @abstractmethod
    def require_product(self, x: Linear, y: Linear, z: Linear, name: str) -> None:
        """x * y must equal z."""

    @abstractmethod
    def open(self, blocks: Sequence[Block], weights: Sequence[int], point: Sequence[int], value: Linear) -> None:
        """The weighted sum of the committed blocks' multilinear extensions at `point` must equal `value`.

        A block of m < len(point) variables is evaluated at point[:m].
        """

    @abstractmethod
    def settle(self) -> None:
        """End of the dialogue."""


class ProverChannel(Channel):
    """The side that knows the slots' values. With `check`, an unmet requirement is an error at once."""

    def __init__(self, domain: bytes, check: bool = True) -> None:
        super().__init__(domain)
        self.check = check
        self.values: list[int] = []
        self.tables: dict[str, Any] = {}

    @abstractmethod
    def send(self, values: Sequence[int], name: str) -> list[Linear]:
        """One message."""

    @abstractmethod
    def commit(self, blocks: Sequence[Block], tables: Tables, name: str) -> None:
        """Commit to tables inside the proof."""

    def value(self, expression: Linear) -> int:
        """What `expression` amounts to."""
        return (expression.constant + sum(c * self.values[slot] for slot, c in expression.terms.items())) % MODULUS

    def demand(self, expression: Linear, name: str) -> None:
        """With `check`, refuse to go on with an expression that does not vanish."""
        if self.check and self.value(expression):
            raise BadInput(f"the trace does not satisfy the relation '{name}'")


class VerifierChannel(Channel):
    """The side that knows nothing but what it is sent."""

    @abstractmethod
    def receive(self, count: int, name: str) -> list[Linear]:
        """One message."""

    @abstractmethod
    def receive_commitment(self, blocks: Sequence[Block], name: str) -> None:
        """Commitments to tables, sent inside the proof."""


class ClearProver(ProverChannel):
    """Sends everything as it is; `proof` is the list of what was sent."""

    def __init__(self, domain: bytes, check: bool = False) -> None:
        super().__init__(domain, check)
        self.proof: list[Any] = []

    def send(self, values: Sequence[int], name: str) -> list[Linear]:
        message = [value % MODULUS for value in values]
        self.proof.append(message)
        self.values += message
        self.transcript.absorb(name.encode(), _encoded(message))
        return self.new_slots(len(message))

    def commit(self, blocks: Sequence[Block], tables: Tables, name: str) -> None:
        self.adopt(blocks, tables)
        for block in blocks:
            table = np.ascontiguousarray(place_of(tables[block.name]).get(tables[block.name]))
            self.proof.append(table)
            self.transcript.absorb(name.encode(), table.astype(np.int64).tobytes())

    def adopt(self, blocks: Sequence[Block], tables: Tables) -> None:
        """Tables whose commitment is part of the statement."""
        self.tables.update({block.name: tables[block.name] for block in blocks})

    def require_zero(self, expression: Linear, name: str) -> None:
        self.demand(expression, name)

    def require_product(self, x: Linear, y: Linear, z: Linear, name: str) -> None:
        self.demand(z - self.value(x) * self.value(y), name)

    def open(self, blocks: Sequence[Block], weights: Sequence[int], point: Sequence[int], value: Linear) -> None:
        self.demand(value - _evaluated(self.tables, blocks, weights, point), "opening")

    def settle(self) -> None:
        """Nothing is left to say."""


class ClearVerifier(VerifierChannel):
    """Reads a list of messages and checks each requirement where it is made."""

    def __init__(self, domain: bytes, proof: Sequence[Any]) -> None:
        super().__init__(domain)
        self._proof, self._cursor = proof, 0
        self._values: list[int] = []
        self._tables: dict[str, Any] = {}

    def receive(self, count: int, name: str) -> list[Linear]:
        message = self._next(name)
        if len(message) != count:
            raise InvalidProof(f"message '{name}' has {len(message)} values instead of {count}")
        self._values += message
        self.transcript.absorb(name.encode(), _encoded(message))
        return self.new_slots(count)

    def receive_commitment(self, blocks: Sequence[Block], name: str) -> None:
        for block in blocks:
            table = self._next(name)
            if table.shape != (block.highs, block.lows):
                raise InvalidProof(f"table '{block.name}' has shape {table.shape}")
            self._tables[block.name] = table
            self.transcript.absorb(name.encode(), table.astype(np.int64).tobytes())

    def adopt(self, blocks: Sequence[Block], tables: Tables) -> None:
        """Tables whose commitment is part of the statement."""
        self._tables.update({block.name: tables[block.name] for block in blocks})

    def require_zero(self, expression: Linear, name: str) -> None:
        if self._value(expression):
            raise InvalidProof(f"the relation '{name}' does not hold")

    def require_product(self, x: Linear, y: Linear, z: Linear, name: str) -> None:
        self.require_zero(z - self._value(x) * self._value(y), name)

    def open(self, blocks: Sequence[Block], weights: Sequence[int], point: Sequence[int], value: Linear) -> None:
        self.require_zero(value - _evaluated(self._tables, blocks, weights, point), "opening")

    def settle(self) -> None:
        if self._cursor != len(self._proof):
            raise InvalidProof("the proof goes on after its end")

    def _next(self, name: str) -> Any:
        if self._cursor >= len(self._proof):
            raise InvalidProof(f"the proof ends before message '{name}'")
        self._cursor += 1
        return self._proof[self._cursor - 1]

    def _value(self, expression: Linear) -> int:
        return (expression.constant + sum(c * self._values[slot] for slot, c in expression.terms.items())) % MODULUS


def _evaluated(tables: Tables, blocks: Sequence[Block], weights: Sequence[int], point: Sequence[int]) -> int:
    total = 0
    for block, weight in zip(blocks, weights, strict=True):
        low = mle.eq_table(point[: block.low_variables])
        high = mle.eq_table(point[block.low_variables : block.variables])
        total += weight * field.evaluate_small(contiguous(tables[block.name]), high, low)
    return total % MODULUS


def _encoded(message: Sequence[int]) -> bytes:
    return b"".join(value.to_bytes(32, "little") for value in message)
