"""Hypothesis strategies for what protocols are made of, heavy on edges: numbers, tables, points, transcripts, statements.

Networks and their traces are in segments.py: `segments()`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from zkaudit.zk import curve, field
from zkaudit.zk.curve import Points
from zkaudit.zk.errors import BadInput
from zkaudit.zk.field import MODULUS, Array
from zkaudit.zk.statement import Statement, check, first_start_bound
from zkaudit.zk.transcript import Transcript

BASE = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB
"""The modulus of the curve's base field."""

EDGES = (
    *(0, 1, 2, 3, MODULUS - 1, MODULUS - 2, (MODULUS - 1) // 2, (MODULUS + 1) // 2),
    *(1 << k for k in (8, 15, 16, 31, 32, 52, 63, 64, 104, 128, 192, 254)),
    *((1 << k) - 1 for k in (16, 52, 64, 128, 254)),
)
"""Field elements at which arithmetic goes wrong first: ends, limbs' borders of 52 and 64 bits."""

IDENTITY = b"\xc0" + bytes(47)
SMALL_ORDERS = (3, 11, 10177, 859267, 52437899)
"""Primes that divide the number of points on the curve besides r: 3 once, the others squared."""


def scalars() -> SearchStrategy[int]:
    """Field elements, many of them edges."""
    return st.sampled_from(EDGES) | st.integers(0, MODULUS - 1)


def vectors(min_size: int = 0, max_size: int = 40) -> SearchStrategy[list[int]]:
    """Field elements in lists of any length, odd ones included; some constant, some sparse."""
    any_size = st.integers(min_size, max_size)

    def sparse(size: int, at: int, x: int) -> list[int]:
        return [x if i == at % max(1, size) else 0 for i in range(size)]

    constant = st.builds(lambda size, x: [x] * size, any_size, scalars())
    return st.one_of(
        st.lists(scalars(), min_size=min_size, max_size=max_size),
        constant,
        st.builds(sparse, any_size, st.integers(0, max_size), scalars()),
    )


def tables(min_variables: int = 0, max_variables: int = 5) -> SearchStrategy[list[int]]:
    """Field elements in lists whose length is a power of two."""
    return st.integers(min_variables, max_variables).flatmap(lambda m: vectors(1 << m, 1 << m))


def small_tables(rows: int, columns: int, low: int = 0, high: int = 1 << 16) -> SearchStrategy[np.ndarray]:
    """Integers from `low` to `high` - 1, shape (rows, columns), int64: what is committed to."""
    entry = st.sampled_from([low, low + 1, high - 1]) | st.integers(low, high - 1)
    size = rows * columns
    return st.lists(entry, min_size=size, max_size=size).map(lambda x: np.array(x, np.int64).reshape(rows, columns))


@dataclass(frozen=True)
class Multilinear:
    """A multilinear polynomial by its values on the cube; bit k of an index is variable k."""

    values: tuple[int, ...]

    @property
    def variables(self) -> int:
        return len(self.values).bit_length() - 1

    @property
    def table(self) -> Array:
        return field.from_ints(self.values)

    def at(self, point: Sequence[int]) -> int:
        """The value at a point, by folding in Python integers: an oracle for faster code."""
        values = list(self.values)
        for r in point:
            values = [(low + r * (high - low)) % MODULUS for low, high in zip(values[::2], values[1::2], strict=True)]
        return values[0]


def multilinears(min_variables: int = 0, max_variables: int = 5) -> SearchStrategy[Multilinear]:
    """Multilinear polynomials."""
    return tables(min_variables, max_variables).map(lambda values: Multilinear(tuple(values)))


def points() -> SearchStrategy[Points]:
    """Points of the subgroup, shape (1, 12): the identity and the generator often among them."""
    return scalars().map(lambda x: curve.fixed_base(curve.GENERATOR, field.from_ints([x])))


def points_outside() -> SearchStrategy[Points]:
    """Points on the curve but outside the subgroup, those of small order among them, shape (1, 12)."""
    return st.sampled_from(_outside()).map(lambda data: curve.decompress(data, subgroup=False))


@dataclass(frozen=True)
class Encoding:
    """48 bytes that may be a point: `place` is "subgroup", "curve" for outside it, "nowhere" where decoding must fail."""

    what: str
    data: bytes
    place: str


def encoded_points() -> SearchStrategy[Encoding]:
    """Good and bad encodings of points."""
    good = points().map(lambda point: Encoding("a point", curve.compress(point), "subgroup"))
    outside = st.sampled_from(_outside()).map(lambda data: Encoding("a point outside the subgroup", data, "curve"))
    return st.just(Encoding("the identity", IDENTITY, "subgroup")) | good | outside | st.sampled_from(_malformed())


@dataclass(frozen=True)
class Said:
    """One entry of a transcript: an absorption of data under a label, or a challenge."""

    label: bytes
    data: bytes | None


def transcripts(max_size: int = 6) -> SearchStrategy[list[Said]]:
    """What may be said in a transcript; `play` says it."""
    text = st.binary(max_size=6)
    return st.lists(st.builds(Said, text, st.none() | text), max_size=max_size)


def play(entries: Sequence[Said], domain: bytes = b"test") -> Transcript:
    """A transcript in which this was said."""
    transcript = Transcript(domain)
    for entry in entries:
        if entry.data is None:
            transcript.challenge(entry.label)
        else:
            transcript.absorb(entry.label, entry.data)
    return transcript


@st.composite
def statements(draw: DrawFn, max_width: int = 8, max_layers: int = 3, max_steps: int = 4) -> Statement:
    """Well-formed first statements of small networks, without commitments."""
    layers, f = draw(st.integers(1, max_layers)), draw(st.integers(2, 10))
    g = draw(st.integers(f, 12))
    w = draw(st.integers(max(16, f + g), 40))
    batch = draw(st.integers(1, 5))
    made = Statement(
        widths=tuple(draw(st.integers(1, max_width)) for _ in range(layers + 1)),
        loss=draw(st.sampled_from(["cross_entropy", "square"])),
        batch=batch,
        first_step=0,
        rates=tuple(draw(st.lists(st.integers(1, 16), min_size=1, max_size=max_steps))),
        rows=draw(st.integers(batch, 12)),
        activation_bits=f,
        gradient_bits=g,
        weight_bits=w,
        seed=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
        batch_seed=draw(st.binary(min_size=32, max_size=32)).hex(),
        columns=draw(st.integers(4, 9)),
        segment=0,
        start_bound=1,
        previous="",
    )
    made = replace(made, start_bound=first_start_bound(made))
    check(made)
    return made


def invalid(statement: Statement) -> bool:
    """Whether a statement is refused by itself, before any proof."""
    try:
        check(statement)
    except BadInput:
        return True
    return False


def _encoded(x: int, larger: bool = False) -> bytes:
    return bytes([(x >> 376) | 0x80 | (0x20 if larger else 0)]) + (x % (1 << 376)).to_bytes(47, "big")


def _has_point(x: int) -> bool:
    return pow(x**3 + 4, (BASE - 1) // 2, BASE) in (0, 1)


@cache
def _outside() -> tuple[bytes, ...]:
    """Some points outside the subgroup, and one of each small order."""
    on_curve = (_encoded(x) for x in range(1, 1000) if _has_point(x))
    first = list(islice((data for data in on_curve if not curve.in_subgroup(curve.decompress(data, subgroup=False))[0]), 8))
    cofactor = curve.COFACTOR**2 // 3
    found = first[:4]
    for order in SMALL_ORDERS:
        part = order if order == 3 else order**2
        for data in first:
            point = _times(curve.decompress(data, subgroup=False), MODULUS * (cofactor // part))
            while order != 3 and _times(point, order).any():
                point = _times(point, order)
            if point.any():
                found.append(curve.compress(point))
                break
    return tuple(found)


def _times(point: Points, n: int) -> Points:
    """n times a point of any order: scalars of the field are numbers modulo r, which is not this point's order."""
    total = np.zeros_like(point)
    for bit in bin(n)[2:]:
        total = curve.add(total, total)
        if bit == "1":
            total = curve.add(total, point)
    return total


@cache
def _malformed() -> tuple[Encoding, ...]:
    good = curve.compress(curve.GENERATOR)
    absent = next(x for x in range(1, 1000) if not _has_point(x))
    low = next(x for x in range(1, 1000) if _has_point(x))
    cases = {
        "an x that has no point": _encoded(absent),
        "an x beyond the modulus": _encoded(low + BASE),
        "the modulus as x": _encoded(BASE),
        "a point without the mark of compression": bytes([good[0] & 0x7F]) + good[1:],
        "the identity with a sign": b"\xe0" + bytes(47),
        "the identity with an x": b"\xc0" + bytes(46) + b"\x01",
        "the identity without the mark of compression": b"\x40" + bytes(47),
        "zeros": bytes(48),
        "ones": b"\xff" * 48,
    }
    return tuple(Encoding(what, data, "nowhere") for what, data in cases.items())
