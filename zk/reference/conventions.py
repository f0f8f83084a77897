"""Section 1: the field, multilinear extensions, points of y^2 = x^3 + 4 modulo P, generators; and what a refusal is."""

import logging
from functools import cache
from hashlib import sha256
from itertools import accumulate

from py_ecc.bls.hash import expand_message_xmd
from py_ecc.bls.hash_to_curve import clear_cofactor_G1, map_to_curve_G1
from py_ecc.optimized_bls12_381 import FQ, normalize

R = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
P = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB
POINT_BYTES = 48
Vector = list[int]  # entries modulo R
Point = tuple[int, int] | None  # affine; None is the identity
log = logging.getLogger("reference verifier")


class Refused(Exception):
    """The bytes are no valid proof; the message names the check that fails."""


def demand(condition: bool, check: str) -> None:
    if not condition:
        raise Refused(check)


def bits(n: int) -> int:
    return n.bit_length()


def framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def eq(point: Vector) -> Vector:
    table = [1]
    for coordinate in point:
        upper = [entry * coordinate % R for entry in table]
        table = [(entry - above) % R for entry, above in zip(table, upper, strict=True)] + upper
    return table


def rw(point: Vector, m: int) -> Vector:
    return eq(point[: bits(m - 1)])[:m]


def dot(a: Vector, b: Vector) -> int:
    """The inner product, the shorter vector continued by zeros."""
    return sum(x * y for x, y in zip(a, b, strict=False)) % R


def powers(base: int, count: int) -> Vector:
    return list(accumulate(range(count - 1), lambda power, _: power * base % R, initial=1))


def decode(data: bytes) -> list[Point]:
    """The points that every 48 bytes stand for."""
    points: list[Point] = []
    for i in range(0, len(data), POINT_BYTES):
        flags, x = data[i] >> 5, int.from_bytes(data[i : i + POINT_BYTES], "big") % (1 << 381)
        demand(flags >= 4, "a point is not in compressed form")
        demand(flags < 6 or (flags == 6 and x == 0), "an identity has further bits set")
        demand(x < P, "a coordinate is not below the base field's modulus")
        y = pow(x**3 + 4, (P + 1) // 4, P)
        demand(flags == 6 or (y * y - x**3 - 4) % P == 0, "a coordinate belongs to no point of the curve")
        points.append(None if flags == 6 else (x, y if (y > P - y) == (flags == 5) else P - y))
    return points


def add_pairs(pairs: list[tuple[Point, Point]]) -> list[Point]:
    """The sum of each pair. Every slope is a fraction; one inversion serves all denominators."""
    runs = [1 if a is None or b is None else (b[0] - a[0]) % P or (a[1] + b[1]) % P or 1 for a, b in pairs]
    before = list(accumulate(runs, lambda product, run: product * run % P, initial=1))
    inverse_of_all, sums = pow(before.pop(), -1, P), list[Point]()
    for (a, b), run, product in zip(reversed(pairs), reversed(runs), reversed(before), strict=True):
        inverse, inverse_of_all = inverse_of_all * product % P, inverse_of_all * run % P
        if a is None or b is None:
            sums.append(a or b)
        elif a[0] == b[0] and a[1] != b[1]:
            sums.append(None)
        else:
            slope = (b[1] - a[1] if a != b else 3 * a[0] * a[0]) * inverse % P
            x = (slope * slope - a[0] - b[0]) % P
            sums.append((x, (slope * (a[0] - x) - a[1]) % P))
    return sums[::-1]


def sum_each(lists: list[list[Point]]) -> list[Point]:
    """The sum of each list: all are halved together until one point is left."""
    while (longest := max(map(len, lists))) > 1:
        log.info("adding points, up to %d in a list", longest)
        halves = iter(add_pairs([pair for points in lists for pair in zip(points[::2], points[1::2], strict=False)]))
        lists = [[next(halves) for _ in points[1::2]] + points[len(points) // 2 * 2 :] for points in lists]
    return [points[0] if points else None for points in lists]


def combination(scalars: list[int], points: list[Point]) -> Point:
    """The sum of scalars[i] * points[i]: in each window, points with one digit are summed up, then the sums with one bit."""
    width = max(2, len(points).bit_length() - 4)
    windows = range(max(map(bits, scalars)) // width + 1)
    buckets: list[list[Point]] = [[] for _ in range(len(windows) << width)]
    for scalar, point in zip(scalars, points, strict=True):
        for window in windows:
            if digit := (scalar >> window * width) % (1 << width):
                buckets[(window << width) + digit].append(point)
    sums = sum_each(buckets)
    with_bit = [[digit for digit in range(1 << width) if digit >> k & 1] for k in range(width)]
    of_bits = sum_each([[sums[(window << width) + digit] for digit in digits] for window in windows for digits in with_bit])
    result: Point = None
    for of_bit in reversed(of_bits):
        [double] = add_pairs([(result, result)])
        [result] = add_pairs([(double, of_bit)])
    return result


@cache
def generator(family: str, index: int) -> Point:
    """RFC 9380's encode_to_curve of the index under the family's tag."""
    if index % 1000 == 999:
        log.info("hashed %d generators for %s", index + 1, family)
    tag = f"zkaudit-v1-{family}-BLS12381G1_XMD:SHA-256_SSWU_NU_".encode()
    u = int.from_bytes(expand_message_xmd(index.to_bytes(8, "little"), tag, 64, sha256), "big") % P
    x, y = normalize(clear_cofactor_G1(map_to_curve_G1(FQ(u))))
    return int(x), int(y)
