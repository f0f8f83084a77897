"""COAT's optimizer states: range expansion against the paper's equations, and AdamW with FP8 moments against torch's."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.fp8 import expansion
from zkaudit.training.fp8.expansion import Expanded, contract, expand
from zkaudit.training.fp8.states import METHOD, CoatAdamW


def spread(n: int, decades: float, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=source) * 10 ** (decades * (torch.rand(n, generator=source) - 0.5))


def by_hand(group: Tensor, steps: int = 16) -> Tensor:
    """A group stored and read by the paper's c, k and s, in float64 but for the rounding to E4M3."""
    x = group.double()
    most, least = float(x.abs().max()), float(x.abs().min())
    c = math.sqrt(most * least)
    k = math.floor(steps * math.log(448**2 / 2) / math.log(most / least)) / steps
    s = (most / c) ** k / 448
    stored = (x.sign() * (x.abs() / c) ** k / s).float().to(torch.float8_e4m3fn).double()
    return x.sign() * c * (stored.abs() * s) ** (1 / k)


@pytest.mark.parametrize("decades", [0.5, 2, 6, 12])
def test_one_pair_of_numbers_stores_what_the_papers_three_store(decades: float) -> None:
    values = spread(128 * 50, decades)
    expected = torch.cat([by_hand(group) for group in values.split(128)]).float()
    found = contract(expand(values))
    apart = (found - expected).abs() > 1e-4 * expected.abs()
    assert float(apart.float().mean()) < 1e-3  # where float32 and float64 fall on two sides of a tie


def test_the_largest_is_kept_exactly_and_the_smallest_not_lost() -> None:
    values = spread(128 * 50, 20)
    stored = expand(values)
    found = contract(stored).reshape(-1, 128)
    rows = values.reshape(-1, 128)
    assert torch.equal(found.abs().amax(1), rows.abs().amax(1))
    assert bool((found.sign() == rows.sign()).all())
    assert bool((stored.power * 16 == (stored.power * 16).round()).all())


@given(
    st.lists(st.floats(-(2.0**66), 2.0**66, width=32), min_size=1, max_size=300),
    st.sampled_from([32, 128]),
    st.sampled_from([1, 8, 16]),
)
def test_any_number_comes_back_within_an_fp8_step_of_its_power(numbers: list[float], group: int, steps: int) -> None:
    values = torch.tensor(numbers)
    stored = expand(values, group, steps)
    found = contract(stored, group)
    assert bool(found.isfinite().all())
    power = stored.power.repeat_interleave(group)[: len(numbers)]
    # A code is off by 1/16 of itself, or, where codes are subnormal, by half of two steps at most.
    share = found.abs() / values.abs()
    least = 0.74 ** (1 / power)
    kept = values.abs() > 2.0**-100
    wide_enough = power > 1 / steps
    assert bool((share >= least * 0.999)[kept & wide_enough].all())
    assert bool((share <= 1.26 ** (1 / power) * 1.001)[kept & wide_enough].all())
    assert bool((found[~kept] == 0).all())


@pytest.mark.parametrize("value", [0.0, 1.0, -3e-9, 7e20])
def test_a_group_of_equal_numbers_is_kept_exactly(value: float) -> None:
    values = torch.full((130,), value)
    stored = expand(values)
    assert bool(stored.power.isfinite().all())
    torch.testing.assert_close(contract(stored), values, rtol=1e-6, atol=0)


def test_zeros_stay_zeros_and_do_not_flatten_the_others() -> None:
    values = spread(128, 1)
    holed = torch.where(torch.arange(128) % 3 == 0, 0.0, values)
    stored = expand(holed)
    assert bool((contract(stored)[::3] == 0).all())
    assert float(stored.power) >= float(expand(values).power) > 1


def test_a_range_wider_than_fp8s_takes_a_power_below_one() -> None:
    values = torch.logspace(-18, 6, 128)
    stored = expand(values)
    assert 0 < float(stored.power) < 1
    found = contract(stored)
    assert bool((found > 0).all())
    assert bool((found.diff() >= 0).all())


def test_expansion_of_second_moments_errs_less_than_a_plain_scale() -> None:
    from zkaudit.training.fp8.codes import dequantize, quantize_groups

    squares = spread(128 * 40, 3).square().reshape(-1, 128)
    plain = dequantize(*quantize_groups(squares, 128), 128)
    ours = contract(expand(squares))
    inverse = squares.rsqrt()
    assert float(((ours + 1e-20).rsqrt() - inverse).norm()) < float(((plain + 1e-20).rsqrt() - inverse).norm())
    assert bool((plain == 0).any())  # these are the steps that blow up
    assert bool((ours > 0).all())


def a_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 48), nn.Tanh(), nn.Linear(48, 5))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        source = torch.Generator().manual_seed(step)
        x = torch.randn(32, 20, generator=source)
        loss = (model(x) - x[:, :5].sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_parameters_kept_in_full_precision_move_as_in_torchs_adamw() -> None:
    ours, theirs = a_model(), a_model()
    train(ours, CoatAdamW(ours.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, smallest=10**9), 0, 20)
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, foreach=False), 0, 20)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_the_first_step_is_torchs_since_nothing_was_stored_yet() -> None:
    ours, theirs = a_model(), a_model()
    train(ours, CoatAdamW(ours.parameters(), smallest=0), 0, 1)
    train(theirs, torch.optim.AdamW(theirs.parameters(), foreach=False), 0, 1)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


def test_a_later_step_is_adamw_on_the_stored_moments() -> None:
    model = a_model()
    optimizer = CoatAdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, smallest=0)
    train(model, optimizer, 0, 5)
    weight = model[0].weight
    before, state = weight.detach().double().clone(), optimizer.state[weight]
    names = ("exp_avg", "exp_avg_sq")
    stored = [Expanded(state[name], state[f"{name}_largest"], state[f"{name}_power"]) for name in names]
    m, v = (contract(moment).double() for moment in stored)
    train(model, optimizer, 5, 6)
    gradient = weight.grad.double()
    m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
    expected = before * (1 - 1e-3) - 1e-2 * (m / (1 - 0.9**6)) / ((v / (1 - 0.95**6)).sqrt() + 1e-8)
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-7)


def test_losses_stay_with_adamws() -> None:
    ours, theirs = a_model(), a_model()
    found = train(ours, CoatAdamW(ours.parameters(), lr=3e-3, betas=(0.9, 0.95), smallest=0), 0, 150)
    expected = train(theirs, torch.optim.AdamW(theirs.parameters(), lr=3e-3, betas=(0.9, 0.95)), 0, 150)
    assert sum(found[-20:]) == pytest.approx(sum(expected[-20:]), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("saved", [False, True])
def test_a_run_continues_from_its_saved_states_bit_for_bit(dtype: torch.dtype, saved: bool) -> None:
    model = nn.ParameterList([nn.Parameter(spread(5000, 1).to(dtype)), nn.Parameter(spread(7, 1, 1).to(dtype))])
    gradients = [[spread(p.numel(), 4, 10 * step + i).to(dtype) for i, p in enumerate(model)] for step in range(6)]

    def go(parameters: nn.ParameterList, optimizer: CoatAdamW, steps: range) -> None:
        for step in steps:
            for p, gradient in zip(parameters, gradients[step], strict=True):
                p.grad = gradient.clone()
            optimizer.step()

    optimizer = CoatAdamW(model, lr=1e-2)
    go(model, optimizer, range(3))
    again, kept = copy.deepcopy(model), optimizer.state_dict()
    if saved:
        file = io.BytesIO()
        torch.save(kept, file)
        file.seek(0)
        kept = torch.load(file, weights_only=True)
    other = CoatAdamW(again)
    other.load_state_dict(kept)
    go(model, optimizer, range(3, 6))
    go(again, other, range(3, 6))
    for p, q in zip(model, again, strict=True):
        assert torch.equal(p, q)
        for key, value in optimizer.state[p].items():
            found = other.state[q][key]
            if isinstance(value, Tensor):
                assert value.dtype == found.dtype
                assert torch.equal(value.view(torch.uint8), found.view(torch.uint8))
            else:
                assert value == found


def test_states_take_two_bytes_a_number_and_a_sixteenth_for_each_moments_groups() -> None:
    parameter = nn.Parameter(torch.randn(256, 128))
    parameter.grad = torch.randn(256, 128)
    optimizer = CoatAdamW([parameter])
    optimizer.step()
    tensors = [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
    assert sum(t.numel() * t.element_size() for t in tensors) == 256 * 128 * (2 + 2 * 8 / 128)


def test_small_parameters_keep_float32_and_are_listed() -> None:
    model = a_model()
    optimizer = CoatAdamW(model.parameters(), smallest=241)
    train(model, optimizer, 0, 1)
    small = [p for p in model.parameters() if p.numel() < 241]
    assert [id(p) for p in optimizer.full_precision] == [id(p) for p in small]
    assert len(small) == 3
    assert all(optimizer.state[p]["exp_avg"].dtype == torch.float32 for p in small)
    assert optimizer.state[model[0].weight]["exp_avg"].dtype == torch.float8_e4m3fn


def test_a_schedule_of_the_learning_rate_reaches_the_steps() -> None:
    parameter = nn.Parameter(torch.ones(8))
    optimizer = CoatAdamW([parameter], lr=1.0, weight_decay=0.0, smallest=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    for _ in range(2):
        parameter.grad = torch.ones(8)
        before = parameter.detach().clone()
        optimizer.step()
        schedule.step()
    assert torch.equal(parameter, before)
    assert not torch.equal(parameter, torch.ones(8))


def test_a_closure_is_evaluated_with_gradients() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = CoatAdamW([parameter])

    def closure() -> float:
        loss = parameter.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 3.0
    assert bool((parameter < 1).all())


@pytest.mark.parametrize(
    ("option", "value"),
    [("lr", -1.0), ("betas", (0.9, 1.0)), ("eps", -1e-8), ("weight_decay", -0.1), ("group", 0), ("steps", 0)],
)
def test_options_out_of_range_are_named(option: str, value: object) -> None:
    with pytest.raises(TrainingError, match=option):
        CoatAdamW([nn.Parameter(torch.ones(2))], **{option: value})  # type: ignore[arg-type]


def test_sparse_gradients_are_refused() -> None:
    layer = nn.Embedding(10, 3, sparse=True)
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(TrainingError, match="dense"):
        CoatAdamW(layer.parameters()).step()


def test_the_method_says_where_it_is() -> None:
    assert METHOD.name == "coat-states"
    assert METHOD.where == f"{CoatAdamW.__module__}.{CoatAdamW.__name__}"
    assert pytest.approx(math.log2(448 * 448 / 2)) == expansion.RANGE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda sees no GPU")
def test_a_run_on_a_gpu_stays_with_the_run_on_a_cpu() -> None:
    here, there = a_model(), a_model().cuda()
    options = {"lr": 3e-3, "betas": (0.9, 0.95), "smallest": 0}
    ours, theirs = CoatAdamW(there.parameters(), **options), CoatAdamW(here.parameters(), **options)  # type: ignore[arg-type]
    for step in range(30):
        x = torch.randn(32, 20, generator=torch.Generator().manual_seed(step))
        for model, optimizer, data in ((here, theirs, x), (there, ours, x.cuda())):
            loss = (model(data) - data[:, :5].sin()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for p, q in zip(here.parameters(), there.parameters(), strict=True):
        assert float((p - q.cpu()).norm() / p.norm()) < 0.02
    codes = [state["exp_avg"] for state in ours.state.values()]
    assert all(code.is_cuda and code.dtype == torch.float8_e4m3fn for code in codes)
