"""Inner-product argument. Claim: P = <z, g> + <z, a> Q for public a, g, Q; reduces to one scalar in log2(n) rounds.

z is sent folded to one number, so the caller must have masked it: nothing here hides. The recursion is that of Bulletproofs
(Bünz et al. 2018, section 3), with the folding g' = g_low + u g_high, a' = a_low + u a_high, z' = z_low + z_high / u. The
verifier never folds g: the final generator is <s, g> for the tensor s of the challenges, one term of its
multi-exponentiation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from zkaudit.zk import curve, field
from zkaudit.zk.backend import place_of
from zkaudit.zk.curve import Points
from zkaudit.zk.field import MODULUS, Array

Send = Callable[[Points], int]  # sends a pair of points, returns the round's challenge


def prove(z: Array, a: Array, generators: Points, q: Points, send: Send) -> int:
    """Fold z (n, 4) against a (n, 4) and the generators (n, 12), n a power of two; returns the last scalar.

    Generators may be on a device, which then sums and folds while they are many.
    """
    while len(z) > 1:
        half = len(z) // 2
        left = _cross(z[:half], a[half:], generators[half:], q)
        right = _cross(z[half:], a[:half], generators[:half], q)
        u = send(np.concatenate([left, right]))
        z = field.add(z[:half], field.mul(z[half:], pow(u, -1, MODULUS)))
        a = field.add(a[:half], field.mul(a[half:], u))
        generators = curve.fold(generators[:half], generators[half:], u)
    return field.to_ints(z)[0]


def final_weights(challenges: Sequence[int]) -> Array:
    """s with g_final = <s, g> and a_final = <s, a>, shape (2^len(challenges), 4); the first round splits the top bit."""
    weights = field.full(1, 1)
    for u in reversed(challenges):
        weights = np.concatenate([weights, field.mul(weights, u)])
    return weights


def _cross(z: Array, a: Array, generators: Points, q: Points) -> Points:
    scalars = np.concatenate([z, field.from_ints([field.dot(z, a)])])
    return curve.msm(scalars, np.concatenate([generators, place_of(generators).put(q)]))
