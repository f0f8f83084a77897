"""Kinds of messages: what a value of each must look like, and how a cheat may alter it.

A protocol names a message's kind when it sends and when it receives it. A protocol on another group, or with messages of
another form, brings a kind of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Altered = tuple[str, Any]  # what was done to a value, in words, and what became of it


class Kind(ABC):
    """One form of message."""

    commitment = False  # whether `zeroed` is the identity of a group

    @abstractmethod
    def admits(self, value: Any) -> bool:
        """Whether a received value has this form."""

    @abstractmethod
    def altered(self, value: Any) -> SearchStrategy[Altered]:
        """Other values of the form that `value` has, and malformed ones where the form is an encoding."""

    @abstractmethod
    def zeroed(self, value: Any) -> Any:
        """All zeros, or the identity."""

    def resized(self, value: Any) -> list[Altered]:
        """The value with one part more and one part less, where it has parts that can be counted."""
        return []

    @abstractmethod
    def parts(self, value: Any) -> list[bytes]:
        """The value's numbers, elements or bytes, each encoded in a fixed length: what hiding is judged by."""


@dataclass(frozen=True)
class Scalars(Kind):
    """A tuple of integers below `modulus`: coefficients, values, responses. Any number of them without `count`."""

    modulus: int
    count: int | None = None

    def admits(self, value: Any) -> bool:
        if not isinstance(value, tuple) or not all(type(x) is int and 0 <= x < self.modulus for x in value):
            return False
        return self.count is None or len(value) == self.count

    def altered(self, value: Any) -> SearchStrategy[Altered]:
        changes = st.sampled_from(["plus 1", "minus 1", "negated", "zero", "any"])
        return st.tuples(st.integers(0, max(0, len(value) - 1)), changes, st.integers(0, self.modulus - 1)).map(
            lambda drawn: self._changed(value, *drawn)
        )

    def zeroed(self, value: Any) -> Any:
        return (0,) * len(value)

    def resized(self, value: Any) -> list[Altered]:
        longer = [("one more coefficient, 1", (*value, 1)), ("one more coefficient, 0", (*value, 0))]
        return longer + ([("the last coefficient left out", value[:-1])] if value else [])

    def parts(self, value: Any) -> list[bytes]:
        size = (self.modulus.bit_length() + 7) // 8
        return [x.to_bytes(size, "big") for x in value]

    def _changed(self, value: tuple[int, ...], i: int, how: str, any_value: int) -> Altered:
        if not value:
            return "unchanged", value
        old = value[i]
        new = {"plus 1": old + 1, "minus 1": old - 1, "negated": -old, "zero": 0, "any": any_value}[how] % self.modulus
        what = f"set to {new}" if how in ("zero", "any") else how
        return f"number {i} {what}", (*value[:i], new, *value[i + 1 :])


@dataclass(frozen=True)
class Element(Kind):
    """One element of a group in whatever form the protocol has it, compared by `==`; `encode` gives each the same length."""

    identity: Any
    generator: Any
    add: Callable[[Any, Any], Any]
    valid: Callable[[Any], bool]
    encode: Callable[[Any], bytes]
    commitment = True

    def admits(self, value: Any) -> bool:
        return self.valid(value)

    def altered(self, value: Any) -> SearchStrategy[Altered]:
        special = [
            ("the generator added", self.add(value, self.generator)),
            ("doubled", self.add(value, value)),
            ("the generator", self.generator),
            ("the identity", self.identity),
        ]
        shifted = st.integers(2, 1 << 16).map(lambda k: (f"{k} times the generator added", self._plus(value, k)))
        return st.sampled_from(special) | shifted

    def zeroed(self, value: Any) -> Any:
        return self.identity

    def parts(self, value: Any) -> list[bytes]:
        return [self.encode(value)]

    def _plus(self, value: Any, k: int) -> Any:
        """`value` and k times the generator."""
        multiple = self.generator
        while k:
            if k & 1:
                value = self.add(value, multiple)
            multiple, k = self.add(multiple, multiple), k >> 1
        return value


@dataclass(frozen=True)
class Bytes(Kind):
    """A byte string, of any length without `size`."""

    size: int | None = None

    def admits(self, value: Any) -> bool:
        return isinstance(value, bytes) and (self.size is None or len(value) == self.size)

    def altered(self, value: Any) -> SearchStrategy[Altered]:
        if not value:
            return st.just(("one byte appended", b"\0"))
        return st.tuples(st.integers(0, len(value) - 1), st.integers(0, 7)).map(
            lambda at: (f"bit {at[1]} of byte {at[0]} flipped", _flipped(value, *at))
        )

    def zeroed(self, value: Any) -> Any:
        return bytes(len(value))

    def resized(self, value: Any) -> list[Altered]:
        return [("one byte more", value + b"\0"), *([("one byte less", value[:-1])] if value else [])]

    def parts(self, value: Any) -> list[bytes]:
        return [bytes(value)]


@dataclass(frozen=True)
class EncodedScalars(Kind):
    """`count` scalars of 32 bytes each, little-endian, below `modulus`."""

    modulus: int
    count: int

    def admits(self, value: Any) -> bool:
        return isinstance(value, bytes) and len(value) == 32 * self.count

    def altered(self, value: Any) -> SearchStrategy[Altered]:
        def changed(drawn: tuple[int, str]) -> Altered:
            i, how = drawn
            old = int.from_bytes(value[32 * i : 32 * i + 32], "little")
            negated, beyond = -old % self.modulus, old + self.modulus
            new = {"plus 1": old + 1, "zero": 0, "one": 1, "negated": negated, "plus the modulus": beyond}[how]
            data = (new % (1 << 256)).to_bytes(32, "little")
            return f"scalar {i} {how}", value[: 32 * i] + data + value[32 * i + 32 :]

        ways = st.sampled_from(["plus 1", "zero", "one", "negated", "plus the modulus"])
        return st.tuples(st.integers(0, self.count - 1), ways).map(changed)

    def zeroed(self, value: Any) -> Any:
        return bytes(len(value))

    def parts(self, value: Any) -> list[bytes]:
        return [value[i : i + 32][::-1] for i in range(0, len(value), 32)]


@dataclass(frozen=True)
class EncodedPoints(Kind):
    """`count` compressed points of BLS12-381's G1, 48 bytes each. Altered ones need not be valid encodings."""

    count: int
    commitment = True

    def admits(self, value: Any) -> bool:
        return isinstance(value, bytes) and len(value) == 48 * self.count

    def altered(self, value: Any) -> SearchStrategy[Altered]:
        from zkaudit.zk.testing.strategies import encoded_points

        others = st.tuples(st.integers(0, self.count - 1), encoded_points()).map(
            lambda drawn: (
                f"point {drawn[0]} replaced by {drawn[1].what}",
                value[: 48 * drawn[0]] + drawn[1].data + value[48 * drawn[0] + 48 :],
            )
        )
        negated = st.integers(0, self.count - 1).map(lambda i: (f"point {i} negated", _flipped(value, 48 * i, 5)))
        return negated | others

    def zeroed(self, value: Any) -> Any:
        return (b"\xc0" + bytes(47)) * self.count

    def parts(self, value: Any) -> list[bytes]:
        return [value[i : i + 48] for i in range(0, len(value), 48)]


@dataclass(frozen=True)
class Table(Kind):
    """A numpy table of small integers of this shape: what a commitment to a table is on the clear channel."""

    shape: tuple[int, ...]

    def admits(self, value: Any) -> bool:
        return isinstance(value, np.ndarray) and value.shape == self.shape

    def altered(self, value: Any) -> SearchStrategy[Altered]:
        def changed(drawn: tuple[int, int]) -> Altered:
            i, amount = drawn
            out = value.astype(np.int64)
            out.flat[i] += amount
            return f"entry {i} {'plus' if amount > 0 else 'minus'} {abs(amount)}", out

        return st.tuples(st.integers(0, value.size - 1), st.sampled_from([1, -1, 1 << 16])).map(changed)

    def zeroed(self, value: Any) -> Any:
        return np.zeros_like(value)

    def parts(self, value: Any) -> list[bytes]:
        return [int(entry).to_bytes(8, "big", signed=True) for entry in value.flat]


def _flipped(value: bytes, position: int, bit: int) -> bytes:
    return value[:position] + bytes([value[position] ^ (1 << bit)]) + value[position + 1 :]
