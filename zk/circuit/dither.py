"""What keeps rounding to 8 bits from standing still: public numbers, one a step, that moments are multiplied by and added to.

Codes are up to 1/8 apart, and an average changes by less in a step: rounded to the nearest code it would stay where it is for
good. So M_t is multiplied by g_t, V_t by g_t^2, and o_t is added to what is rounded of M_t, which makes up for the rest that
rounding down drops:

    g_t = 1 + (u_t / 2^16 - 1/2) / 8        u_t = (t + 1) 49471 mod 2^16
    o_t = v_t / 2^16                        v_t = (t + 1) 37345 mod 2^16

spread evenly over steps from 15/16 to 17/16 and from 0 to 1: 2^-16 times the multipliers are next to the powers 1 and 2 of
0.7549, whose multiples fill the square (Roberts 2018, R2). A number is then rounded up about as often as it is near the number
above. The direction M / sqrt(V) loses the factor. t counts a run's steps from 0. As weights of an average are public numbers
of a step anyway, none of this costs a proof anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk.methods import FRACTION

Integers = NDArray[np.int64]

FACTOR, OFFSET = 49471, 37345  # multipliers of u and v
ONE = 19  # g is a multiple of 2^-19


@dataclass(frozen=True)
class Coefficients:
    """M = decay_1 m + weight_1 R,  V = decay_2 (s^2 + s) + weight_2 R^2 + quarter; an entry a step, b fraction bits.

    `offset` is added to M where it is rounded. V has decay_2 (s + 1/2)^2 in it: a root is rounded down, so what was stored
    stands for a half more.
    """

    decay_1: Integers
    weight_1: Integers
    offset: Integers
    decay_2: Integers
    weight_2: Integers
    quarter: Integers

    @staticmethod
    def of(beta1: int, beta2: int, bits: int, first_step: int, steps: int) -> Coefficients:
        """Of decay rates beta / 2^10, for some steps of a run."""
        number = np.arange(first_step + 1, first_step + steps + 1, dtype=np.int64) & 0xFFFF
        factor = _factors(number)

        def scaled(rate: int, power: int) -> Integers:
            dropped = FRACTION + power * ONE - bits
            return (rate * factor**power + (1 << (dropped - 1))) >> dropped

        decay_2 = scaled(beta2, 2)
        return Coefficients(
            scaled(beta1, 1),
            scaled((1 << FRACTION) - beta1, 1),
            (number * OFFSET & 0xFFFF) >> (16 - bits),
            decay_2,
            scaled((1 << FRACTION) - beta2, 2),
            decay_2 >> 2,
        )


def factor(step: int) -> float:
    """g of one step."""
    return float(_factors(np.array(step + 1))) / (1 << ONE)


def _factors(number: Integers) -> Integers:
    """g in units of 2^-19, for numbers of steps counted from 1."""
    return (1 << ONE) + (number * FACTOR & 0xFFFF) - (1 << 15)
