"""LARS: the published equation, timm's steps, and no ratio where a norm is zero or a parameter has one dimension."""

import copy
from typing import Any

import pytest
import torch
from continued_runs import assert_same, run_and_resumed_run, small_net, train
from hypothesis import given
from hypothesis import strategies as st
from timm_optimizers import timm_optimizer
from torch import nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.optim.lars import LARS


@given(decay=st.floats(0, 0.1), momentum=st.floats(0, 0.95), trust=st.floats(1e-4, 0.1), seed=st.integers(0, 99))
def test_steps_are_those_of_the_equation(decay: float, momentum: float, trust: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    w, g, h = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    p = nn.Parameter(w.clone())
    optimizer = LARS([p], lr=2.0, momentum=momentum, weight_decay=decay, trust=trust)
    m = torch.zeros_like(w)
    for gradient in (g, h, g):
        p.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(p.grad, gradient)
        q = trust * w.norm() / (gradient.norm() + decay * w.norm())
        m = momentum * m + q * (gradient + decay * w)
        w = w - 2.0 * m
    torch.testing.assert_close(p.detach(), w)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_steps_are_timms(decay: float) -> None:
    ours, theirs = small_net(), small_net()
    train(ours, LARS(ours.parameters(), lr=3.0, weight_decay=decay, trust=0.01), 0, 20)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "always_adapt": True, "weight_decay": decay},
        {"params": [p for p in theirs.parameters() if p.ndim == 1]},
    ]
    train(theirs, timm_optimizer("lars", "Lars")(groups, lr=3.0, momentum=0.9, trust_coeff=0.01, eps=0.0), 0, 20)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-10, atol=1e-12)


def test_biases_and_norms_get_plain_sgd_and_are_named() -> None:
    ours, theirs = small_net(), small_net()
    optimizer = LARS(ours.named_parameters(), lr=0.1, weight_decay=0.5)
    assert optimizer.plain == ("0.bias", "2.weight", "2.bias", "3.bias")
    assert LARS([nn.Parameter(torch.ones(3))]).plain == ("group 0, parameter 0, shape (3,)",)
    train(ours, optimizer, 0, 1)
    train(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9), 0, 1)
    assert_same(ours.state_dict()["2.weight"], theirs.state_dict()["2.weight"])


def test_a_group_may_refuse_the_ratio() -> None:
    ours, theirs = small_net(), small_net()
    optimizer = LARS([{"params": list(ours.parameters()), "adapt": False}], lr=0.1)
    assert len(optimizer.plain) == 6
    train(ours, optimizer, 0, 5)
    train(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9), 0, 5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize(("weight", "gradient"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_the_ratio_is_one_where_a_norm_is_zero(weight: float, gradient: float) -> None:
    p = nn.Parameter(torch.full((2, 2), weight))
    p.grad = torch.full((2, 2), gradient)
    LARS([p], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(p.detach(), torch.full((2, 2), weight - 0.5 * (gradient + 0.1 * weight)))


def test_the_step_does_not_depend_on_the_gradients_scale() -> None:
    ours, other = small_net(), copy.deepcopy(small_net())
    for net, scale in ((ours, 1.0), (other, 1000.0)):
        for p in net.parameters():
            p.grad = torch.ones_like(p) * scale
        LARS([p for p in net.parameters() if p.ndim > 1], lr=1.0).step()
    torch.testing.assert_close(ours.state_dict(), other.state_dict())


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, list[object]]:
        net = small_net()
        return net, LARS(net.parameters(), lr=1.0, weight_decay=0.01), []

    assert_same(*run_and_resumed_run(build, 5))


@pytest.mark.parametrize("option", [{"lr": -1.0}, {"momentum": 1.0}, {"weight_decay": -0.1}, {"trust": -1e-3}])
def test_bad_options_are_one_sentence(option: dict[str, float]) -> None:
    name, value = next(iter(option.items()))
    with pytest.raises(TrainingError, match=f"{name} is {value}"):
        LARS(small_net().parameters(), **option)


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TrainingError, match="LARS takes no sparse gradients"):
        LARS(table.parameters()).step()
