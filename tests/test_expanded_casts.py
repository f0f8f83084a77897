"""Moments' casts: E4M3 after range expansion in integers, against brute force, torch, and the float code of the method."""

from __future__ import annotations

from decimal import Decimal, localcontext
from math import ceil

import pytest
import torch
from cast_reference import cast_moment, code_value, numbers, range_of
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.fixedpoint.expansion import stored
from zkaudit.training.fp8 import codes
from zkaudit.training.fp8.expansion import RANGE, Expanded, contract, expand
from zkaudit.zk.circuit import expanded

KINDS = [(kind, exponent) for kind, most in expanded.EXPONENTS.items() for exponent in range(1, most + 1)]
OFFSETS = {"first": 1 << 15, "second": 0}
E4M3 = torch.arange(expanded.CODES, dtype=torch.uint8).view(torch.float8_e4m3fn)


def casts(kind: str, exponent: int) -> dict[int, int]:
    """What each number that can be stored becomes."""
    offset = OFFSETS[kind]
    return {x - offset: int(y) - offset for x, y in enumerate(expanded.table(kind, exponent))}


def code_of(kind: str, exponent: int, sizes: torch.Tensor) -> torch.Tensor:
    """The code that each size goes to."""
    return torch.bucketize(sizes, torch.tensor(expanded.boundaries(kind, exponent)), right=True)


@given(st.sampled_from(KINDS), st.integers(0, (1 << 16) - 1))
def test_a_cast_is_the_reference_s(kind: tuple[str, int], number: int) -> None:
    x = number - OFFSETS[kind[0]]
    assert expanded.table(*kind)[number] - OFFSETS[kind[0]] == cast_moment(x, *kind)


@given(st.sampled_from(KINDS), st.integers(0, (1 << 16) - 1))
def test_a_code_is_the_nearest_in_the_expanded_domain(kind: tuple[str, int], x: int) -> None:
    """By brute force over all codes, with a hundred decimal digits; of two equally near ones the even one."""
    most, a = range_of(*kind)
    x = min(x, most)
    with localcontext(prec=100):
        every = [Decimal(q.numerator) / q.denominator for q in numbers("e4m3")]
        size = 448 * (Decimal(x) / most) ** (Decimal(a) / 8) if x else Decimal(0)
        distances = [abs(size - q) for q in every]
        least = min(distances)
        nearest = [code for code, distance in enumerate(distances) if distance - least < Decimal(10) ** -80]
        code = next(c for c in nearest if len(nearest) == 1 or c % 2 == 0)
        exact = most * (every[code] / 448) ** (8 / Decimal(a)) if code else Decimal(0)
        assert int(code_of(*kind, torch.tensor(x))) == code
        assert abs(expanded.code_values(*kind)[code] - exact) <= Decimal("0.5") + Decimal(10) ** -80
    assert expanded.code_values(*kind)[code] == code_value(code, *kind)


@pytest.mark.parametrize(("kind", "exponent"), KINDS)
def test_a_table_is_idempotent_rising_odd_and_full(kind: str, exponent: int) -> None:
    """Casting twice is casting once; every integer that a code stands for is the cast of something: of itself."""
    pairs, values = casts(kind, exponent), expanded.code_values(kind, exponent)
    assert all(pairs[y] == y for y in set(pairs.values()))
    assert {abs(y) for y in pairs.values()} == set(values)
    assert all(pairs[x] <= pairs[x + 1] for x in pairs if x + 1 in pairs)
    assert all(pairs[-x] == -y for x, y in pairs.items() if -x in pairs)
    assert pairs[0] == 0
    assert pairs[1] == 1
    assert max(pairs.values()) == expanded.largest(kind, exponent) == values[-1]
    table = expanded.table(kind, exponent)
    assert table.min() >= 0
    assert table.max() < 1 << 16


def test_without_expansion_a_code_is_torch_s_bit_for_bit() -> None:
    """The widest range has the power 1: x to E4M3 of 448 x / 65535, and back to the nearest integer, ties up."""
    assert expanded.power(16) == expanded.POWERS
    x = torch.arange(1 << 16)
    theirs = (448 * x.double() / 65535).to(torch.float32).to(torch.float8_e4m3fn)
    ours = code_of("second", 16, x)
    assert (theirs.view(torch.uint8) == ours).all()
    values = torch.floor(E4M3.double() * 65535 / 448 + 0.5)
    assert (values[ours] == torch.from_numpy(expanded.table("second", 16))).all()


@pytest.mark.parametrize(("kind", "exponent"), KINDS)
def test_codes_stand_for_what_the_method_s_own_code_reads(kind: str, exponent: int) -> None:
    """training/fp8/expansion.py with the same power and largest number, up to rounding to integers."""
    most, power = expanded.largest(kind, exponent), expanded.power(exponent) / expanded.POWERS
    read = contract(Expanded(E4M3, torch.tensor([float(most)]), torch.tensor([power])))
    values = torch.tensor(expanded.code_values(kind, exponent))
    assert (read.double() - values).abs().max() <= 0.5 + 1e-5 * most


@pytest.mark.parametrize(("kind", "exponent"), KINDS)
def test_numbers_go_to_the_codes_that_the_method_s_own_code_gives(kind: str, exponent: int) -> None:
    """But where float32 decides between two codes that are equally near to seven digits."""
    most, a = expanded.largest(kind, exponent), expanded.power(exponent)
    ratio = expanded.POWERS * RANGE / (a + 0.5)  # what makes the power that the group chooses the same
    least = most * 2.0**-ratio
    sizes = torch.arange(max(1, ceil(least)), most + 1)
    group = torch.cat([torch.tensor([least]), sizes.float()])
    made = expand(group, len(group), expanded.POWERS)
    assert float(made.power) == a / expanded.POWERS
    theirs, ours = made.codes.view(torch.uint8)[1:].int(), code_of(kind, exponent, sizes)
    differ = (theirs != ours).nonzero()[:, 0]
    assert len(differ) <= 2 + len(sizes) // 1000
    close = [min(abs(int(sizes[i]) - b) for b in expanded.boundaries(kind, exponent)) for i in differ]
    assert all(distance <= 1 for distance in close)


@pytest.mark.parametrize(("kind", "exponent"), KINDS)
def test_the_float_run_s_casts_are_these_up_to_rounding(kind: str, exponent: int) -> None:
    x = torch.arange(1 << 16) - OFFSETS[kind]
    unit = 2.0**-13
    theirs = stored(x.double()[:, None] * unit, kind, exponent, unit)[:, 0] / unit
    ours = torch.from_numpy(expanded.table(kind, exponent)) - OFFSETS[kind]
    assert float(((theirs - ours).abs() > 0.5 + 1e-9).double().mean()) < 1e-3
    in_groups = stored(x.double().reshape(-1, 32) * unit, kind, (exponent, 9), unit)
    assert (
        in_groups[:, :16].reshape(-1) == stored(x.double().reshape(-1, 32)[:, :16] * unit, kind, exponent, unit).reshape(-1)
    ).all()
    assert (in_groups[:, 16:] == stored(x.double().reshape(-1, 32)[:, 16:] * unit, kind, 9, unit)).all()


def test_codes_are_read_as_torch_reads_them() -> None:
    assert (codes.read(E4M3).double().numpy() == [float(q) for q in numbers("e4m3")]).all()
