"""Sections 6.1 and 6.2: the transcript, what is read from the proof, what its hidden slots must satisfy, and claims."""

from dataclasses import dataclass, field
from hashlib import sha512
from itertools import accumulate
from math import prod

from .conventions import POINT_BYTES, Point, R, Vector, bits, decode, demand, framed, powers, rw

ONE = -1  # stands for the constant 1 among the slots
Expression = dict[int, int]  # the coefficient of every slot
Form = tuple[int, int, str]  # (a, b, block) is a + b * block
Factors = str | tuple[Form, Form]  # a block, or a product of two forms
Part = tuple[Factors, int, Vector, Vector]  # coefficient, high, low


@dataclass
class Claim:
    """value = constant + the sum of the parts."""

    value: Expression = field(default_factory=dict)
    constant: int = 0
    parts: list[Part] = field(default_factory=list)


def combine(*terms: tuple[int, Expression]) -> Expression:
    """The sum of factor * expression."""
    result: Expression = {}
    for factor, expression in terms:
        for slot, coefficient in expression.items():
            result[slot] = (result.get(slot, 0) + factor * coefficient) % R
    return result


def polynomial(coefficients: list[Expression], x: int) -> Expression:
    """The value at x, coefficients lowest first."""
    return combine(*zip(powers(x, len(coefficients)), coefficients, strict=True))


def stack_variables(sizes: list[int]) -> int:  # tables of 2^m entries, m from `sizes`
    return bits(sum(1 << size for size in sizes) - 1)


def prefixes(sizes: list[int], point: Vector) -> Vector:
    """Each table's prefix: its place among tables of its size, weighed at the coordinates that number them."""
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    offsets = dict(zip(order, accumulate(1 << sizes[i] for i in order), strict=True))
    places = [((offsets[i] >> size) - 1, point[size:]) for i, size in enumerate(sizes)]
    return [prod(p if place >> k & 1 else 1 - p for k, p in enumerate(end)) % R for place, end in places]


class Dialogue:
    """Reads the proof from its first byte to its last, absorbs what it reads, draws challenges, notes requirements."""

    def __init__(self, proof: bytes) -> None:
        self.proof, self.place = proof, 0
        self.state = sha512(framed(b"zkaudit transcript", b"zkaudit proof of training v1")).digest()
        self.messages: list[Point] = []
        self.slots: list[int] = []  # the number of the message that each slot belongs to
        self.requirements: list[Expression] = []  # they must vanish

    def absorb(self, label: str, data: bytes) -> None:
        self.state = sha512(self.state + framed(b"absorb", label.encode(), data)).digest()

    def challenge(self, label: str) -> int:
        self.state = sha512(self.state + framed(b"challenge", label.encode(), b"")).digest()
        return int.from_bytes(sha512(b"output" + self.state).digest(), "little") % R

    def challenges(self, label: str, count: int) -> Vector:
        return [self.challenge(label) for _ in range(count)]

    def weights(self, label: str, m: int) -> Vector:
        return rw(self.challenges(label, bits(m - 1)), m)

    def read(self, label: str, size: int) -> bytes:
        data = self.proof[self.place : self.place + size]
        demand(len(data) == size, f"the proof ends before {label!r}")
        self.place += size
        self.absorb(label, data)
        return data

    def scalars(self, label: str, count: int) -> Vector:
        data = self.read(label, 32 * count)
        result = [int.from_bytes(data[i : i + 32], "little") for i in range(0, len(data), 32)]
        demand(all(scalar < R for scalar in result), f"a scalar of {label!r} is not below the field's order")
        return result

    def message(self, label: str, count: int) -> list[Expression]:
        self.slots += [len(self.messages)] * count
        self.messages += decode(self.read(label, POINT_BYTES))
        return [{slot: 1} for slot in range(len(self.slots) - count, len(self.slots))]

    def require(self, *terms: tuple[int, Expression]) -> None:
        self.requirements.append(combine(*terms))

    def product(self, label: str, x: Expression, y: Expression, z: Expression) -> None:
        dx, dy, cross, square = self.message(f"{label} mask", 4)
        e = self.challenge("product")
        ax, ay = self.scalars(label, 2)
        self.require((e, x), (1, dx), (-ax, {ONE: 1}))
        self.require((e, y), (1, dy), (-ay, {ONE: 1}))
        self.require((e**2, z), (e, cross), (1, square), (-ax * ay, {ONE: 1}))

    def sumcheck(self, label: str, n: int, degree: int, claim: Expression) -> tuple[Vector, Expression]:
        """The point of the challenges and the claim that is left there."""
        point = []
        for _ in range(n):
            c = self.message(label, degree + 1)
            self.require((1, c[0]), (1, polynomial(c, 1)), (-1, claim))
            point.append(self.challenge("sumcheck round"))
            claim = polynomial(c, point[-1])
        return point, claim

    def stacked_product(self, label: str, sizes: list[int]) -> tuple[Expression, Vector, Vector, Expression, Expression]:
        """The inner product of two stacks, the point to which it is reduced, prefixes and the two stacks' values there."""
        [value] = self.message(label, 1)
        z, rest = self.sumcheck(label, stack_variables(sizes), 2, value)
        left, right, both = self.message(label, 3)
        self.product(label, left, right, both)
        self.require((1, both), (-1, rest))
        return value, z, prefixes(sizes, z), left, right
