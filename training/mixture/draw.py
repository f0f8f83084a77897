"""Random choices of a mixture in whole numbers, drawn from a seed by SHA-256: the same on every machine.

shares  p_i as multiples of 2^-32 that sum to 1: floors first, what is left to the largest remainders, ties to the lower i
draw    source of record n:  i with  c_(i-1) <= u_n < c_i,  c the running sums, u_n 32 bits of SHA-256(seed, n)"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Sequence
from fractions import Fraction

from zkaudit.training.errors import TrainingError

ONE = 1 << 32  # a share of 1


def whole_shares(weights: Sequence[Fraction | int]) -> tuple[int, ...]:
    """Weights, not negative and not all zero, as shares that sum to 2^32. TrainingError otherwise."""
    total = sum(weights, Fraction(0))
    if total <= 0 or min(weights) < 0:
        raise TrainingError("a mixture's weights must not be negative, and one must be above 0")
    exact = [Fraction(weight) * ONE / total for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: ONE - sum(shares)]:
        shares[i] += 1
    return tuple(shares)


def draw_sources(shares: Sequence[int], count: int, seed: int) -> list[int]:
    """The sources of `count` records, each drawn by itself with these whole shares."""
    if sum(shares) != ONE or min(shares) < 0:
        raise TrainingError("shares must be whole numbers that sum to 2^32; whole_shares makes them from weights")
    ends = list(itertools.accumulate(shares))
    return [bisect.bisect_right(ends, _word(seed, number) % ONE) for number in range(count)]


def _word(seed: int, number: int) -> int:
    message = b"zkaudit draw" + seed.to_bytes(8, "little") + number.to_bytes(8, "little")
    return int.from_bytes(hashlib.sha256(message).digest()[:8], "little")
