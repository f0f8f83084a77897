"""The simulator of the hiding channel: any protocol's verifier, run with nobody to talk to.

It makes up what the verifier should receive: random points for commitments, uniform scalars for masked values, and, knowing
the challenges, a mask for which the final equation holds. Whatever a protocol proves, this needs no witness; that real proofs
cannot be told from it is what hiding means."""

from __future__ import annotations

import numpy as np

from zkaudit.zk import curve, field, hiding, inner_product, pedersen
from zkaudit.zk.channel import Blinder
from zkaudit.zk.curve import Points
from zkaudit.zk.field import MODULUS
from zkaudit.zk.hiding import POINT_BYTES, SCALAR_BYTES, HidingVerifier
from zkaudit.zk.testing.kinds import EncodedPoints, EncodedScalars
from zkaudit.zk.testing.line import ProverLine


def random_points(count: int) -> bytes:
    """Uniform points of the subgroup, compressed: what commitments look like."""
    return curve.compress(curve.fixed_base(pedersen.blinding(), Blinder().scalars(count)))


class HidingSimulator(HidingVerifier):
    """Says on `line` what it makes up; the line's coins must be programmed."""

    def __init__(self, domain: bytes, columns: int, line: ProverLine) -> None:
        super().__init__(domain, columns, b"")
        self._line, self._blinder = line, Blinder()

    def challenge(self, label: str) -> int:
        return self._line.challenge(label, MODULUS)

    def settle(self) -> None:
        if self._opened is None:
            raise AssertionError("a dialogue settles after its opening")
        opening, opened = self._opened
        t, d = self.challenge("batch requirements"), self.challenge("weigh messages")
        settlement = hiding._settlement(self._requirements, opening, opened, self._spans, t, d)
        a, weights, length = settlement.coefficients, settlement.weights, settlement.length
        scalars = np.concatenate([field.mul(opening.row_weights, weights[-1]), field.from_ints(weights[:-1])])
        total = curve.msm(scalars, np.concatenate([*self._rows, self._decompressed(self._messages)]))
        c, blinding = self.challenge("mask"), self._blinder.scalar()
        z = field.zeros(len(a))
        z[:length] = self._blinder.scalars(length)
        generators = hiding._generators(len(opening.columns), self.slots, len(a))
        bases = np.concatenate([generators, pedersen.blinding(), total])
        self._say(curve.msm(np.concatenate([z, field.from_ints([blinding, -c])]), bases), "mask")
        self._say_scalars([(field.dot(a, z) - c * settlement.value) % MODULUS], "masked value")
        self._say_scalars([blinding], "masked blinding")
        q = curve.mul(pedersen.inner_product(), field.from_ints([self.challenge("bind value")]))

        def send(pair: Points) -> int:
            self._say(pair, "fold")
            return self.challenge("fold")

        self._say_scalars([inner_product.prove(z, a, generators, q, send)], "last")

    def _take(self, size: int, name: str) -> bytes:
        data = random_points(size // POINT_BYTES)
        self._line.send(name, data, EncodedPoints(size // POINT_BYTES))
        return data

    def _take_scalars(self, count: int, name: str) -> list[int]:
        return self._say_scalars(field.to_ints(self._blinder.scalars(count)), name)

    def _say(self, points: Points, name: str) -> None:
        self._line.send(name, curve.compress(points), EncodedPoints(len(points)))

    def _say_scalars(self, values: list[int], name: str) -> list[int]:
        data = b"".join(value.to_bytes(SCALAR_BYTES, "little") for value in values)
        self._line.send(name, data, EncodedScalars(MODULUS, len(values)))
        return values
