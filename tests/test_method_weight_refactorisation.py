"""Weight refactorisation: the product stays, the factors are balanced, and first moments can be carried over exactly."""

import pytest
import torch
from continued_runs import assert_same, run_and_resumed_run, small_batch, small_net, train
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.low_rank.factorised import FactorisedLinear, low_rank
from zkaudit.training.low_rank.refactorisation import Refactorisation, refactorise
from zkaudit.training.optim.galore import GaLoreAdamW


@given(m=st.integers(4, 16), n=st.integers(4, 16), rank=st.integers(1, 3), skew=st.floats(0.01, 100))
def test_the_product_stays_and_the_factors_are_those_of_the_singular_value_decomposition(
    m: int, n: int, rank: int, skew: float
) -> None:
    torch.manual_seed(m + 31 * n)
    layer = FactorisedLinear(nn.Linear(n, m).double(), rank)
    with torch.no_grad():
        layer.A.copy_(torch.randn(rank, n) * skew)
        layer.B.copy_(torch.randn(m, rank))
    product, old = layer.dense_weight().detach().clone(), layer.A.detach().clone()
    change = refactorise(layer)
    torch.testing.assert_close(layer.dense_weight(), product)
    values = torch.linalg.svdvals(product)[:rank]
    torch.testing.assert_close(layer.B.T @ layer.B, torch.diag(values), rtol=1e-9, atol=1e-9 * float(values[0]))
    torch.testing.assert_close(layer.A @ layer.A.T, torch.diag(values), rtol=1e-9, atol=1e-9 * float(values[0]))
    torch.testing.assert_close(change @ old, layer.A.detach(), rtol=1e-7, atol=1e-9 * float(values[0]))


def test_doing_it_twice_changes_nothing_signs_included() -> None:
    layer = FactorisedLinear(nn.Linear(9, 7).double(), 3)
    refactorise(layer)
    once = layer.A.detach().clone(), layer.B.detach().clone()
    refactorise(layer)
    torch.testing.assert_close((layer.A.detach(), layer.B.detach()), once)


def gradients(net: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = small_batch()
    net.zero_grad()
    ((net(x) - y) ** 2).mean().backward()
    return net[0].A.grad.clone(), net[0].B.grad.clone()


def test_carried_first_moments_are_the_moments_of_the_new_factors_gradients() -> None:
    net = small_net()
    low_rank(net, 3, targets=["0"])
    with torch.no_grad():
        net[0].A.mul_(5)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.0)
    Refactorisation(net, optimizer, every=1, moments="carry")
    gradients(net)
    optimizer.step()  # moments of the old factors, carried by the hook
    after = gradients(net)
    for p, gradient in zip((net[0].A, net[0].B), after, strict=True):
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], 0.1 * gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("moments", "zero"), [("keep", False), ("carry", False), ("reset", True)])
def test_every_k_updates_and_only_then(moments: str, zero: bool) -> None:
    net = small_net()
    low_rank(net, 3)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    Refactorisation(net, optimizer, every=4, moments=moments)

    def balance() -> float:
        return float((net[0].B.T @ net[0].B - net[0].A @ net[0].A.T).detach().abs().max())

    train(net, optimizer, 0, 3)
    assert balance() > 1e-6
    train(net, optimizer, 3, 4)
    assert balance() < 1e-12
    assert bool((optimizer.state[net[0].A]["exp_avg"] == 0).all()) == zero
    assert bool((optimizer.state[net[0].bias]["exp_avg"] == 0).all()) is False
    train(net, optimizer, 4, 5)
    assert balance() > 1e-6


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, list[object]]:
        net = small_net()
        low_rank(net, 3)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
        return net, optimizer, [Refactorisation(net, optimizer, every=3, moments="carry")]

    assert_same(*run_and_resumed_run(build, 5))


def test_it_stops_when_it_is_removed() -> None:
    net = small_net()
    low_rank(net, 3)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    hook = Refactorisation(net, optimizer, every=1)
    train(net, optimizer, 0, 2)
    hook.remove()
    train(net, optimizer, 2, 4)
    assert hook.steps == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"every": 0}, "every is 0"), ({"moments": "drop"}, "moments is 'drop'"), (None, "no FactorisedLinear")],
)
def test_bad_options_are_one_sentence(options: dict[str, object] | None, sentence: str) -> None:
    net = small_net()
    if options is not None:
        low_rank(net, 3)
    with pytest.raises(TrainingError, match=sentence):
        Refactorisation(net, torch.optim.AdamW(net.parameters()), **(options or {}))


def test_first_moments_in_8_bits_cannot_be_carried() -> None:
    net = nn.Sequential(nn.Linear(1100, 1100, bias=False))
    low_rank(net, 4, targets=["0"])
    optimizer = GaLoreAdamW(net.parameters(), states="int8")
    Refactorisation(net, optimizer, every=1, moments="carry")
    net(torch.ones(1, 1100)).square().sum().backward()
    with pytest.raises(TrainingError, match="moments='carry' needs first moments"):
        optimizer.step()
