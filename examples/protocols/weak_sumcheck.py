"""A sumcheck made non-interactive twice: once well, once with a hash that leaves out the statement (weak Fiat-Shamir, the
mistake of the Frozen Heart advisories).

    pytest --zk-cheats=all examples/protocols/weak_sumcheck.py

Claim: the sum over {0,1}^n of f(x) g(x) is `claim`, for public multilinear f and g given by their tables. `sound` passes every
check; `weak` fails `bound` (a challenge does not depend on f) and `sound[frozen-heart]` (a forged proof of a false claim).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from zkaudit.zk.testing import Attempt, Cheat, Message, Protocol, ProverLine, Scalars, Scene, VerifierLine

P = 2**61 - 1
ROUND = Scalars(P, 3)


@dataclass(frozen=True)
class Sum:
    """The tables of f and g, and the claimed sum of their product."""

    f: tuple[int, ...]
    g: tuple[int, ...]
    claim: int


def folded(table: list[int], r: int) -> list[int]:
    return [(low + r * (high - low)) % P for low, high in zip(table[::2], table[1::2], strict=True)]


def at(table: tuple[int, ...], point: list[int]) -> int:
    values = list(table)
    for r in point:
        values = folded(values, r)
    return values[0]


def polynomial(coefficients: tuple[int, ...], x: int) -> int:
    return sum(c * x**i for i, c in enumerate(coefficients)) % P


def total(f: Sequence[int], g: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(f, g, strict=True)) % P


class Sumcheck(Protocol):
    def __init__(self, absorbs_statement: bool) -> None:
        self.absorbs_statement = absorbs_statement

    def instances(self) -> SearchStrategy[tuple[Sum, None]]:
        def true(tables: tuple[list[int], list[int]]) -> tuple[Sum, None]:
            f, g = map(tuple, tables)
            return Sum(f, g, total(f, g)), None

        numbers = st.integers(0, P - 1)
        sizes = st.sampled_from([2, 4, 8])
        return sizes.flatmap(lambda n: st.tuples(*[st.lists(numbers, min_size=n, max_size=n)] * 2)).map(true)

    def lies(self) -> SearchStrategy[tuple[Sum, None]]:
        return st.tuples(self.instances(), st.integers(1, P - 1)).map(
            lambda drawn: (Sum(drawn[0][0].f, drawn[0][0].g, (drawn[0][0].claim + drawn[1]) % P), None)
        )

    def holds(self, statement: Sum) -> bool:
        return len(statement.f) == len(statement.g) and total(statement.f, statement.g) == statement.claim

    def begin(self, statement: Sum) -> list[bytes]:
        """What has been said so far."""
        return [repr(statement).encode()] if self.absorbs_statement else []

    def challenge(self, said: list[bytes], message: tuple[int, ...], line: ProverLine | VerifierLine) -> int:
        said.append(repr(message).encode())
        return line.challenge("round", P, lambda: int.from_bytes(sha256(b"|".join(said)).digest(), "big") % P)

    def prove(self, statement: Sum, witness: None, line: ProverLine) -> None:
        f, g, said = list(statement.f), list(statement.g), self.begin(statement)
        claim = statement.claim
        while len(f) > 1:
            slopes = ([high - low for low, high in zip(table[::2], table[1::2], strict=True)] for table in (f, g))
            c0, c2 = total(f[::2], g[::2]), total(*slopes)
            message = line.send("round", (c0, (claim - 2 * c0 - c2) % P, c2), ROUND)
            r = self.challenge(said, message, line)
            f, g, claim = folded(f, r), folded(g, r), polynomial(message, r)

    def verify(self, statement: Sum, line: VerifierLine) -> None:
        size = len(statement.f)
        line.require(size == len(statement.g) and size > 0 and size & (size - 1) == 0, "tables of one size, a power of two")
        claim, point, said = statement.claim, list[int](), self.begin(statement)
        for _ in range(size.bit_length() - 1):
            message = line.receive("round", ROUND)
            line.require((polynomial(message, 0) + polynomial(message, 1) - claim) % P == 0, "p(0) + p(1) is the claim")
            point.append(self.challenge(said, message, line))
            claim = polynomial(message, point[-1])
        line.require(at(statement.f, point) * at(statement.g, point) % P == claim % P, "the last claim is f(r) g(r)")
        line.finish()

    def cheats(self) -> list[Cheat]:
        return [Cheat("frozen-heart", "choose f after the challenges", lambda scene: [None], self.forge)]

    def forge(self, draw: DrawFn, scene: Scene, site: Any) -> Attempt | None:
        """Messages for any claim at all; then f is changed in one entry so that it fits where they end."""
        g, f = scene.statement.g, list(scene.statement.f)
        claim = false = draw(st.integers(0, P - 1))
        messages, point, said = list[Message](), list[int](), self.begin(Sum(tuple(f), g, claim))
        for _ in range(len(g).bit_length() - 1):
            c0, c2 = draw(st.integers(0, P - 1)), draw(st.integers(0, P - 1))
            message = (c0, (claim - 2 * c0 - c2) % P, c2)
            messages.append(Message("round", message, ROUND))
            said.append(repr(message).encode())
            point.append(int.from_bytes(sha256(b"|".join(said)).digest(), "big") % P)
            claim = polynomial(message, point[-1])
        weight = 1
        for r in point:
            weight = weight * (1 - r) % P  # of f's entry 0 in f(r)
        if (at_g := at(g, point)) and weight:
            f[0] = (f[0] + (claim * pow(at_g, -1, P) - at(tuple(f), point)) * pow(weight, -1, P)) % P
        forged = Sum(tuple(f), g, false)
        what = f"f chosen last; the sum is {total(f, g)}"
        return None if self.holds(forged) else Attempt(what, forged, tuple(messages))


sound = Sumcheck(absorbs_statement=True)
weak = Sumcheck(absorbs_statement=False)
