"""Block-wise 8-bit states: the table, nearest codes, what the bounds say, and AdamW on them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.optim.block_int8 import BLOCK, _nearest, dequantize, quantize, table
from zkaudit.training.optim.galore import GaLoreAdamW

magnitudes = st.floats(0, 2.0**100, width=32)
numbers = st.lists(magnitudes | magnitudes.map(lambda x: -x), min_size=1, max_size=40)


@pytest.mark.parametrize("signed", [True, False])
def test_the_table_has_256_values_in_seven_decades(signed: bool) -> None:
    values = table(signed).tolist()
    assert len(set(values)) == 256
    assert (values[-1], 0.0 in values, min(values) < 0) == (1.0, True, signed)
    positive = [value for value in values if 0 < value < 1]
    for i in range(7):
        inside = [value for value in positive if 10.0 ** (i - 7) < value < 10.0 ** (i - 6)]
        assert len(inside) == (2**i if signed else 2 ** (i + 1))
    assert min(positive) == pytest.approx(0.55e-6 if signed else 0.325e-6)


@given(values=numbers, signed=st.booleans())
def test_codes_are_the_nearest_of_the_table(values: list[float], signed: bool) -> None:
    tensor = torch.tensor(values) if signed else torch.tensor(values).abs()
    codes, scales = quantize(tensor, signed)
    scale = tensor.abs().max()
    assert scales.tolist() == [scale]
    if scale < torch.finfo(torch.float32).tiny:
        return
    distances = ((tensor / scale)[:, None] - table(signed)[None]).abs()
    chosen = distances.gather(1, codes.long()[:, None])[:, 0]
    lifted = (tensor > 0) & (distances.argmin(1) == 0) if not signed else torch.zeros_like(tensor, dtype=torch.bool)
    torch.testing.assert_close(chosen[~lifted], distances.amin(1)[~lifted], rtol=1e-6, atol=1e-9)
    assert bool((codes[lifted] == 1).all())


@pytest.mark.parametrize("signed", [True, False])
def test_a_code_by_upper_bits_is_that_of_a_search_among_midpoints(signed: bool) -> None:
    """At every midpoint and its two neighbours, at both ends of every 16 upper bits, and in between."""
    entries = table(signed)
    midpoints = (entries[1:] + entries[:-1]) / 2
    ends = torch.arange(0, 0x3F81, dtype=torch.int32) << 16
    edges = torch.cat([ends, ends[:-1] | 0xFFFF]).view(torch.float32)
    inside = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) ** 4
    near = [midpoints.nextafter(midpoints + side) for side in (-1, 0, 1)]
    unit = torch.cat([edges, inside, *near, entries])
    unit = torch.cat([unit, -unit]) if signed else unit[unit >= 0]
    assert torch.equal(_nearest(unit, signed).long(), torch.bucketize(unit, midpoints))


@given(values=numbers)
def test_a_second_moment_above_0_stays_above_0(values: list[float]) -> None:
    tensor = torch.tensor(values).abs()
    codes, scales = quantize(tensor, signed=False)
    assert torch.equal(codes > 0, tensor > 0)
    assert bool(((dequantize(codes, scales, signed=False) > 0) <= (tensor > 0)).all())


@given(count=st.integers(1, 3 * BLOCK), seed=st.integers(0, 2**32 - 1))
def test_the_largest_decade_is_kept_to_72_in_10000_of_its_blocks_largest(count: int, seed: int) -> None:
    """Its 64 values are 0.9 / 64 apart, so the nearest is half of that away; the ends are 0.007 from 0.1 and 1."""
    tensor = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    codes, scales = quantize(tensor, signed=True)
    back = dequantize(codes, scales, signed=True)
    largest = scales.repeat_interleave(BLOCK)[:count]
    top = tensor.abs() > 0.1 * largest
    assert bool(((back - tensor).abs()[top] <= 0.0072 * largest[top]).all())
    assert len(scales) == -(-count // BLOCK)


def test_blocks_do_not_see_each_other() -> None:
    values = torch.cat([torch.full((BLOCK,), 1e-20), torch.full((BLOCK,), 1e20), torch.zeros(5)])
    torch.testing.assert_close(dequantize(*quantize(values, True), signed=True), values, rtol=0, atol=0)


@pytest.mark.parametrize("signed", [True, False])
def test_every_value_of_the_table_comes_back(signed: bool) -> None:
    values = table(signed).view(16, 16)
    torch.testing.assert_close(dequantize(*quantize(values, signed), signed), values, rtol=0, atol=0)


def test_codes_without_their_scales_are_refused() -> None:
    codes, scales = quantize(torch.ones(BLOCK + 1), True)
    with pytest.raises(TrainingError, match="257 codes need 2 scales, not 1"):
        dequantize(codes, scales[:1], True)


def stepped(states: str, steps: int, size: int = 8192) -> tuple[Tensor, GaLoreAdamW]:
    weight = torch.zeros(size, requires_grad=True)
    target = torch.randn(size, generator=torch.Generator().manual_seed(0))
    optimizer = GaLoreAdamW([weight], lr=0.02, states=states)
    for step in range(steps):
        noise = torch.randn(size, generator=torch.Generator().manual_seed(step + 1))
        weight.grad = weight.detach() - target + 0.1 * noise
        optimizer.step()
    return weight.detach(), optimizer


def test_states_take_a_byte_and_a_64th_a_number() -> None:
    weight, optimizer = stepped("int8", 1)
    state = next(iter(optimizer.state.values()))
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    assert sum(value.numel() * value.element_size() for value in tensors) == 2 * (len(weight) + len(weight) // BLOCK * 4)


def test_small_tensors_stay_in_float32_and_are_listed() -> None:
    _, optimizer = stepped("int8", 1, 4095)
    assert next(iter(optimizer.state.values()))["exp_avg"].dtype == torch.float32
    assert "4095 numbers, fewer than 4096" in optimizer.fallbacks[0].reason
    assert stepped("int8", 1, 4096)[1].fallbacks == []


def test_8_bit_adamw_ends_where_float32_does() -> None:
    precise, compressed = (stepped(states, 150)[0] for states in ("float32", "int8"))
    target = torch.randn(8192, generator=torch.Generator().manual_seed(0))
    distances = [(weight - target).norm() / target.norm() for weight in (precise, compressed)]
    assert distances[1] < distances[0] + 0.02
    assert (compressed - precise).norm() < 0.05 * precise.norm()


def test_a_gradient_that_vanishes_does_not_make_a_step_explode() -> None:
    """With second moments rounded to 0 the step below would be a first moment over eps, 30 times Adam's largest."""
    weight = torch.zeros(4096, requires_grad=True)
    optimizer = GaLoreAdamW([weight], lr=1.0, states="int8", betas=(0.9, 0.99))
    gradient = torch.full((4096,), 3e-4)
    gradient[::BLOCK] = 1.0
    for _ in range(3):
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        optimizer.step()
        gradient[1::2] = 0.0
    assert bool(((weight - before).abs() <= 3).all())
