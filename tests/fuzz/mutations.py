"""How inputs go wrong. Each mutation breaks one kind of rule and keeps the others, so that inputs reach every check.

A mutation takes a draft of a seed and gives the file's bytes. They are drawn by SHARES: most inputs end in the parser, which
costs microseconds; those that reach the final equation cost a thousand times as much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from fuzz import seeds
from fuzz.drafts import Draft, canonical
from fuzz.method_shapes import OBJECTS
from fuzz.seeds import Item
from fuzz.shapes import ANYTHING, edge, enlarged, fitting, is_within, points, resized, seeded, stated_work, statement_in
from zkaudit.zk.field import MODULUS
from zkaudit.zk.hiding import POINT_BYTES, SCALAR_BYTES

Mutation = Callable[[Random, Draft], bytes]


def mutated(rng: Random, draft: Draft) -> bytes:
    """The draft's file after one mutation, seldom more."""
    mutation = rng.choices(list(SHARES), list(SHARES.values()))[0]
    data = mutation(rng, draft)
    while rng.random() < 0.1:
        data = _edited(rng, data, 0, 900)
    return data


def begun(rng: Random) -> Draft:
    """A draft of an honest seed, the smallest most often."""
    found = seeds.honest()
    return Draft.of(rng.choices(found, (6, 2, *(1,) * (len(found) - 2)))[0])


def head_bytes(rng: Random, draft: Draft) -> bytes:
    """Bytes before the commitments change, come or go."""
    data = draft.encode()
    for _ in range(rng.choice((1, 1, 2, 8))):
        data = _edited(rng, data, 0, 28 + len(draft.header))
    return data


def any_bytes(rng: Random, draft: Draft) -> bytes:
    """Bytes anywhere change, come or go."""
    data = draft.encode()
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data = _edited(rng, data, 0, len(data))
    return data


def lengths(rng: Random, draft: Draft) -> bytes:
    """A section's length says something else, or the file ends elsewhere."""
    sections = draft.sections()
    at = 12 + sum(8 + len(section) for section in sections[: rng.randrange(5)])
    data, size = bytearray(draft.encode()), len(draft.encode())
    if rng.random() < 0.3:
        return bytes(data[: rng.choice((at, at + 7, at + 8, rng.randrange(size)))]) + rng.randbytes(rng.choice((0, 1, 9)))
    stated = int.from_bytes(data[at : at + 8], "little")
    edges = (0, 1, 47, 48, size, size - at - 8, 1 << 30, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
    data[at : at + 8] = rng.choice((*edges, stated + 1, max(0, stated - 1), stated + 48)).to_bytes(8, "little")
    return bytes(data)


def header_text(rng: Random, draft: Draft) -> bytes:
    """A token of the header becomes another, often one that JSON knows and the format does not."""
    text = draft.header
    for _ in range(rng.choice((1, 1, 2))):
        tokens = [i for i, c in enumerate(text) if c in b',:{}[]"'] or [0]
        begin = rng.choice(tokens)
        end = rng.choice([i for i in tokens if i > begin][:3] or [len(text)])
        text = text[: begin + rng.randrange(2)] + rng.choice(_TOKENS) + text[end:]
    return replace(draft, header=text).encode()


def long_header(rng: Random, draft: Draft) -> bytes:
    """A header that is long in one field, within the budget's bytes."""
    fields = draft.fields() or {}
    size = rng.randrange(1 << 17, 1 << 19)
    name = rng.choice(("rates", "rates", "widths", "seed", "loss", "batch", "more"))
    text = canonical({**fields, name: "here"})
    token = rng.choice(
        (b"1" * 4000, b'"' + b"x" * size + b'"', _listed(b"1", size), _listed(b"[]", size), _listed(b'{"a":0.5}', size))
    )
    return replace(draft, header=text.replace(b'"here"', token if name != "rates" else _listed(b"1", size), 1)).encode()


def header_fields(rng: Random, draft: Draft) -> bytes:
    """Fields take edge values, other types, or go, in canonical form; the commitments stay."""
    fields = draft.fields()
    if fields is None:
        return head_bytes(rng, draft)
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice((*fields, *(name for name in fields if name in OBJECTS), "more", "records", rng.choice(OBJECTS)))
        if rng.random() < 0.1:
            fields.pop(name, None)
        else:
            fields[name] = rng.choice(ANYTHING) if rng.random() < 0.2 else edge(rng, name, fields.get(name))
    return replace(draft, header=canonical(fields)).encode()


def other_shapes(rng: Random, draft: Draft) -> bytes:
    """A statement that holds together, its commitments and seed right for it; the proof is another statement's."""
    statement = fitting(rng, draft)
    if statement is None:
        return header_fields(rng, draft)
    sized = resized(rng, statement)
    proof = rng.choice((draft.proof, draft.proof + rng.randbytes(480), b"", points(rng, 40)))
    return Draft(*(data for _, data in sized.sections()), proof).encode()


def made_up(rng: Random, draft: Draft) -> bytes:
    """The same with a proof of the right length: every check but the last is passed, unless a point or scalar is none."""
    statement = fitting(rng, draft)
    if statement is None:
        return proof_items(rng, draft)
    good = seeds.good_points()
    seed = seeds.filled(statement, lambda: rng.choice(good), lambda: rng.choice((0, 1, MODULUS - 1, rng.randrange(MODULUS))))
    draft = Draft.of(seed)
    return proof_items(rng, draft) if rng.random() < 0.3 else draft.encode()


def commitments(rng: Random, draft: Draft) -> bytes:
    """Rows of the statement's commitments become other points, or none; the batch seed follows."""
    name = rng.choice(("data", "start", "end"))
    rows = bytearray(getattr(draft, name))
    for _ in range(rng.choice((1, 1, 3))):
        at = POINT_BYTES * rng.randrange(max(1, len(rows) // POINT_BYTES))
        rows[at : at + POINT_BYTES] = _point(rng, bytes(rows[at : at + POINT_BYTES]))
    draft = replace(draft, **{name: bytes(rows)})
    statement = statement_in(draft)
    return draft.encode() if statement is None else replace(draft, header=seeded(statement).header()).encode()


def proof_items(rng: Random, draft: Draft) -> bytes:
    """Points and scalars of the proof become others, or none."""
    proof = bytearray(draft.proof)
    items = draft.items or [Item(POINT_BYTES, i) for i in range(0, len(proof) - POINT_BYTES + 1, POINT_BYTES)]
    for _ in range(rng.choice((1, 1, 2, 9)) if items else 0):
        item = rng.choice(items)
        span = slice(item.begin, item.begin + item.size)
        if item.size == SCALAR_BYTES:
            proof[span] = rng.choice((*seeds.SCALARS, rng.randrange(MODULUS))).to_bytes(SCALAR_BYTES, "little")
        else:
            proof[span] = _point(rng, bytes(proof[span]))
    return replace(draft, proof=bytes(proof)).encode()


def bad_scalars(rng: Random, draft: Draft) -> bytes:
    """A scalar of the proof is not reduced."""
    scalars = [item for item in draft.items if item.size == SCALAR_BYTES]
    if not scalars:
        return proof_items(rng, draft)
    begin = rng.choice(scalars).begin
    worse = rng.choice([x for x in seeds.SCALARS if x >= MODULUS]).to_bytes(SCALAR_BYTES, "little")
    return replace(draft, proof=draft.proof[:begin] + worse + draft.proof[begin + SCALAR_BYTES :]).encode()


def bad_rows(rng: Random, draft: Draft) -> bytes:
    """A row of the witness's commitment is no point."""
    first, bad = draft.items[: rng.choice((1, 4, 64))], rng.choice(seeds.bad_points())
    begin = rng.choice(first).begin if first else 0
    return replace(draft, proof=draft.proof[:begin] + bad + draft.proof[begin + POINT_BYTES :]).encode()


def cut_or_extended(rng: Random, draft: Draft) -> bytes:
    """The proof ends at another place: after an item, inside one, or later than it should."""
    places = [item.begin for item in draft.items] or [len(draft.proof) // 2]
    cut = draft.proof[: rng.choice(places) + rng.choice((0, 0, 1, -1))]
    more = draft.proof + rng.choice((b"\0", bytes(SCALAR_BYTES), points(rng, 1), draft.proof))
    return replace(draft, proof=cut if rng.random() < 0.9 else more).encode()


def spliced(rng: Random, draft: Draft) -> bytes:
    """Sections of another honest file, or the rest of its proof."""
    other = begun(rng)
    if rng.random() < 0.5:
        at = rng.randrange(max(1, min(len(draft.proof), len(other.proof))))
        return replace(draft, proof=draft.proof[:at] + other.proof[at:]).encode()
    names = rng.sample(("header", "data", "start", "end", "proof"), rng.randrange(1, 5))
    return replace(draft, **{name: getattr(other, name) for name in names}).encode()


def at_the_edge(rng: Random, draft: Draft) -> bytes:
    """As much as the budget allows, in some of its shapes, with a proof of the right length."""
    statement = statement_in(draft)
    if statement is None:
        return any_bytes(rng, draft)
    for power in range(20, 8, -1):
        larger = enlarged(rng, statement, power)
        if is_within(larger) and stated_work(larger) > stated_work(statement):
            statement = larger
    return Draft.of(seeds.filled(statement, lambda: seeds.IDENTITY, lambda: 1)).encode()


def untouched(rng: Random, draft: Draft) -> bytes:
    """Nothing: an honest file is accepted among all the others."""
    return draft.encode()


SHARES: dict[Mutation, float] = {
    head_bytes: 36,
    lengths: 14,
    header_text: 20,
    header_fields: 20,
    other_shapes: 3,
    commitments: 1.5,
    bad_rows: 2,
    cut_or_extended: 1,
    bad_scalars: 0.6,
    any_bytes: 0.6,
    proof_items: 0.6,
    spliced: 0.3,
    made_up: 0.2,
    long_header: 0.1,
    at_the_edge: 0.04,
    untouched: 0.01,
}


def _listed(item: bytes, size: int) -> bytes:
    """A JSON array of about `size` bytes."""
    return b"[" + b",".join([item] * (size // (len(item) + 1))) + b"]"


def _edited(rng: Random, data: bytes, begin: int, end: int) -> bytes:
    """One edit that begins between the two places."""
    at = rng.randrange(begin, max(begin + 1, min(end, len(data))))
    size = rng.choice((1, 1, 1, 2, 8, 48))
    replaced = {
        "flip": bytes(b ^ (1 << rng.randrange(8)) for b in data[at : at + 1]) + data[at + 1 : at + size],
        "set": bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF))]) * size,
        "random": rng.randbytes(size),
        "insert": rng.randbytes(size) + data[at : at + size],
        "double": data[at : at + size] * 2,
        "drop": b"",
    }[rng.choice(("flip", "flip", "set", "random", "insert", "double", "drop"))]
    return data[:at] + replaced + data[at + size :]


def _point(rng: Random, old: bytes) -> bytes:
    """Another point: a good one, the negative of the old one, or none."""
    if rng.random() < 0.4 or not old:
        return rng.choice(seeds.good_points())
    return bytes([old[0] ^ 0x20]) + old[1:] if rng.random() < 0.5 else rng.choice(seeds.bad_points())


_TOKENS = (
    *(b"null", b"true", b"1.0", b"1e5", b"-0", b"01", b"1e999", b"NaN", b"-Infinity", b"9" * 5000, b'"\\ud800"', b'"\\u0000"'),
    *(b"[" * 20000, b"[]", b"{}", b'{"a":1}', b" ", b"\n", b"\xff", b"\xef\xbb\xbf", b"'1'", b"/**/", b'"', b"\\", b","),
    *(b'"version":1', b'"version":2', b'"widths":[1,1]', b'"data":""', b'"self":1', b"1" * 40, b"[1,]"),
)
