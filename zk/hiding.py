"""The hiding channel: nothing but commitments, uniform scalars and one inner-product argument ever leaves the prover.

A message is a Pedersen commitment over generators of its own slots. Requirements are linear in slots. A product x y = z is made
linear by a mask: commit dx, dy, x dy + y dx, dx dy; after a challenge e reveal e x + dx and e y + dy, both uniform; what is
left is linear. The one opening of committed tables is a message too: a row combination, whose slots are the column
generators. At the end every requirement is batched into <a, m> = b, m is masked once and an inner-product argument proves it.

Message j enters the final sum with weight d^j and its slots' coefficients with d^-j, d drawn after the last message. Without
that, a prover could change a message after its challenge by hiding a correction on its slots in a later commitment; with it,
a misplaced component lands on another power of d. Soundness error of one dialogue: below (2 messages + requirements + 2
rounds) / r."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zkaudit.zk import curve, field, hyrax, inner_product, mle, pedersen
from zkaudit.zk.backend import place_of
from zkaudit.zk.block import Block
from zkaudit.zk.channel import Blinder, ProverChannel, Tables, VerifierChannel
from zkaudit.zk.curve import Points
from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.field import MODULUS, Array
from zkaudit.zk.linear import Linear, combination

POINT_BYTES = 48
SCALAR_BYTES = 32


@dataclass(frozen=True)
class _Opening:
    """The opening both sides agreed on: row weights, in the order tables were adopted and committed, and column weights."""

    row_weights: Array
    columns: Array


def _opening(
    blocks: Sequence[Block], order: Sequence[Block], weights: Sequence[int], point: Sequence[int], columns: int
) -> _Opening:
    weight = {block.name: w for block, w in zip(blocks, weights, strict=True)}
    ordered = [weight[block.name] for block in order]
    return _Opening(hyrax.row_weights(order, ordered, point, columns), mle.eq_table(point[:columns]))


@dataclass(frozen=True)
class _Settlement:
    """All requirements as <coefficients, slots and columns> = value, and each message's weight."""

    coefficients: Array  # columns first, then slots, padded with zeros to a power of two
    value: int
    weights: list[int]  # of messages; the last one is the opening's
    length: int  # columns and slots, unpadded


def _settlement(
    requirements: Sequence[Linear], opening: _Opening, opened: Linear, spans: Sequence[range], t: int, d: int
) -> _Settlement:
    coefficients, value, power = [0] * (spans[-1].stop if spans else 0), 0, 1
    for expression in [*requirements, -opened]:
        for slot, c in expression.terms.items():
            coefficients[slot] = (coefficients[slot] + power * c) % MODULUS
        value -= power * expression.constant
        power = power * t % MODULUS
    power = power * pow(t, -1, MODULUS) % MODULUS  # the opening's columns belong to the last requirement
    weights = field.to_ints(field.powers(d, len(spans) + 1))
    inverses = field.to_ints(field.powers(pow(d, -1, MODULUS), len(spans) + 1))
    for span, inverse in zip(spans, inverses, strict=False):
        for slot in span:
            coefficients[slot] = coefficients[slot] * inverse % MODULUS
    columns = field.mul(opening.columns, power * inverses[-1] % MODULUS)
    length = len(columns) + len(coefficients)
    padded = field.zeros(1 << (length - 1).bit_length())
    padded[: len(columns)] = columns
    padded[len(columns) : length] = field.from_ints(coefficients)
    return _Settlement(padded, value % MODULUS, weights, length)


def _generators(columns: int, slots: int, padded: int) -> Points:
    """Columns, then slots, then the identity: padding carries no coefficient and so needs no generator."""
    used = np.concatenate([pedersen.columns(columns), pedersen.slots(slots)])
    return np.concatenate([used, np.zeros((padded - len(used), used.shape[1]), used.dtype)])


class HidingProver(ProverChannel):
    """Writes `proof`, bytes. `columns` is the logarithm of a committed row's length."""

    def __init__(self, domain: bytes, columns: int, blinder: Blinder, check: bool = True) -> None:
        super().__init__(domain, check)
        self.columns, self.blinder = columns, blinder
        self.proof = bytearray()
        self._spans: list[range] = []
        self._blindings: list[int] = []
        self._requirements: list[Linear] = []
        self._order: list[Block] = []
        self._row_blindings: list[Array] = []
        self._opened: tuple[_Opening, Linear] | None = None

    def send(self, values: Sequence[int], name: str) -> list[Linear]:
        first, count = self.slots, len(values)
        blinding = self.blinder.scalar()
        self._write_points(pedersen.message(first, field.from_ints([*values, blinding])), name)
        self.values += [value % MODULUS for value in values]
        self._blindings.append(blinding)
        self._spans.append(range(first, first + count))
        return self.new_slots(count)

    def commit(self, blocks: Sequence[Block], tables: Tables, name: str) -> None:
        points, blindings = hyrax.commit(blocks, tables, self.columns, self.blinder)
        self.adopt(blocks, tables, blindings)
        self._write_points(points, name)

    def adopt(self, blocks: Sequence[Block], tables: Tables, blindings: Array) -> None:
        """Tables whose commitment is part of the statement, with the blindings of their rows."""
        self.tables.update({block.name: tables[block.name] for block in blocks})
        self._order += blocks
        self._row_blindings.append(blindings)

    def require_zero(self, expression: Linear, name: str) -> None:
        self.demand(expression, name)
        self._requirements.append(expression)

    def require_product(self, x: Linear, y: Linear, z: Linear, name: str) -> None:
        a, b = self.value(x), self.value(y)
        self.demand(z - a * b, name)
        mask_a, mask_b = self.blinder.scalar(), self.blinder.scalar()
        masks = self.send([mask_a, mask_b, a * mask_b + b * mask_a, mask_a * mask_b], name + " mask")
        e = self.challenge("product")
        masked = [(e * a + mask_a) % MODULUS, (e * b + mask_b) % MODULUS]
        self._write_scalars(masked, name)
        self._requirements += _masked_product(x, y, z, masks, e, masked)

    def open(self, blocks: Sequence[Block], weights: Sequence[int], point: Sequence[int], value: Linear) -> None:
        self._opened = _opening(blocks, self._order, weights, point, self.columns), value

    def settle(self) -> None:
        if self._opened is None:
            raise AssertionError("a dialogue settles after its opening")
        opening, opened = self._opened
        t, d = self.challenge("batch requirements"), self.challenge("weigh messages")
        settlement = _settlement(self._requirements, opening, opened, self._spans, t, d)
        a, weights = settlement.coefficients, settlement.weights
        width = len(opening.columns)
        m = field.zeros(len(a))
        row = hyrax.combine_rows(self._order, self.tables, opening.row_weights, self.columns)
        m[:width] = field.mul(row, weights[-1])
        scaled = [w * self.values[s] for w, span in zip(weights, self._spans, strict=False) for s in span]
        m[width : settlement.length] = field.from_ints(scaled)
        blinding = weights[-1] * field.dot(opening.row_weights, np.concatenate(self._row_blindings))
        blinding += sum(w * b for w, b in zip(weights, self._blindings, strict=False))
        at = place_of(*self.tables.values())
        generators = at.put(_generators(width, self.slots, len(a)))

        mask, mask_blinding = field.zeros(len(a)), self.blinder.scalar()
        mask[: settlement.length] = self.blinder.scalars(settlement.length)
        used = [mask[: settlement.length], field.from_ints([mask_blinding])]
        masked_points = np.concatenate([generators[: settlement.length], at.put(pedersen.blinding())])
        self._write_points(curve.msm(np.concatenate(used), masked_points), "mask")
        self._write_scalars([field.dot(a, mask)], "masked value")
        c = self.challenge("mask")
        z = field.add(field.mul(m, c), mask)
        self._write_scalars([(c * blinding + mask_blinding) % MODULUS], "masked blinding")
        q = curve.mul(pedersen.inner_product(), field.from_ints([self.challenge("bind value")]))

        def send(pair: Points) -> int:
            self._write_points(pair, "fold")
            return self.challenge("fold")

        self._write_scalars([inner_product.prove(z, a, generators, q, send)], "last")

    def _write_points(self, points: Points, name: str) -> None:
        data = curve.compress(points)
        self.transcript.absorb(name.encode(), data)
        self.proof += data

    def _write_scalars(self, scalars: Sequence[int], name: str) -> None:
        data = b"".join(x.to_bytes(SCALAR_BYTES, "little") for x in scalars)
        self.transcript.absorb(name.encode(), data)
        self.proof += data


class HidingVerifier(VerifierChannel):
    """Reads `proof` strictly: every byte is used once, every point is canonical and on the curve.

    A point may lie outside the subgroup of order r. Every point of the curve is the sum of one in the subgroup and one whose
    order divides the cofactor, in one way; the final equation is asked of the first parts only, by way of multiplying with the
    cofactor. So what is accepted is what would be accepted if each point were replaced by its first part, under the same
    challenges, since the bytes fix that part.
    """

    def __init__(self, domain: bytes, columns: int, proof: bytes) -> None:
        super().__init__(domain)
        self.columns = columns
        self._proof, self._cursor = proof, 0
        self._spans: list[range] = []
        self._messages: list[bytes] = []
        self._requirements: list[Linear] = []
        self._order: list[Block] = []
        self._rows: list[Points] = []
        self._opened: tuple[_Opening, Linear] | None = None

    def receive(self, count: int, name: str) -> list[Linear]:
        self._messages.append(self._take(POINT_BYTES, name))
        self._spans.append(range(self.slots, self.slots + count))
        return self.new_slots(count)

    def receive_commitment(self, blocks: Sequence[Block], name: str) -> None:
        self.adopt(blocks, self._take(POINT_BYTES * hyrax.rows(blocks, self.columns), name))

    def adopt(self, blocks: Sequence[Block], encoded: bytes) -> None:
        """Tables whose commitment is part of the statement: their compressed rows."""
        self._order += blocks
        self._rows.append(self._decompressed([encoded]))  # at once: rows that are no points are not worth any other work

    def require_zero(self, expression: Linear, name: str) -> None:
        self._requirements.append(expression)

    def require_product(self, x: Linear, y: Linear, z: Linear, name: str) -> None:
        masks = self.receive(4, name + " mask")
        e = self.challenge("product")
        self._requirements += _masked_product(x, y, z, masks, e, self._take_scalars(2, name))

    def open(self, blocks: Sequence[Block], weights: Sequence[int], point: Sequence[int], value: Linear) -> None:
        self._opened = _opening(blocks, self._order, weights, point, self.columns), value

    def settle(self) -> None:
        if self._opened is None:
            raise AssertionError("a dialogue settles after its opening")
        opening, opened = self._opened
        t, d = self.challenge("batch requirements"), self.challenge("weigh messages")
        if t == 0 or d == 0:
            raise InvalidProof("a challenge is zero")
        settlement = _settlement(self._requirements, opening, opened, self._spans, t, d)
        a, weights = settlement.coefficients, settlement.weights
        mask = self._take(POINT_BYTES, "mask")
        masked_value = self._take_scalars(1, "masked value")[0]
        c = self.challenge("mask")
        masked_blinding = self._take_scalars(1, "masked blinding")[0]
        bind = self.challenge("bind value")
        folds, challenges = [], []
        for _ in range(len(a).bit_length() - 1):
            folds.append(self._take(2 * POINT_BYTES, "fold"))
            challenges.append(self.challenge("fold"))
        last = self._take_scalars(1, "last")[0]
        if self._cursor != len(self._proof):
            raise InvalidProof("the proof goes on after its end")
        if 0 in challenges:
            raise InvalidProof("a challenge is zero")

        points = [*self._rows, self._decompressed([*self._messages, mask, *folds])]
        s = inner_product.final_weights(challenges)
        q = (c * settlement.value + masked_value - last * field.dot(a, s)) * bind
        inverses = [pow(u, -1, MODULUS) for u in challenges]
        pairs = [x for u, inverse in zip(challenges, inverses, strict=True) for x in (u, inverse)]
        scalars = [
            field.mul(opening.row_weights, c * weights[-1] % MODULUS),
            field.from_ints([*(c * w for w in weights[:-1]), 1, *pairs, -masked_blinding, q]),
            field.mul(s[: settlement.length], -last % MODULUS),
        ]
        generators = _generators(len(opening.columns), self.slots, settlement.length)
        bases = np.concatenate([*points, pedersen.blinding(), pedersen.inner_product(), generators])
        if not curve.is_torsion(curve.msm(np.concatenate(scalars), bases)):
            raise InvalidProof("the final equation does not hold: a requirement or an opening is false")

    def _decompressed(self, parts: Sequence[bytes]) -> Points:
        try:
            return curve.decompress(b"".join(parts), subgroup=False)
        except ValueError as error:
            raise InvalidProof(f"a commitment is not a valid point: {error}") from None

    def _take(self, size: int, name: str) -> bytes:
        data = self._proof[self._cursor : self._cursor + size]
        if len(data) != size:
            raise InvalidProof(f"the proof ends inside '{name}'")
        self._cursor += size
        self.transcript.absorb(name.encode(), data)
        return data

    def _take_scalars(self, count: int, name: str) -> list[int]:
        data = self._take(SCALAR_BYTES * count, name)
        scalars = [int.from_bytes(data[i : i + SCALAR_BYTES], "little") for i in range(0, len(data), SCALAR_BYTES)]
        if any(x >= MODULUS for x in scalars):
            raise InvalidProof(f"a scalar of '{name}' is not reduced")
        return scalars


def _masked_product(
    x: Linear, y: Linear, z: Linear, masks: Sequence[Linear], e: int, masked: Sequence[int]
) -> tuple[Linear, Linear, Linear]:
    """What is left of z = x y once e x + dx and e y + dy are known: three linear requirements."""
    mask_x, mask_y, cross, square = masks
    revealed_x, revealed_y = masked
    return (
        combination([(e, x), (1, mask_x)]) - revealed_x,
        combination([(e, y), (1, mask_y)]) - revealed_y,
        combination([(e * e % MODULUS, z), (e, cross), (1, square)]) - revealed_x * revealed_y % MODULUS,
    )
