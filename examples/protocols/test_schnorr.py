"""Schnorr's proof of knowledge of a discrete logarithm on secp256k1, with py_ecc: a protocol that is not ours, put to the test.

    pytest --zk-cheats=all examples/protocols/test_schnorr.py

Claim: I know x with y = x G. The prover sends r = k G, gets e = hash(y, r) and sends s = k + e x; the verifier checks that
s G = r + e y.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from py_ecc.secp256k1 import secp256k1

from zkaudit.zk.testing import Element, Protocol, ProverLine, Scalars, VerifierLine

G, ORDER = secp256k1.G, secp256k1.N
Point = tuple[int, int]


def times(point: Point, scalar: int) -> Point:
    return secp256k1.multiply(point, scalar % ORDER) if scalar % ORDER and point != (0, 0) else (0, 0)


def on_curve(point: Any) -> bool:
    x, y = point
    return point == (0, 0) or (y * y - x**3 - 7) % secp256k1.P == 0


def encoded(point: Point) -> bytes:
    return b"".join(coordinate.to_bytes(32, "big") for coordinate in point)


POINT = Element(identity=(0, 0), generator=G, add=secp256k1.add, valid=on_curve, encode=encoded)
SCALAR = Scalars(ORDER, 1)


@dataclass(frozen=True)
class PublicKey:
    """y, in affine coordinates."""

    x: int
    y: int


class Schnorr(Protocol):
    challenge_bits = 256

    def instances(self) -> SearchStrategy[tuple[PublicKey, int]]:
        return st.integers(1, ORDER - 1).map(lambda x: (PublicKey(*times(G, x)), x))

    def lies(self) -> SearchStrategy[tuple[PublicKey, int]]:
        """The key of one number, and another number as its witness."""
        return st.integers(1, ORDER - 2).map(lambda x: (PublicKey(*times(G, x)), x + 1))

    def challenge(self, key: PublicKey, commitment: Point, line: ProverLine | VerifierLine) -> int:
        def derive() -> int:
            said = sha256(encoded((key.x % secp256k1.P, key.y % secp256k1.P)) + encoded(commitment)).digest()
            return int.from_bytes(said, "big") % 2**self.challenge_bits

        return line.challenge("e", 2**self.challenge_bits, derive)

    def prove(self, key: PublicKey, x: int, line: ProverLine) -> None:
        k = secrets.randbelow(ORDER)
        commitment = line.send("commitment", times(G, k), POINT)
        e = self.challenge(key, commitment, line)
        line.send("response", ((k + e * x) % ORDER,), SCALAR)

    def verify(self, key: PublicKey, line: VerifierLine) -> None:
        commitment = line.receive("commitment", POINT)
        e = self.challenge(key, commitment, line)
        (s,) = line.receive("response", SCALAR)
        line.require(times(G, s) == secp256k1.add(commitment, times((key.x, key.y), e)), "s G = r + e y")
        line.finish()

    def simulate(self, key: PublicKey, line: ProverLine) -> None:
        """Response first, then the commitment that fits the challenge known beforehand."""
        s, e = secrets.randbelow(ORDER), line.foresee(0, 2**self.challenge_bits)
        line.send("commitment", secp256k1.add(times(G, s), times((key.x, key.y), ORDER - e % ORDER)), POINT)
        self.challenge(key, (0, 0), line)
        line.send("response", (s,), SCALAR)


schnorr = Schnorr()
