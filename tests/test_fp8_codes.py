"""FP8 casts, scales and groups: the casts against torch's float8 types and against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.fp8.codes import E4M3, E5M2, FORMATS, Format, cast, dequantize, quantize_groups, quantize_tensor, rounded

BOTH = pytest.mark.parametrize("code", [E4M3, E5M2], ids=lambda code: code.name)
MANTISSA = {"E4M3": (3, 7), "E5M2": (2, 15)}  # bits, and the exponents' bias


def numbers(code: Format) -> list[Fraction]:
    """The format's numbers from 0 up, by its definition; the place of one is its code."""
    bits, bias = MANTISSA[code.name]
    found = []
    for k in range(128):
        exponent, rest = k >> bits, k & ((1 << bits) - 1)
        one = 0 if exponent == 0 else 1 << bits
        found.append(Fraction(one + rest) * Fraction(2) ** (max(exponent, 1) - bias - bits))
        if found[-1] == code.largest:
            return found
    raise AssertionError


def nearest(value: Fraction, code: Format) -> int:
    """The code of the number nearest to value >= 0, the even one of two."""
    table = numbers(code)
    return min(range(len(table)), key=lambda k: (abs(table[k] - value), k % 2))


@BOTH
def test_the_formats_numbers_are_those_of_its_definition(code: Format) -> None:
    table = numbers(code)
    read = torch.arange(len(table), dtype=torch.uint8).view(code.dtype)
    assert [Fraction(x) for x in read.double().tolist()] == table
    assert table[-1] == Fraction(code.largest)


@BOTH
def test_every_code_reads_back_as_itself(code: Format) -> None:
    stored = torch.arange(256, dtype=torch.uint8).view(code.dtype)
    finite = stored.float().isfinite()
    assert torch.equal(cast(stored.float(), code).view(torch.uint8)[finite], stored.view(torch.uint8)[finite])


@BOTH
def test_ties_and_their_neighbours_round_to_nearest_even(code: Format) -> None:
    table = torch.tensor([float(x) for x in numbers(code)])
    ties = (table[1:] + table[:-1]) / 2
    beside = [torch.nextafter(ties, torch.full_like(ties, towards)) for towards in (0.0, torch.inf)]
    values = torch.cat([ties, *beside])
    expected = [nearest(Fraction(x), code) for x in values.double().tolist()]
    assert cast(values, code).view(torch.uint8).tolist() == expected
    assert cast(-values, code).view(torch.uint8).tolist() == [k | 128 for k in expected]


@BOTH
@given(st.floats(width=32, allow_nan=False))
def test_any_number_is_rounded_to_the_nearest_or_saturates(code: Format, value: float) -> None:
    size = min(Fraction(code.largest), abs(Fraction(value))) if abs(value) != float("inf") else Fraction(code.largest)
    found = int(cast(torch.tensor([value]), code).view(torch.uint8))
    assert found & 127 == nearest(size, code)
    assert found == 128 + (found & 127) if value < 0 else found < 128 or value == 0


@BOTH
def test_inside_the_range_the_cast_is_torchs(code: Format) -> None:
    sizes = torch.arange(0, int(code.largest) + 1, 0.25) if code is E4M3 else torch.arange(0, 57345.0)
    values = torch.cat([sizes, -sizes, sizes * 2.0**-14, torch.tensor([float("nan")])])
    assert torch.equal(cast(values, code).view(torch.uint8), values.to(code.dtype).view(torch.uint8))


@BOTH
@given(st.data())
def test_a_group_is_off_by_half_a_step_at_most(code: Format, draws: st.DataObject) -> None:
    rows, width, group = (draws.draw(st.integers(1, n)) for n in (3, 40, 20))
    spread = draws.draw(st.integers(0, 12))
    source = torch.Generator().manual_seed(draws.draw(st.integers(0, 999)))
    values = torch.randn(rows, width, generator=source) * 10 ** (spread * torch.rand(rows, width, generator=source) - 6)
    stored, scales = quantize_groups(values, group, code)
    assert (stored.shape, stored.dtype) == (values.shape, code.dtype)
    assert (scales.shape, scales.dtype) == ((rows, -(-width // group)), torch.bfloat16)
    bits, bias = MANTISSA[code.name]
    scale = scales.float().repeat_interleave(group, 1)[:, :width]
    half = torch.maximum(values.abs() * 2.0 ** -(bits + 1), scale * 2.0 ** (-bias - bits))
    # A scale rounded down to bfloat16 saturates the group's largest number by 2^-9 of it: less than half a step.
    assert bool(((dequantize(stored, scales, group) - values).abs() <= half * 1.001).all())


def test_groups_never_cross_tokens() -> None:
    values = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    loud = values.clone()
    loud[1] *= 1000
    stored, scales = quantize_groups(values, 16)
    found, found_scales = quantize_groups(loud, 16)
    for token in (0, 2, 3):
        assert torch.equal(stored[token].view(torch.uint8), found[token].view(torch.uint8))
        assert torch.equal(scales[token], found_scales[token])


def test_one_scale_takes_the_largest_number_to_the_largest_code() -> None:
    values = torch.tensor([[0.5, -3.0], [0.01, 2.0]])
    stored, scale = quantize_tensor(values)
    assert float(scale) == pytest.approx(3 / 448)
    assert float(stored[0, 1]) == -448
    assert torch.equal(dequantize(stored, scale), stored.float() * scale)
    assert torch.equal(rounded(values, E4M3), stored.float() * scale)


@pytest.mark.parametrize("quantize", [quantize_tensor, quantize_groups])
def test_zeros_and_nothing_are_stored(quantize: object) -> None:
    for shape in ((3, 20), (0, 20)):
        stored, scales = quantize(torch.zeros(shape))  # type: ignore[operator]
        assert torch.equal(dequantize(stored, scales), torch.zeros(shape))
        assert bool((scales > 0).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden(bad: float) -> None:
    values = torch.full((2, 32), 448.0)  # with a scale of 1
    values[0, 3] = bad
    grouped = dequantize(*quantize_groups(values, 16))
    assert bool(grouped[0, :16].isnan().all())
    assert bool((grouped[1] == 448).all())
    assert bool((grouped[0, 16:] == 448).all())
    assert bool(dequantize(*quantize_tensor(values))[0, 3].isnan())


def test_formats_are_found_by_name() -> None:
    assert FORMATS == {"E4M3": E4M3, "E5M2": E5M2}
