"""Momentum reset: after it Adam goes on as a new Adam would, and only for the parameters that were named."""

import copy

import pytest
import torch
from continued_runs import assert_same, run_and_resumed_run, small_net, train
from torch import nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.low_rank.momentum_reset import MomentumReset
from zkaudit.training.optim import moments
from zkaudit.training.optim.galore import GaLoreAdamW
from zkaudit.training.optim.lamb import LAMB


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, LAMB])
def test_after_a_reset_it_goes_on_as_a_new_optimizer(kind: type[torch.optim.Optimizer]) -> None:
    net = small_net()
    optimizer = kind(net.parameters(), lr=1e-2)
    MomentumReset(optimizer, every=4)
    train(net, optimizer, 0, 4)
    other = copy.deepcopy(net)
    train(net, optimizer, 4, 7)
    train(other, kind(other.parameters(), lr=1e-2), 4, 7)
    assert_same(net.state_dict(), other.state_dict())


def test_the_first_update_after_a_reset_moves_no_entry_by_more_than_the_learning_rate() -> None:
    net = small_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    MomentumReset(optimizer, every=50)
    train(net, optimizer, 0, 50)
    before = copy.deepcopy(net)
    train(net, optimizer, 50, 51)
    for p, old in zip(net.parameters(), before.parameters(), strict=True):
        assert float((p - old).detach().abs().max()) <= 1e-2 * (1 + 1e-9)


@pytest.mark.parametrize("states", ["int8", "fp8"])
def test_moments_in_8_bits_read_back_as_zero(states: str) -> None:
    net = nn.Linear(64, 80, bias=False)
    optimizer = GaLoreAdamW(net.parameters(), states=states)
    MomentumReset(optimizer, every=1)
    net(torch.ones(2, 64)).square().sum().backward()
    optimizer.step()
    state = optimizer.state[net.weight]
    for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
        assert not moments.kept(state, name, torch.float32, signed=signed).any()
    optimizer.step()
    assert net.weight.isfinite().all()


def test_parameters_that_are_not_named_keep_their_moments() -> None:
    net = small_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, amsgrad=True)
    MomentumReset(optimizer, every=2, parameters=[net[0].weight])
    train(net, optimizer, 0, 2)
    assert not any(optimizer.state[net[0].weight][key].any() for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"))
    assert optimizer.state[net[0].bias]["exp_avg"].any()
    assert float(optimizer.state[net[0].bias]["step"]) == 2


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, list[object]]:
        net = small_net()
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
        return net, optimizer, [MomentumReset(optimizer, every=3)]

    assert_same(*run_and_resumed_run(build, 5))


def test_it_stops_when_it_is_removed() -> None:
    net = small_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    reset = MomentumReset(optimizer, every=1)
    reset.remove()
    train(net, optimizer, 0, 2)
    assert optimizer.state[net[0].weight]["exp_avg"].any()


def test_an_optimizer_without_moments_is_refused_at_the_reset() -> None:
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9)
    MomentumReset(optimizer, every=2)
    with pytest.raises(TrainingError, match="SGD keeps no Adam moments"):
        train(net, optimizer, 0, 2)


def test_a_period_below_one_is_refused() -> None:
    with pytest.raises(TrainingError, match="every is 0"):
        MomentumReset(torch.optim.Adam(small_net().parameters()), every=0)
