"""A set-up file for c-kzg from a secret that everybody knows: good for measuring and for nothing else.

The wheel ships none. The format is text: how many G1 and G2 points, then G1 in Lagrange form over the roots of unity, powers of
the secret in G2, powers of the secret in G1, each compressed and in hexadecimal."""

from __future__ import annotations

from pathlib import Path

from py_ecc.bls.point_compression import compress_G2
from py_ecc.optimized_bls12_381 import G2, multiply

from zkaudit.zk import curve, field
from zkaudit.zk.field import MODULUS

G1_POINTS, G2_POINTS = 4096, 65
SECRET = 0x5EC2E7
PRIMITIVE_ROOT = 7


def write(path: Path) -> Path:
    """Write the file; returns its path."""
    root = pow(PRIMITIVE_ROOT, (MODULUS - 1) // G1_POINTS, MODULUS)
    roots = field.to_ints(field.powers(root, G1_POINTS))
    # L_i(s) = (s^n - 1) / n * w_i / (s - w_i)
    scale = (pow(SECRET, G1_POINTS, MODULUS) - 1) * pow(G1_POINTS, -1, MODULUS) % MODULUS
    inverses = field.inverse(field.from_ints([SECRET - w for w in roots]))
    lagrange = field.mul(field.mul(field.from_ints(roots), inverses), scale)
    powers = field.powers(SECRET, G1_POINTS)
    lines = [str(G1_POINTS), str(G2_POINTS), *_hexadecimal(lagrange), *_second_group(), *_hexadecimal(powers)]
    path.write_text("\n".join(lines) + "\n")
    return path


def _hexadecimal(scalars: field.Array) -> list[str]:
    """These multiples of the generator of G1."""
    data = curve.compress(curve.fixed_base(curve.GENERATOR, scalars))
    return [data[i : i + curve.POINT_BYTES].hex() for i in range(0, len(data), curve.POINT_BYTES)]


def _second_group() -> list[str]:
    found = []
    for k in range(G2_POINTS):
        halves = compress_G2(multiply(G2, pow(SECRET, k, MODULUS)))
        found.append("".join(half.to_bytes(curve.POINT_BYTES, "big").hex() for half in halves))
    return found
