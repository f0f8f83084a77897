"""The numbers of a step that keep moments of 8 bits from standing still, and that they do."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_reference import dithered
from torch import Tensor

from zkaudit.training.fixedpoint.moments import Moments
from zkaudit.training.provable import GaLore
from zkaudit.zk.circuit import dither
from zkaudit.zk.circuit.dither import Coefficients


@given(st.integers(0, 1023), st.integers(0, 1023), st.integers(8, 14), st.integers(0, 1 << 41), st.integers(1, 9))
def test_coefficients_are_the_rates_times_the_step_s_factor(beta1: int, beta2: int, bits: int, first: int, steps: int) -> None:
    made = Coefficients.of(beta1, beta2, bits, first, steps)
    for t in range(steps):
        (decay_1, weight_1, offset), (decay_2, weight_2) = dithered(beta1, beta2, bits, first + t)
        found = (made.decay_1[t], made.weight_1[t], made.offset[t], made.decay_2[t], made.weight_2[t], made.quarter[t])
        assert found == (decay_1, weight_1, offset, decay_2, weight_2, decay_2 // 4)
        assert abs(made.decay_1[t] + made.weight_1[t] - 2**bits * dither.factor(first + t)) <= 1


def test_factors_and_offsets_fill_the_square() -> None:
    """Of 2^16 steps each factor and each offset comes once; of any hundred no sixteenth of the square is left out."""
    steps = np.arange(1, (1 << 16) + 1)
    numbers = [steps * multiplier & 0xFFFF for multiplier in (dither.FACTOR, dither.OFFSET)]
    assert all(len(set(x)) == 1 << 16 for x in numbers)
    cells = (numbers[0] >> 14) * 4 + (numbers[1] >> 14)
    assert all(len(set(cells[first : first + 100])) == 16 for first in range(0, len(cells) - 100, 100))
    factors = [dither.factor(t) for t in range(1 << 16)]
    assert min(factors) == 15 / 16
    assert max(factors) == 17 / 16 - 2.0**-19


def stored_after(fresh: Callable[[], Tensor], first: Tensor, root: Tensor, steps: int, exponent: int) -> list[Tensor]:
    """Both stored moments, (2, units), after each step; `fresh` gives the projected gradients, (units,)."""
    method = GaLore("adam", "svd", 50, (1,), ("left",), 10, 10, 10, 896, 1008, 4, 0, (exponent,), (exponent,))
    moments, seen = Moments.of(method, 0, [first[None], root[None]]), []
    for t in range(steps):
        mean, square = moments.averages_after(t, fresh()[None].round())
        moments.store(mean.to(torch.int64), (square / 1024).sqrt().to(torch.int64))
        seen.append(torch.stack([moments.after(k)[:, 0] for k in range(2)]))
    return seen


SIZES = torch.logspace(1.5, 3.3, 60, dtype=torch.float64).round()  # 32 to 1995


@pytest.mark.parametrize("exponent", [11, 12, 15])
def test_moments_decay_where_gradients_vanish(exponent: int) -> None:
    """The root as beta2^(t / 2); the nearest code would always be the same one. Small ones go to zero."""
    begun = SIZES * torch.tensor([1.0, -1.0]).repeat(30)
    seen = stored_after(lambda: torch.zeros(60, dtype=torch.float64), begun, SIZES, 300, exponent)
    assert not seen[100][0].any()
    for t, least in ((50, 0.8), (100, 0.7), (200, 0.5)):
        left = seen[t][1][40:] / (SIZES[40:] * (1008 / 1024) ** ((t + 1) / 2))
        assert least < float(left.mean()) < 1.1


def test_what_never_had_a_gradient_does_not_move() -> None:
    method = GaLore("adam", "svd", 50, (1,), ("left",), 10, 10, 10, 896, 1008, 4, 0, (15,), (16,))
    nothing = torch.zeros(1, 3, dtype=torch.float64)
    moments = Moments.of(method, 0, [])
    for t in range(200):
        mean, square = moments.averages_after(t, nothing)
        assert not mean.any()
        moments.store(mean.to(torch.int64), (square / 1024).sqrt().to(torch.int64))
        assert not any(moments.after(k).any() for k in range(2))


@pytest.mark.parametrize("exponent", [11, 12, 15])
def test_moments_are_near_those_of_exact_averages(exponent: int) -> None:
    """Of gradients that vary; in the mean over sizes and steps, and each over steps."""
    generator = torch.Generator().manual_seed(exponent)

    def fresh() -> Tensor:
        return SIZES * (1 + 0.7 * torch.randn(60, generator=generator, dtype=torch.float64))

    seen = torch.stack(stored_after(fresh, 0 * SIZES, 0 * SIZES, 1500, exponent)[300:]).mean(0)
    first, root = seen[0] / SIZES, seen[1] / (SIZES * (1 + 0.7**2) ** 0.5)
    for ratios, nearest, every in ((first, 0.03, 0.12), (root, 0.12, 0.4)):
        assert abs(float(ratios.mean()) - 1) < nearest
        assert float((ratios - 1).abs().max()) < every


def test_a_factor_goes_from_fifteen_sixteenths_on_in_steps_of_its_multiplier() -> None:
    for t in (0, 1, 5, 70000):
        exact = Fraction(15, 16) + Fraction((t + 1) * 49471 % (1 << 16), 1 << 19)
        assert dither.factor(t) == float(exact)
        assert floor(exact * (1 << 19)) == exact * (1 << 19)
