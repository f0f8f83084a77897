"""What attacks are tried against: transcripts that leave something out, and a prover that comes back to what it has sent.

A test plays an attack twice: in a `weakened` world, where it must succeed, and in ours, where it must not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from zkaudit.zk import channel, curve, field, pedersen
from zkaudit.zk.block import Block
from zkaudit.zk.channel import Blinder
from zkaudit.zk.curve import Points
from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.hiding import HidingProver, HidingVerifier
from zkaudit.zk.linear import Linear
from zkaudit.zk.transcript import Transcript

DOMAIN = b"attack"
TABLE = Block("t", 1, 16)
ENTRIES = {"t": np.arange(3, 19, dtype=np.int32).reshape(1, 16)}


class Weak(Transcript):
    """Does not hear entries under some labels; some challenges are known from the start, others are drawn only once."""

    def __init__(self, domain: bytes, unheard: Collection[str], known: Mapping[str, int], reused: Collection[str]) -> None:
        super().__init__(domain)
        self._unheard, self._reused = unheard, reused
        self._known = dict(known)

    def absorb(self, label: bytes, data: bytes) -> None:
        if label.decode() not in self._unheard:
            super().absorb(label, data)

    def challenge(self, label: bytes) -> int:
        name = label.decode()
        if name not in self._known:
            drawn = super().challenge(label)
            if name not in self._reused:
                return drawn
            self._known[name] = drawn
        return self._known[name]


@contextmanager
def weakened(
    unheard: Collection[str] = (), known: Mapping[str, int] | None = None, reused: Collection[str] = ()
) -> Iterator[None]:
    """A world in which every channel has such a transcript."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channel, "Transcript", partial(Weak, unheard=unheard, known=known or {}, reused=reused))
        yield


def is_accepted(verify: Callable[[], object]) -> bool:
    """Whether `verify` ends without InvalidProof."""
    try:
        verify()
    except InvalidProof:
        return False
    return True


class Returning(HidingProver):
    """Keeps the place of everything that it writes and every challenge, and can write something else there later."""

    def __init__(self, domain: bytes = DOMAIN, columns: int = 4, blinder: Blinder | None = None, check: bool = False) -> None:
        super().__init__(domain, columns, blinder or Blinder(), check)
        self.places: dict[str, int] = {}  # of the last item of a name
        self.drawn: dict[str, int] = {}  # the last challenge of a label
        self.messages: dict[str, int] = {}

    def challenge(self, label: str) -> int:
        self.drawn[label] = super().challenge(label)
        return self.drawn[label]

    def foreseen(self, *labels: str) -> int:
        """The last of the challenges that would come if they were drawn next."""
        ahead = copy.deepcopy(self.transcript)
        return [ahead.challenge(label.encode()) for label in labels][-1]

    def send(self, values: Sequence[int], name: str) -> list[Linear]:
        self.messages[name] = len(self._spans)
        return super().send(values, name)

    def send_again(self, values: Sequence[int], name: str) -> None:
        """Put other values in place of the last message of that name."""
        message = self.messages[name]
        span = self._spans[message]
        point = pedersen.message(span.start, field.from_ints([*values, self._blindings[message]]))
        self.overwrite(name, curve.compress(point))
        self.values[span.start : span.stop] = [value % field.MODULUS for value in values]

    def overwrite(self, name: str, data: bytes) -> None:
        """Put `data` where the last item of that name begins."""
        place = self.places[name]
        self.proof[place : place + len(data)] = data

    def point_of(self, name: str) -> Points:
        """The first point of the last item of that name."""
        place = self.places[name]
        return curve.decompress(bytes(self.proof[place : place + 48]))

    def scalars_of(self, name: str, count: int) -> list[int]:
        """The scalars of the last item of that name."""
        place = self.places[name]
        return [int.from_bytes(self.proof[at : at + 32], "little") for at in range(place, place + 32 * count, 32)]

    def overwrite_scalars(self, name: str, scalars: Sequence[int]) -> None:
        """Put other scalars in place of the last item of that name."""
        self.overwrite(name, b"".join((x % field.MODULUS).to_bytes(32, "little") for x in scalars))

    def shortfall(self) -> int:
        """What the requirements amount to together, once the dialogue is over; zero for an honest prover."""
        t = self.drawn["batch requirements"] if "batch requirements" in self.drawn else self.foreseen("batch requirements")
        values = [self.value(expression) for expression in self._requirements]
        return sum(pow(t, i, field.MODULUS) * value for i, value in enumerate(values)) % field.MODULUS

    def _write_points(self, points: Points, name: str) -> None:
        self.places[name] = len(self.proof)
        super()._write_points(points, name)

    def _write_scalars(self, scalars: Sequence[int], name: str) -> None:
        self.places[name] = len(self.proof)
        super()._write_scalars(scalars, name)


def verifier_of(prover: HidingProver, domain: bytes = DOMAIN) -> HidingVerifier:
    """The verifier of what it wrote."""
    return HidingVerifier(domain, prover.columns, bytes(prover.proof))


def inverse(x: int) -> int:
    """1 / x modulo r."""
    return pow(x, -1, field.MODULUS)
