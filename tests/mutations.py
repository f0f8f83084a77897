"""Mutations of proof files that know the format: of the header, of single points and scalars, of whole sections."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from fuzz.drafts import Draft, canonical
from py_ecc.optimized_bls12_381 import field_modulus as P

from zkaudit.zk import reference
from zkaudit.zk.proof_file import SECTIONS
from zkaudit.zk.reference import conventions, dialogue

R = conventions.R
IDENTITY = b"\xc0" + bytes(47)
Parts = dict[str, bytes]
Mutation = Callable[["Original", random.Random], bytes]


def split(file: bytes) -> Parts:
    """The sections of a file."""
    draft = Draft.read(file)
    assert draft is not None
    return dict(zip(SECTIONS, draft.sections(), strict=True))


def join(parts: Parts) -> bytes:
    return Draft(**parts).encode()


def derived(parts: Parts, changes: dict[str, object] | None = None) -> bytes:
    """A file with the batch seed that follows from its parts, if it is a first segment's."""
    known = {**json.loads(parts["header"]), **(changes or {})}
    if known["segment"] == 0:
        named = (b"zkaudit batch seed", str(known["seed"]).encode(errors="replace"))
        named += (f"({known['rows']}, {known['batch']})".encode(), parts["data"], parts["start"])
        known["batch_seed"] = sha256(b"".join(len(part).to_bytes(8, "little") + part for part in named)).hexdigest()
    return join({**parts, "header": canonical(known)})


class Traced(dialogue.Dialogue):
    """Notes where every item of the proof lies."""

    items: list[tuple[int, int]]

    def read(self, label: str, size: int) -> bytes:
        self.items.append((self.place, size))
        return super().read(label, size)


@dataclass
class Original:
    """An honest file, its parts, its header, and (offset, size) of the proof's items; `others` are files to take parts from."""

    file: bytes
    others: list[bytes] = field(default_factory=list)
    traced: bool = True
    """Else the proof's items are not known."""

    def __post_init__(self) -> None:
        self.parts = split(self.file)
        self.header = json.loads(self.parts["header"])
        if self.traced:
            self._trace()

    def _trace(self) -> None:
        Traced.items = []
        before, reference.Dialogue = reference.Dialogue, Traced
        try:
            reference.verify_bytes(self.file)
        finally:
            reference.Dialogue = before
        self.points = [(start + i, 48) for start, size in Traced.items if size % 48 == 0 for i in range(0, size, 48)]
        self.scalars = [(start + i, 32) for start, size in Traced.items if size % 48 for i in range(0, size, 32)]
        assert sum(size for _, size in self.points + self.scalars) == len(self.parts["proof"])

    def replaced(self, name: str, section: bytes) -> bytes:
        return join({**self.parts, name: section})

    def with_header(self, derive: bool = False, **changes: object) -> bytes:
        """Other fields, encoded canonically; the batch seed derived from them where that makes sense, if asked to."""
        return self.replaced("header", canonical({**self.header, **changes})) if not derive else derived(self.parts, changes)

    def some(self, rng: random.Random, section: str | None = None, scalar: bool = False) -> tuple[str, int, bytes]:
        """A point or scalar of the file: its section, its offset there, its bytes."""
        section = section or ("proof" if scalar else rng.choice(["proof"] * 5 + ["data", "start", "end"]))
        places = self.scalars if scalar else self.points if section == "proof" else [
            (i, 48) for i in range(0, len(self.parts[section]), 48)
        ]  # fmt: skip
        if section == "proof" and rng.random() < 0.3:  # the last items are few and settle everything
            places = places[-12:]
        start, size = rng.choice(places)
        return section, start, self.parts[section][start : start + size]

    def patched(self, section: str, start: int, value: bytes) -> bytes:
        whole = self.parts[section]
        parts = {**self.parts, section: whole[:start] + value + whole[start + len(value) :]}
        return derived(parts) if section in ("data", "start") else join(parts)


def header_field(o: Original, rng: random.Random) -> bytes:
    key = rng.choice(sorted(o.header))
    value = o.header[key]
    edges = [0, 1, -1, 2, 3, 4, 15, 16, 17, 47, 48, 49, 2**16, 2**16 + 1, 2**20, 2**22, 2**32, 2**40, 2**40 + 1, 2**240]
    others: list[object] = [None, True, False, 1.0, "", "a", [], [1], {}, [[1]], str(value)]
    if type(value) is int:
        choices = [value + 1, value - 1, value * 2, value ^ 1, *rng.sample(edges, 4), 10**5000, rng.choice(others)]
    elif isinstance(value, list):
        i = rng.randrange(len(value))
        entries: list[object] = [value[i] + 1, value[i] - 1, 0, 2**48, 2**48 + 1, True, 1.0]
        nearby = [[*value[:i], entry, *value[i + 1 :]] for entry in entries]
        choices = [value[::-1], [*value, 1], value[:-1], value[1:], [], value * 70, *nearby, rng.choice(others)]
    else:
        strings = [
            value + "a", value[:-1], value.upper(), "\u00e9", "\ud800", "\U0001f600", "x" * 1024, "x" * 1025, "\0", "/\x7f",
            "5a" * 32, "5A" * 32, "5a" * 31 + "5\n", "\u0665" * 64, "square", "cross_entropy",
        ]  # fmt: skip
        choices = [*strings, rng.choice(others)]
    try:
        return o.with_header(rng.random() < 0.7, **{key: rng.choice(choices)})
    except ValueError:  # more digits than Python writes
        return o.replaced("header", o.parts["header"].replace(b'"rows":', b'"rows":1' + b"0" * 5000))


def header_spelling(o: Original, rng: random.Random) -> bytes:
    """Other bytes for (nearly) the same fields."""
    text = o.parts["header"].decode()
    number = rng.choice(["batch", "rows", "columns", "segment", "version", "first_step", "start_bound"])
    old = f'"{number}":{o.header[number]}'
    value = o.header[number]
    numbers = [
        f"{value}.0", f"{value}e0", f"{value}E+0", f"0{value}", f"+{value}", f"-{value}", "-0", f'"{value}"', f"[{value}]",
        "true", "null", f" {value}", f"{value} ", "NaN", "Infinity", "-Infinity", "1e3", "1e400", "0x10", "1_0", "\u0661", "",
        f"{value}" + "0" * 4400, "9" * 5000, "[" * 100_000 + "]" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000,
    ]  # fmt: skip
    escapes = ["\\u0041", "\\/", "\\u00E9", "\\u00e9", "\\t", "\\ud800", "\\ud83d\\ude00", "\\ud83d"]
    letters = [*escapes, "\u00e9", "\t", "\x7f"]
    pairs = [
        ("{", f'{{"batch":{o.header["batch"]},'), ("}", ',"version":1}'), ("}", ',"extra":0}'),
        ("}", ',"\\ud800":0}'), (old + ",", ""), (",", ", "), (":", ": "), ('"batch"', '"b\\u0061tch"'), ("[", "[,"),
        ("]", ",]"), ("{", "{/**/"), ("{", "\ufeff{"),
        ("{", " {"), ("}", "}\n"), ("}", "}{}"), ("{", ""), ("}", ""), ("{", "[{"),
    ]  # fmt: skip
    texts = [
        *(text.replace(old, f'"{number}":{new}') for new in numbers), *(text.replace(*pair, 1) for pair in pairs),
        *(text.replace('"seed":"', '"seed":"' + new) for new in letters),
        text.replace('"', "'"), "", "null", "[]", "{}", "1", '""', f"[{text}]", "[" * 200_000, json.dumps(o.header),
        json.dumps(dict(sorted(o.header.items(), reverse=True)), separators=(",", ":")),
    ]  # fmt: skip
    encoding = rng.choice(["utf-8"] * 12 + ["utf-16", "utf-32", "latin-1"])
    return o.replaced("header", rng.choice(texts).encode(encoding, errors="replace"))


def negated(point: bytes) -> bytes:
    return point if point == IDENTITY else bytes([point[0] ^ 0x20]) + point[1:]


def plus_small_order(point: bytes, rng: random.Random) -> bytes:
    """The point plus one of order 3, whose x is 0."""
    small = (0, rng.choice([2, P - 2]))
    [total] = conventions.add_pairs([(conventions.decode(point)[0], small)])
    return compressed(total)


def compressed(point: conventions.Point) -> bytes:
    if point is None:
        return IDENTITY
    flags = 0xA0 if point[1] > P - point[1] else 0x80
    data = point[0].to_bytes(48, "big")
    return bytes([data[0] | flags]) + data[1:]


def another_point(o: Original, rng: random.Random) -> bytes:
    """A point where another belongs: every one of these can be decoded."""
    section, start, old = o.some(rng)
    x = rng.randrange(P)
    while pow(x**3 + 4, (P - 1) // 2, P) != 1:
        x += 1
    outside = compressed((x, pow(x**3 + 4, (P + 1) // 4, P)))
    new = rng.choice([
        IDENTITY, negated(old), o.some(rng)[2], outside, negated(outside), plus_small_order(old, rng), b"\x80" + bytes(47),
        b"\xa0" + bytes(47), *(compressed(conventions.generator(family, 0)) for family in ("slots", "columns", "single")),
    ])  # fmt: skip
    return o.patched(section, start, new)


def no_point(o: Original, rng: random.Random) -> bytes:
    """Bytes where a point belongs, most of which stand for none."""
    section, start, old = o.some(rng)
    x = int.from_bytes(old, "big") % 2**381
    shifted = [x + k * P for k in (1, 2) if x + k * P < 2**381] or [P + rng.randrange(2**381 - P)]
    flags = rng.randrange(8)
    new = rng.choice([
        bytes([old[0] & 0x1F | flags << 5]) + old[1:], bytes([old[0] ^ 0x80]) + old[1:], bytes(48), b"\xff" * 48,
        b"\xe0" + bytes(47), b"\x40" + bytes(47), b"\xc0" + bytes(46) + b"\1", b"\xd0" + bytes(47),
        (shifted[0] | 4 << 381).to_bytes(48, "big"), (P | 4 << 381).to_bytes(48, "big"), (P - 1 | 4 << 381).to_bytes(48, "big"),
        (x + 1 | 4 << 381).to_bytes(48, "big"),
        rng.randbytes(48), bytes([rng.randbytes(1)[0] | 0x80]) + rng.randbytes(47), old[::-1],
    ])  # fmt: skip
    return o.patched(section, start, new)


def scalar(o: Original, rng: random.Random) -> bytes:
    section, start, old = o.some(rng, scalar=True)
    value = int.from_bytes(old, "little")
    choices = [
        value + 1,
        value - 1,
        -value,
        0,
        1,
        R - 1,
        rng.randrange(R),
        int.from_bytes(o.some(rng, scalar=True)[2], "little"),
    ]
    return o.patched(section, start, (rng.choice(choices) % R).to_bytes(32, "little"))


def no_scalar(o: Original, rng: random.Random) -> bytes:
    section, start, old = o.some(rng, scalar=True)
    value = int.from_bytes(old, "little")
    choices = [value + R, R, R + 1, 2**256 - 1, 2 * R - 1, rng.randrange(R, 2**256)]
    return o.patched(section, start, (rng.choice(choices) % 2**256).to_bytes(32, "little"))


def flipped(o: Original, rng: random.Random) -> bytes:
    """Bits anywhere."""
    file = bytearray(o.file)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        file[rng.randrange(len(file))] ^= 1 << rng.randrange(8)
    return bytes(file)


def flipped_in_statement(o: Original, rng: random.Random) -> bytes:
    file = bytearray(o.file)
    file[rng.randrange(len(file) - len(o.parts["proof"]))] ^= rng.randrange(1, 256)
    return bytes(file)


def moved(o: Original, rng: random.Random) -> bytes:
    """Items swapped, left out, said twice; whole sections swapped or taken from another file."""
    kind = rng.randrange(6)
    if kind < 3:
        section, first, a = o.some(rng, "proof", scalar=kind == 0)
        _, second, b = o.some(rng, "proof", scalar=kind == 0)
        whole = o.parts[section]
        if kind < 2:
            file = bytearray(whole)
            file[first : first + len(a)], file[second : second + len(b)] = b, a
            return o.replaced(section, bytes(file))
        return o.replaced(section, whole[:first] + whole[first + 48 * rng.randrange(2) :] + rng.choice([b"", a, bytes(48)]))
    one, two = rng.sample(SECTIONS, 2)
    if kind == 3 or not o.others:
        return join({**o.parts, one: o.parts[two], two: o.parts[one]})
    return o.replaced(one, split(rng.choice(o.others))[one])


def resized(o: Original, rng: random.Random) -> bytes:
    """Cut, extended, with other lengths, with another beginning."""
    size = rng.choice([1, 31, 32, 47, 48, 96, rng.randrange(1, len(o.file))])
    section = rng.choice(SECTIONS)
    place = 12
    for name in SECTIONS[: SECTIONS.index(section)]:
        place += 8 + len(o.parts[name])
    length = rng.choice([0, 1, len(o.parts[section]) + 1, len(o.parts[section]) - 1, 2**63, 2**64 - 1, len(o.file), 2**30])
    noise = rng.randbytes(size % 500)
    return rng.choice([
        o.file[:-size], o.file + bytes(size), o.file + o.file, o.replaced(section, o.parts[section] + bytes(size)),
        o.replaced(section, o.parts[section][:-size]), o.replaced(section, o.parts[section][size:]), o.replaced(section, b""),
        o.file[:place] + length.to_bytes(8, "little") + o.file[place + 8 :], o.replaced("proof", o.parts["proof"] + IDENTITY),
        o.file[size:], b"", b"ZKAUDIT\0\2\0\0\0" + o.file[12:], b"zkaudit\0" + o.file[8:], b"\0" + o.file, noise,
    ])  # fmt: skip


def unchanged(o: Original, rng: random.Random) -> bytes:
    return o.file


MUTATIONS: dict[Mutation, int] = {
    header_field: 6, header_spelling: 6, another_point: 6, no_point: 4, scalar: 4, no_scalar: 2, flipped: 4,
    flipped_in_statement: 3, moved: 5, resized: 4, unchanged: 1,
}  # fmt: skip
"""And how often each is drawn."""
