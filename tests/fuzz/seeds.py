"""What mutations begin with: tiny honest proofs, and for any statement a proof that is wrong in nothing but its contents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from method_proofs import hidden_method_proof
from method_segments import data_of, fp8_of, galore_of, lora_of, stored_of

from zkaudit.zk import argument, curve
from zkaudit.zk.channel import Blinder
from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.field import MODULUS
from zkaudit.zk.hiding import POINT_BYTES, SCALAR_BYTES, HidingVerifier
from zkaudit.zk.layout import Layout
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.samplers import Buckets, ViewBatch
from zkaudit.zk.statement import Statement, derive_batch_seed
from zkaudit.zk.testing.segments import example, hidden_proof, statement_of

BASE_MODULUS = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB


@dataclass(frozen=True)
class Item:
    """A point or a scalar of a proof, and where it begins."""

    size: int
    begin: int


@dataclass(frozen=True)
class Seed:
    """A file, with the items of its proof in order."""

    file: ProofFile
    items: tuple[Item, ...]


@cache
def honest() -> tuple[Seed, ...]:
    """Proofs that hold; the first two are of one statement but for the commitments. The same in every process.

    Then all that a header may have beside plain SGD: samplers, records, and each method.
    """
    smallest = statement_of(widths=(1, 1), loss="square", batch=1, steps=1, rows=1, columns=8)
    hidden = statement_of(widths=(2, 3, 2), loss="cross_entropy", batch=2, steps=2, rows=5, columns=8)
    three = statement_of(widths=(3, 2, 2, 1), loss="square", batch=1, steps=3, rows=4, columns=10)
    files = [
        hidden_proof(example(statement), statement, Blinder(f"fuzz {i}".encode()))
        for i, statement in enumerate((smallest, smallest, hidden, three))
    ]
    small = statement_of(widths=(2, 3, 2), batch=2, steps=2, rate=40, rows=5, columns=8)
    sampled = [
        replace(small, sampler=ViewBatch(2), records="ab" * 32),
        replace(small, sampler=Buckets((1, 1, 2, 3, 9), ())),
    ]
    files += [hidden_proof(example(s), s, Blinder(f"fuzz {s.sampler}".encode())) for s in sampled]
    of_methods = [
        galore_of(small, gap=1, energy=1),
        galore_of(replace(small, rates=(1, 2)), optimizer="sgd", basis="random"),
        fp8_of(stored_of(small)),
        fp8_of(lora_of(small, (1, 2)), "e5m2"),
    ]
    files += [hidden_method_proof(s, data_of(s), Blinder(f"fuzz method {i}".encode())) for i, s in enumerate(of_methods)]
    return tuple(Seed(file, filled(file.statement, lambda: IDENTITY, lambda: 0).items) for file in files)


class _Monologue(HidingVerifier):
    """A verifier that is told nothing and makes up what it reads: any statement's dialogue, to its end."""

    def __init__(self, columns: int, point: Callable[[], bytes], scalar: Callable[[], int]) -> None:
        super().__init__(argument.DOMAIN, columns, b"")
        self.read = bytearray()
        self.items: list[Item] = []
        self._point, self._scalar = point, scalar

    def _take(self, size: int, name: str) -> bytes:
        return self._made_up(POINT_BYTES, [self._point() for _ in range(size // POINT_BYTES)], name)

    def _take_scalars(self, count: int, name: str) -> list[int]:
        scalars = [self._scalar() for _ in range(count)]
        self._made_up(SCALAR_BYTES, [x.to_bytes(SCALAR_BYTES, "little") for x in scalars], name)
        return scalars

    def _made_up(self, size: int, parts: list[bytes], name: str) -> bytes:
        self.items += [Item(size, len(self.read) + size * i) for i in range(len(parts))]
        data = b"".join(parts)
        self.read += data
        self.transcript.absorb(name.encode(), data)
        return data


def filled(statement: Statement, point: Callable[[], bytes], scalar: Callable[[], int]) -> Seed:
    """The statement, its commitments resized to fit, with a proof of the length that it asks for."""
    data, start, end, _ = argument.committed_bytes(statement, Layout(statement))
    sized = {
        name: fitted(getattr(statement, name), size, point) for name, size in (("data", data), ("start", start), ("end", end))
    }
    statement = replace(statement, **sized)
    if statement.segment == 0:
        statement = replace(statement, batch_seed=derive_batch_seed(statement))
    monologue = _Monologue(statement.columns, point, scalar)
    try:
        argument.verify(statement, monologue)
    except InvalidProof:
        return Seed(ProofFile(statement, bytes(monologue.read)), tuple(monologue.items))
    raise AssertionError("what is made up does not hold")


def fitted(commitment: bytes, size: int, point: Callable[[], bytes]) -> bytes:
    """A commitment cut, or continued with points, to `size` bytes."""
    missing = max(0, size - len(commitment)) // POINT_BYTES
    return commitment[:size] + b"".join(point() for _ in range(missing))


IDENTITY = b"\xc0" + bytes(POINT_BYTES - 1)


@cache
def good_points() -> tuple[bytes, ...]:
    """Points that are decoded: the identity, one of order 3, some in the subgroup, some outside of it."""
    inside = curve.compress(curve.generators(b"zkaudit fuzz", 4))
    found = [
        IDENTITY,
        b"\x80" + bytes(POINT_BYTES - 1),
        *(inside[i : i + POINT_BYTES] for i in range(0, len(inside), POINT_BYTES)),
    ]
    rng = Random(1)
    while len(found) < 10:
        candidate = _compressed(rng.randrange(BASE_MODULUS), 0x80)
        if _decodes(candidate):
            found.append(candidate)
    return tuple(found)


@cache
def bad_points() -> tuple[bytes, ...]:
    """Bytes that are no point: flags that contradict each other, x too large, x on no point of the curve."""
    rng = Random(2)
    off = next(x for x in iter(lambda: _compressed(rng.randrange(BASE_MODULUS), 0x80), b"") if not _decodes(x))
    flags = [bytes(POINT_BYTES), b"\x40" + bytes(47), b"\xe0" + bytes(47), b"\xc0" + bytes(46) + b"\x01", b"\xff" * POINT_BYTES]
    return (off, *flags, _compressed(BASE_MODULUS, 0x80), _compressed(BASE_MODULUS + 4, 0xA0))


SCALARS = (0, 1, MODULUS - 1, MODULUS, MODULUS + 1, (1 << 256) - 1)


def _compressed(x: int, flags: int) -> bytes:
    data = bytearray(x.to_bytes(POINT_BYTES, "big"))
    data[0] |= flags
    return bytes(data)


def _decodes(data: bytes) -> bool:
    try:
        curve.decompress(data, subgroup=False)
    except ValueError:
        return False
    return True
